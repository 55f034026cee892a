"""Decoding: sound and picture in step, whatever was lost, and pictures as FFmpeg's players show them."""

import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from avrobust_data.configs import ClipsConfig
from avrobust_data.decoding import decode
from avrobust_data.faults import MediaError
from avrobust_data.picture_collector import PictureCollector
from avrobust_data.sound_collector import SoundCollector
from avrobust_data.windows import Window


def reading(
    *,
    seconds: float,
    sample_rate: int | None = None,
    frames: int | None = None,
    size: int = 32,
    centre: bool = True,
    stretch: bool = False,
) -> ClipsConfig:
    """How a file is read: its sound if there is a sample rate, its pictures if there is a number of them."""
    asked = {"audio": ("sample_rate", sample_rate), "video": ("frames", frames)}
    modalities = [name for name, (_, value) in asked.items() if value is not None]
    crop, resize = "centre" if centre else "start", "stretch" if stretch else "crop"
    fields = {"seconds": seconds, "size": size, "window": crop, "resize": resize, "modalities": modalities}
    return ClipsConfig(manifest=Path("m.csv"), **fields, **{key: value for key, value in asked.values() if value})


EVENTS = (0.5, 1.5, 2.5)
"""When a flash and a tone begin together, in seconds; each lasts a fifth of one."""

LENGTH = 3.0

Lost = Callable[[float], bool]


def happens(t: np.ndarray) -> np.ndarray:
    return np.any([(t >= event) & (t < event + 0.2) for event in EVENTS], axis=0)


def record(path: Path, video_codec: str, audio_codec: str, rate: int, lost: Lost, twice: Lost | None = None) -> Path:
    """A recording of the events at 25 pictures per second, without the packets of sound that are lost."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(audio_codec, rate=rate, layout="mono")
        packets = []
        for number, on in enumerate(happens(np.arange(round(25 * LENGTH)) / 25)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255 * on, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        t = np.arange(round(rate * LENGTH)) / rate
        tone = np.where(happens(t), 0.8 * np.sin(2 * np.pi * 800 * t), 0).astype(np.float32)
        resampler = av.AudioResampler(
            audio.codec_context.format, "mono", rate, frame_size=audio.codec_context.frame_size or 512
        )
        whole = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
        whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
        heard = [
            packet
            for frame in [*resampler.resample(whole), *resampler.resample(None)]
            for packet in audio.encode(frame)
        ]
        heard += audio.encode(None)
        packets += [packet for packet in heard if not lost(float(packet.pts * packet.time_base))]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def onsets(strength: np.ndarray, threshold: float, rate: float) -> list[float]:
    """When something begins after a third of a second without it, in seconds."""
    at = np.flatnonzero(strength > threshold) / rate
    return [float(t) for t, before in zip(at, [-np.inf, *at[:-1]], strict=True) if t - before > 0.33]


def between(*spans: tuple[float, float]) -> Lost:
    return lambda t: any(start <= t < stop for start, stop in spans)


LOSSES = {
    "nothing": between(),
    "the start": between((-1, 0.4)),
    "a long stretch": between((0.8, 1.4)),
    "three stretches": between((0.2, 0.4), (0.9, 1.3), (1.9, 2.4)),
    "single packets": between((0.8, 0.83), (1.0, 1.03), (1.2, 1.23)),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("suffix", "video_codec", "audio_codec", "rate"),
    [
        ("mp4", "libx264", "aac", 44100),
        ("mkv", "libx264", "aac", 16000),
        ("mkv", "mpeg4", "pcm_s16le", 16000),
        ("webm", "libvpx", "libopus", 48000),
        ("ts", "libx264", "aac", 48000),
        ("flv", "flv", "libmp3lame", 44100),
    ],
)
def test_lost_sound_is_silence_and_what_follows_is_in_step(
    tmp_path, suffix, video_codec, audio_codec, rate, loss
) -> None:
    path = record(tmp_path / f"lost.{suffix}", video_codec, audio_codec, rate, LOSSES[loss])
    for centre in (False, True):
        found = decode(path, reading(seconds=LENGTH, sample_rate=16000, frames=150, size=8, centre=centre))
        seen = onsets(found["video"].mean((0, 2, 3)), 128, 50)
        heard = onsets(np.abs(found["audio"][0]), 0.25, 16000)
        assert len(seen) == len(EVENTS)
        assert heard == pytest.approx(seen, abs=0.04)
    if loss == "a long stretch":
        start = round(16000 * (seen[0] + 0.5))
        assert np.abs(found["audio"][0, start : start + 3200]).max() < 1e-3


def test_sound_is_joined_without_a_seam_where_timestamps_are_rounded(tmp_path, media) -> None:
    t = np.arange(48000) / 16000
    sound = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)[None]
    plain = media(tmp_path / "plain.wav", sound=sound, audio_codec="pcm_f32le")
    rounded = media(tmp_path / "rounded.mkv", sound=sound, audio_codec="pcm_f32le")  # to whole milliseconds
    window = reading(seconds=3.0, sample_rate=16000)
    assert np.array_equal(decode(plain, window)["audio"], decode(rounded, window)["audio"])


def feed(starts: list[int], sample_rate: int = 16000) -> SoundCollector:
    """A collector for 0.4 s that was given tenths of a second of a ramp, each at its place in time."""
    ramp = np.linspace(-0.5, 0.5, sample_rate, dtype=np.float32)
    collector = SoundCollector(None, Window(0.0, 0.4, None, 0.0, 0.0), 6400, 16000)
    for start in starts:
        piece = ramp.take(range(start, start + sample_rate // 10), mode="wrap")
        frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        collector.add(frame)
    return collector


def test_what_is_written_twice_is_heard_once() -> None:
    once = feed([0, 1600, 3200, 4800]).finish()
    assert np.array_equal(once[0], np.linspace(-0.5, 0.5, 16000, dtype=np.float32)[:6400])
    assert np.array_equal(feed([0, 1600, 3200, 1600, 3200, 4800]).finish(), once)


def test_timestamps_that_begin_anew_are_refused() -> None:
    with pytest.raises(MediaError, match=r"timestamps of its sound go back from 2\.10 to 0\.00 s; rewrite it"):
        feed([0, 32000, 0])
    stream = SimpleNamespace(
        average_rate=Fraction(25), start_time=0, time_base=Fraction(1, 25), sample_aspect_ratio=Fraction(1)
    )
    collector = PictureCollector(stream, Window(0.0, 4.0, None, 0.0, 0.0), 8, size=8, stretch=True)
    frames = [av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24") for _ in range(3)]
    for frame, pts in zip(frames, (0, 50, 0), strict=True):
        frame.pts, frame.time_base = pts, Fraction(1, 25)
    collector.add(frames[0])
    collector.add(frames[1])
    with pytest.raises(MediaError, match=r"timestamps of its picture go back from 2\.04 to 0\.00 s"):
        collector.add(frames[2])


def test_sound_that_changes_its_rate_goes_on(tmp_path) -> None:
    path = tmp_path / "change.mp2"
    data = b""
    for rate in (48000, 32000):
        part = tmp_path / f"{rate}.mp2"
        with av.open(str(part), "w") as container:
            audio = container.add_stream("mp2", rate=rate, layout="mono")
            wave = (16000 * np.sin(2 * np.pi * 440 * np.arange(rate // 1152 * 1152) / rate)).astype(np.int16)
            for start in range(0, len(wave), 1152):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1152], format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        data += part.read_bytes()
    path.write_bytes(data)
    heard = decode(path, reading(seconds=1.8, sample_rate=16000, centre=False))["audio"][0]
    for start in (2000, 18000):
        spectrum = np.abs(np.fft.rfft(heard[start : start + 8000]))
        assert spectrum.argmax() * 2 == 440


def test_empty_packets_show_the_last_picture_again(tmp_path) -> None:
    path = tmp_path / "empty.nut"  # Theora has such packets, too
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuvj420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in video.encode(frame):
                empty = av.Packet(b"")
                empty.pts, empty.dts, empty.time_base, empty.stream = packet.pts, packet.dts, packet.time_base, video
                container.mux(empty if number in (3, 4, 8, 9) else packet)
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        assert [packet.size == 0 for packet in container.demux()].count(True) == 5  # and the one behind the last
    grey = decode(path, reading(seconds=1.0, frames=10, size=8))["video"].mean((0, 2, 3))
    assert np.allclose(grey / 20, [0, 1, 2, 2, 2, 5, 6, 7, 7, 7], atol=0.1)
    late = decode(path, reading(seconds=0.1, frames=1, size=8, centre=True))["video"]
    assert late.mean() == pytest.approx(80 / 2, abs=2)


ORIENTATIONS = {
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "a quarter to the right": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "upside down": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "a quarter to the left": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "top to bottom": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    "transposed and upside down": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
    "larger": ((2, 0, 0, 2), lambda x: x),
    "not filled in": ((0, 0, 0, 0), lambda x: x),
}


def turned(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 with one track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(value * 0x10000) for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    return path


def as_ffmpeg_shows(path: Path, size: int) -> np.ndarray:
    """The first picture as the program shows it: (S, S, 3)."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-vf", f"scale={size}:{size}"]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(size, size, 3)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_and_mirrored_as_their_container_says(tmp_path, media, orientation) -> None:
    matrix, shown = ORIENTATIONS[orientation]
    blocks = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    pictures = np.kron(blocks, np.ones((16, 16, 1), np.uint8))[None].repeat(4, 0)
    path = turned(media(tmp_path / "phone.mp4", pictures=pictures, fps=4, pixel_format="yuv444p"), matrix)
    found = decode(path, reading(seconds=1.0, frames=1, size=64))["video"][:, 0].transpose(1, 2, 0).astype(int)
    assert np.abs(found - shown(pictures[0])).mean() < 6
    if shutil.which("ffmpeg"):
        assert np.abs(found - as_ffmpeg_shows(path, 64)).mean() < 2


def test_pictures_at_an_angle_are_refused(tmp_path, media) -> None:
    path = media(tmp_path / "phone.mp4", pictures=np.zeros((4, 32, 32, 3), np.uint8), fps=4)
    with pytest.raises(MediaError, match="turned by less than a quarter"):
        decode(turned(path, (0.7, 0.7, -0.7, 0.7)), reading(seconds=1.0, frames=1, size=16))


def columns(path: Path) -> str:
    """The colours at the left, in the middle and at the right of the central square."""
    row = decode(path, reading(seconds=1.0, frames=1, size=64))["video"][:, 0, 32]
    return "".join("RGB"[int(row[:, x].argmax())] for x in (4, 32, 60))


STRIPES = np.zeros((8, 64, 64, 3), np.uint8)
STRIPES[:, :, :16, 0] = STRIPES[:, :, 16:48, 1] = STRIPES[:, :, 48:, 2] = 255


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("mov", "mjpeg")])
@pytest.mark.parametrize("aspect", [1, 2])
def test_pixels_are_as_wide_as_the_container_says(tmp_path, suffix, codec, aspect) -> None:
    path = tmp_path / f"wide.{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=8)
        video.width = video.height = 64
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.open()
        video.codec_context.sample_aspect_ratio = Fraction(aspect, 1)  # too late for what the codec writes
        packets = []
        for number, picture in enumerate(STRIPES):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            packets += video.encode(frame)
        container.mux([*packets, *video.encode(None)])
    assert columns(path) == ("RGB" if aspect == 1 else "GGG")


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [("webm", "libvpx-vp9", "yuv420p"), ("mkv", "ffv1", "yuv444p"), ("mkv", "libx264", "yuv420p")],
)
def test_pixels_are_as_wide_as_matroska_says(tmp_path, media, suffix, codec, pixels) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the program ffmpeg")
    square = media(tmp_path / f"square.{suffix}", pictures=STRIPES, fps=8, video_codec=codec, pixel_format=pixels)
    for aspect, wanted in (("1:1", "RGB"), ("2:1", "GGG"), ("200:1", None)):
        path = tmp_path / f"wide.{suffix}"
        command = ["ffmpeg", "-v", "error", "-y", "-i", square, "-c", "copy", "-aspect", aspect, path]
        subprocess.run(command, capture_output=True, check=True)
        if wanted:
            assert columns(path) == wanted
        else:
            with pytest.raises(MediaError, match="its pixels are said to be 200 times as wide as high"):
                columns(path)


def test_a_picture_that_ends_long_before_the_sound_is_refused(tmp_path, media) -> None:
    sound = (0.5 * np.sin(np.arange(64000) / 10)).astype(np.float32)[None]
    window = reading(seconds=4.0, sample_rate=16000, frames=8, size=16)
    for count, refused in ((8, True), (14, True), (18, False), (30, False), (1, False)):
        pictures = np.zeros((count, 32, 32, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
        path = media(tmp_path / f"{count}.mkv", sound=sound, pictures=pictures, fps=8)
        if refused:
            with pytest.raises(MediaError, match=r"its picture ends at \d\.\d+ s, its sound at \d\.\d+ s or later"):
                decode(path, window)
        else:
            assert decode(path, window)["video"].shape == (3, 8, 16, 16)
    both = media(tmp_path / "both.mkv", sound=sound[:, :16000], pictures=pictures.repeat(8, 0), fps=8)
    decode(both, window)  # a short file, not a picture cut off
