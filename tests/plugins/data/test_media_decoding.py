"""Decoding: the right samples and pictures, or one sentence that says why not."""

import os
import random
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_data.configs import ClipsConfig
from avrobust_data.decoding import decode
from avrobust_data.faults import MediaError


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


BOTH = reading(seconds=1.0, sample_rate=16000, frames=16, size=32)
MARGIN = 2000


def sine(hertz: float, amplitude: float, rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return np.tile((amplitude * np.sin(2 * np.pi * hertz * t)).astype(np.float32), (channels, 1))


def solid(colour: tuple[int, int, int], count: int = 8, height: int = 32, width: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (count, height, width, 3)).copy()


def counting(count: int, step: int, size: int = 32) -> np.ndarray:
    """Picture i is grey at i * step."""
    return np.broadcast_to(
        (np.arange(count) * step).astype(np.uint8)[:, None, None, None], (count, size, size, 3)
    ).copy()


@pytest.mark.parametrize(
    ("rate", "channels", "codec", "suffix", "wanted"),
    [
        (44100, 2, "aac", "mp4", 16000),
        (44100, 2, "pcm_f32le", "wav", 16000),
        (16000, 1, "aac", "mp4", 16000),
        (22050, 1, "pcm_s16le", "wav", 8000),
        (8000, 1, "pcm_f32le", "wav", 16000),
        (48000, 1, "flac", "flac", 16000),
    ],
)
def test_a_known_tone_keeps_its_pitch_phase_and_amplitude(
    tmp_path, media, rate, channels, codec, suffix, wanted
) -> None:
    path = media(tmp_path / f"tone.{suffix}", sound=sine(440, 0.5, rate, 1.0, channels), rate=rate, audio_codec=codec)
    heard = decode(path, reading(seconds=1.0, sample_rate=wanted))["audio"]
    assert heard.shape == (1, wanted)
    assert heard.dtype == np.float32
    middle = slice(wanted // 8, -wanted // 8)
    error = heard[0, middle] - sine(440, 0.5, wanted, 1.0)[0, middle]
    assert np.abs(error).max() < 0.02  # a shift by one sample at 16 kHz would be 0.086


def test_the_resampler_gives_up_its_last_samples(tmp_path, media) -> None:
    path = media(tmp_path / "full.wav", sound=np.full((1, 44100), 0.5, np.float32), rate=44100, audio_codec="pcm_f32le")
    heard = decode(path, reading(seconds=1.0, sample_rate=16000))["audio"][0]
    assert heard[-4:].min() > 0.2
    assert heard[100:-100] == pytest.approx(0.5, abs=1e-3)


def test_channels_are_averaged_not_summed(tmp_path, media) -> None:
    left = sine(440, 0.8, 16000, 1.0)
    path = media(tmp_path / "left.wav", sound=np.concatenate([left, 0 * left]), audio_codec="pcm_f32le")
    assert np.abs(decode(path, reading(seconds=1.0, sample_rate=16000))["audio"]).max() == pytest.approx(0.4, abs=1e-3)


def test_overshoot_is_clamped(tmp_path, media) -> None:
    square = np.sign(sine(100, 1.0, 16000, 1.0)).astype(np.float32)
    path = media(tmp_path / "loud.mp4", sound=square)
    with av.open(str(path)) as container:
        raw = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert np.abs(raw).max() > 1  # AAC does overshoot here
    assert np.abs(decode(path, reading(seconds=1.0, sample_rate=16000))["audio"]).max() == 1


@pytest.mark.parametrize("colour", [(200, 30, 40), (20, 220, 60), (10, 40, 230), (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("mpeg4", "yuv420p", "mp4"),
        ("libx264", "yuv444p", "mkv"),
        ("mjpeg", "yuvj420p", "avi"),
    ],
)
def test_colours_are_kept_in_order_and_range(tmp_path, media, colour, codec, pixels, suffix) -> None:
    path = media(tmp_path / f"colour.{suffix}", pictures=solid(colour), fps=8, video_codec=codec, pixel_format=pixels)
    video = decode(path, reading(seconds=1.0, frames=4, size=16))["video"]
    assert video.shape == (3, 4, 16, 16)
    assert video.dtype == np.uint8
    assert np.abs(video.astype(int) - np.array(colour)[:, None, None, None]).max() <= 4


def test_pictures_are_sampled_evenly_over_the_window(tmp_path, media) -> None:
    path = media(tmp_path / "count.mp4", pictures=counting(24, 10), fps=12)
    grey = decode(path, reading(seconds=2.0, frames=8, size=8))["video"].mean((0, 2, 3))
    assert np.allclose(grey, [10 * (3 * i + 1) for i in range(8)], atol=4)  # (i + 1/2) / 8 of 24 pictures


def test_timestamps_decide_not_picture_numbers(tmp_path, media) -> None:
    # ten pictures in the first half second, then two of a quarter of a second each
    at_ms = [*range(0, 500, 50), 500, 750]
    path = media(tmp_path / "variable.mp4", pictures=counting(12, 20), at_ms=at_ms, fps=20)
    grey = decode(path, reading(seconds=1.0, frames=10, size=8, centre=False))["video"].mean((0, 2, 3))
    wanted = [20 * max(i for i, ms in enumerate(at_ms) if ms <= 1000 * (n + 0.5) / 10) for n in range(10)]
    assert np.allclose(grey, wanted, atol=4)


def test_sound_and_picture_are_cropped_to_the_same_window(tmp_path, media) -> None:
    loud_from_2_to_3 = sine(440, 0.5, 16000, 5.0)
    loud_from_2_to_3[:, : 2 * 16000] = 0
    loud_from_2_to_3[:, 3 * 16000 :] = 0
    path = media(tmp_path / "long.mp4", sound=loud_from_2_to_3, pictures=counting(50, 5), fps=10)
    centre = decode(path, reading(seconds=1.0, sample_rate=16000, frames=10, size=8))
    assert np.abs(centre["audio"][0, MARGIN:-MARGIN]).max() > 0.4
    assert centre["audio"].std() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert np.allclose(centre["video"].mean((0, 2, 3)), 5 * np.arange(20, 30), atol=5 + 4)
    start = decode(path, reading(seconds=1.0, sample_rate=16000, frames=10, size=8, centre=False))
    assert np.abs(start["audio"]).max() < 0.01
    assert np.allclose(start["video"].mean((0, 2, 3)), 5 * np.arange(10), atol=4)


@pytest.mark.parametrize(("suffix", "codec"), [("aac", "aac"), ("mp3", "libmp3lame"), ("ac3", "ac3"), ("mp2", "mp2")])
def test_the_centre_is_that_of_the_file_not_of_a_length_guessed_from_its_rate_of_bits(tmp_path, suffix, codec) -> None:
    path = tmp_path / f"guessed.{suffix}"
    data, t = b"", np.arange(48000) / 48000
    for number, bit_rate in enumerate((64000, 64000, 320000)):  # FFmpeg takes the first one's for that of all
        part = tmp_path / f"{number}.{suffix}"
        with av.open(str(part), "w", options={"write_xing": "0"} if suffix == "mp3" else {}) as container:
            audio = container.add_stream(codec, rate=48000, layout="mono" if codec != "mp2" else "stereo")
            audio.bit_rate = bit_rate
            resampler = av.AudioResampler(
                audio.codec_context.format, audio.layout, 48000, frame_size=audio.codec_context.frame_size or 1536
            )
            tone = (0.5 * np.sin(2 * np.pi * 440 * (number + 1) * t)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.tile(tone, 4)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
        data += part.read_bytes()
    path.write_bytes(data)  # 12 s: the middle second is of 880 Hz
    heard = decode(path, reading(seconds=1.0, sample_rate=16000))["audio"][0]
    assert np.abs(np.fft.rfft(heard)).argmax() == 880


def test_a_shorter_file_ends_in_silence_and_its_last_picture(tmp_path, media) -> None:
    path = media(tmp_path / "short.mp4", sound=sine(440, 0.5, 16000, 1.0), pictures=counting(8, 20), fps=8)
    long = decode(path, reading(seconds=3.0, sample_rate=16000, frames=12, size=8))
    assert np.abs(long["audio"][0, 1000:15000]).max() > 0.4
    assert np.abs(long["audio"][0, 17500:]).max() == 0
    assert np.allclose(long["video"].mean((0, 2, 3))[4:], 140, atol=4)
    assert long.padded == {"audio": pytest.approx(2 / 3, abs=0.03), "video": 8 / 12}
    assert decode(path, reading(seconds=1.0, sample_rate=16000, frames=12, size=8)).padded == {}
    assert "audio" not in decode(path, reading(seconds=1.05, sample_rate=16000, frames=12, size=8)).padded
    part = decode(path, reading(seconds=0.5, sample_rate=16000, frames=4, size=8), begin=0.25, end=0.5)
    assert part.padded == {"audio": 0.5, "video": 0.5}


def test_sound_that_starts_late_stays_late(tmp_path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        packets = []
        for i in range(16):
            frame = av.VideoFrame.from_ndarray(solid((9, 9, 9), 1)[0], format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 8)
            packets += video.encode(frame)
        packets += video.encode(None)
        tone = av.AudioFrame.from_ndarray(np.full((1, 8000), 16384, np.int16), format="s16", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = 8000, 8000, Fraction(1, 8000)
        packets += [*audio.encode(tone), *audio.encode(None)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    heard = decode(path, reading(seconds=2.0, sample_rate=8000, frames=2, size=8))["audio"][0]
    assert np.abs(heard[:8000]).max() == 0
    assert np.allclose(heard[8000:], 0.5)


@pytest.mark.parametrize(("height", "width"), [(33, 47), (17, 90), (121, 35), (16, 16), (200, 300)])
@pytest.mark.parametrize("stretch", [False, True])
def test_any_size_becomes_a_square(tmp_path, media, height, width, stretch) -> None:
    pictures = solid((128, 128, 128), 4, height, width)
    edge = max(height, width) // 4
    if height > width:
        pictures[:, :edge] = (255, 0, 0)
        pictures[:, -edge:] = (0, 0, 255)
    elif width > height:
        pictures[:, :, :edge] = (255, 0, 0)
        pictures[:, :, -edge:] = (0, 0, 255)
    # an odd size needs a format without subsampled colour
    path = media(tmp_path / "odd.mkv", pictures=pictures, fps=4, pixel_format="yuv444p")
    video = decode(path, reading(seconds=1.0, frames=2, size=24, stretch=stretch))["video"].astype(int)
    assert video.shape == (3, 2, 24, 24)
    if max(height, width) >= 2 * min(height, width):  # the coloured quarters lie outside the central square
        coloured = np.abs(video - 128).max() > 60
        assert coloured == stretch
    assert np.abs(video[:, :, 12, 12] - 128).max() < 12


def rotate(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 with one track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((1, 0, 0, 1), (0, 0)), ((0, 1, -1, 0), (0, 1)), ((-1, 0, 0, -1), (1, 1)), ((0, -1, 1, 0), (1, 0))],
)
def test_rotated_recordings_are_turned_upright(tmp_path, media, matrix, corner) -> None:
    pictures = solid((0, 0, 0), 4, 64, 64)
    pictures[:, :32, :32] = 255  # stored top left; turned clockwise it is top right
    path = rotate(media(tmp_path / "phone.mp4", pictures=pictures, fps=4), matrix)
    video = decode(path, reading(seconds=1.0, frames=2, size=16))["video"].mean((0, 1))
    quarters = video.reshape(2, 8, 2, 8).mean((1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
    assert quarters.max() > 200


def test_one_modality_is_enough_if_the_other_is_not_asked_for(tmp_path, media, ordinary) -> None:
    heard = media(tmp_path / "heard.mp4", sound=sine(440, 0.5, 16000, 1.0))
    seen = media(tmp_path / "seen.mp4", pictures=solid((9, 9, 9)))
    assert decode(heard, reading(seconds=1.0, sample_rate=16000)).keys() == {"audio"}
    assert decode(seen, reading(seconds=1.0, frames=4, size=8)).keys() == {"video"}
    assert decode(ordinary, BOTH).keys() == {"audio", "video"}
    with pytest.raises(MediaError, match=r"it has no picture \(.*heard\.mp4\)"):
        decode(heard, BOTH)
    with pytest.raises(MediaError, match=r"it has no sound \(.*seen\.mp4\)"):
        decode(seen, BOTH)


def test_cover_art_is_no_moving_picture(tmp_path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("libmp3lame", rate=16000, layout="mono")
        art = container.add_stream("png", rate=1)
        art.width, art.height, art.pix_fmt = 16, 16, "rgb24"
        art.disposition = av.stream.Disposition.attached_pic.value
        container.start_encoding()
        frame = av.AudioFrame.from_ndarray(sine(440, 0.5, 16000, 1.0), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*art.encode(av.VideoFrame.from_ndarray(solid((9, 9, 9), 1, 16, 16)[0])), *art.encode(None)]:
            container.mux(packet)
        for packet in [*audio.encode(frame), *audio.encode(None)]:
            container.mux(packet)
    with pytest.raises(MediaError, match="only cover art"):
        decode(path, BOTH)
    assert decode(path, reading(seconds=1.0, sample_rate=16000))["audio"].std() > 0.2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8])
def test_a_truncated_file_is_refused(tmp_path, media, suffix, share) -> None:
    rng = np.random.default_rng(0)
    whole = media(
        tmp_path / f"whole.{suffix}",
        sound=rng.uniform(-0.5, 0.5, (1, 32000)).astype(np.float32),
        pictures=rng.integers(0, 255, (32, 32, 32, 3), dtype=np.uint8),
        options={"movflags": "faststart"} if suffix == "mp4" else {},
    )
    window = reading(seconds=2.0, sample_rate=16000, frames=8, size=16)
    decode(whole, window)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"cut\."):
        decode(cut, window)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("wav", "pcm_s16le")])
def test_even_a_cut_of_a_few_bytes_is_refused_where_packets_state_their_size(tmp_path, media, suffix, codec) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 32000)).astype(np.float32)
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    whole = media(tmp_path / f"whole.{suffix}", sound=noise, audio_codec=codec, options=options)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:-100])
    decode(whole, reading(seconds=2.0, sample_rate=16000))
    with pytest.raises(MediaError, match="a packet is incomplete"):
        decode(cut, reading(seconds=2.0, sample_rate=16000))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("wav", "pcm_s16le"),
        ("flac", "flac"),
        ("ogg", "libopus"),
        ("oga", "flac"),
        ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("mka", "pcm_s16le"),
        ("wv", "wavpack"),
    ],
)
def test_cut_sound_is_refused_where_the_file_tells_its_length(tmp_path, media, suffix, codec, share) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 96000)).astype(np.float32)
    whole = media(tmp_path / f"whole.{suffix}", sound=noise, rate=48000, audio_codec=codec)
    window = reading(seconds=2.0, sample_rate=16000)
    assert np.abs(decode(whole, window)["audio"][0, -800:]).max() > 0.1
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(MediaError, match=r"cut short|cannot be decoded|damaged"):
        decode(cut, window)


def test_an_mp3_that_does_not_tell_its_length_is_read_as_far_as_it_goes(tmp_path, media) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 96000)).astype(np.float32)
    path = media(tmp_path / "plain.mp3", sound=noise, rate=48000, audio_codec="libmp3lame", options={"write_xing": "0"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    heard = decode(path, reading(seconds=2.0, sample_rate=16000))["audio"][0]
    assert np.abs(heard[:14000]).max() > 0.1
    assert np.abs(heard[-14000:]).max() == 0


@pytest.mark.parametrize("name", ["live.m3u8", "live.mp4", "list.ffconcat", "stream.sdp", "films.mpd", "frame%02d.png"])
def test_what_would_open_other_files_is_refused_at_once(tmp_path, ordinary, name) -> None:
    shutil.copy(ordinary, tmp_path / "good.mp4")
    texts = {
        "live.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:4,\ngood.mp4\n",
        "list.ffconcat": "ffconcat version 1.0\nfile good.mp4\n",
        "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "films.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic"></MPD>\n',
    }
    path = tmp_path / name
    if name.endswith("png"):
        with av.open(str(tmp_path / "frame%02d.png"), "w") as container:
            pictures = container.add_stream("png", rate=1)
            pictures.width, pictures.height, pictures.pix_fmt = 16, 16, "rgb24"
            for _ in range(2):
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(solid((9, 9, 9), 1, 16, 16)[0])))
        shutil.copy(tmp_path / "frame01.png", path)
    else:
        path.write_text(texts.get(name, texts["live.m3u8"]))
    with pytest.raises(MediaError, match=r"it is a text|cannot be decoded"):
        decode(path, reading(seconds=1.0, frames=4, size=16))
    if not name.endswith("png"):
        path.write_bytes(path.read_bytes() + bytes([0]) * 9 + b"\xff")  # no text any more, and no less a playlist
        with pytest.raises(MediaError):
            decode(path, reading(seconds=1.0, frames=4, size=16))


def test_a_wav_that_is_cut_between_two_packets_is_refused(tmp_path, media) -> None:
    path = media(tmp_path / "cut.wav", sound=sine(440, 0.5, 16000, 2.0), audio_codec="pcm_s16le")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"data") + 8 + 4096 * 2 * 3])  # FFmpeg reads 4096 samples at a time
    with pytest.raises(MediaError, match="its last bytes are missing"):
        decode(path, reading(seconds=2.0, sample_rate=16000))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_into_a_pipe_is_read_to_its_end(tmp_path, media, size) -> None:
    path = media(tmp_path / "pipe.wav", sound=sine(440, 0.5, 44100, 1.0), rate=44100, audio_codec="pcm_s16le")
    wanted = decode(path, reading(seconds=1.0, sample_rate=16000))["audio"]
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert np.array_equal(decode(path, reading(seconds=1.0, sample_rate=16000))["audio"], wanted)


def test_what_is_cut_off_behind_the_window_does_not_matter(tmp_path, media) -> None:
    whole = media(
        tmp_path / "whole.mp4",
        sound=sine(440, 0.5, 16000, 4.0),
        pictures=counting(32, 5),
        fps=8,
        options={"movflags": "faststart"},
    )
    cut = tmp_path / "cut.mp4"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * 0.8)])
    start = reading(seconds=1.0, sample_rate=16000, frames=4, size=16, centre=False)
    for modality, wanted in decode(whole, start).items():
        assert np.array_equal(decode(cut, start)[modality], wanted)


def test_a_window_without_picture_or_without_sound_is_refused(tmp_path, media) -> None:
    sound = sine(440, 0.5, 16000, 5.0)
    early = media(tmp_path / "early.mp4", sound=sound, pictures=counting(4, 10), fps=8)
    with pytest.raises(MediaError, match="no picture in the part that is read"):
        decode(early, BOTH)
    brief = media(tmp_path / "brief.mp4", sound=sound[:, :8000], pictures=counting(40, 5), fps=8)
    with pytest.raises(MediaError, match="no sound in the part that is read"):
        decode(brief, BOTH)


def test_sound_alone_may_be_shorter_than_its_container(tmp_path, media) -> None:
    path = media(tmp_path / "short.mkv", sound=sine(440, 0.5, 16000, 1.0), pictures=counting(24, 10), fps=8)
    heard = decode(path, reading(seconds=3.0, sample_rate=16000, centre=False))["audio"][0]
    assert np.abs(heard[20000:]).max() == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("zeros.mp4", bytes(5000), "cannot be decoded"),
        ("noise.mp4", random.Random(0).randbytes(20000), "cannot be decoded"),
        ("text.mp4", b"not a film\n" * 100, "it is a text|cannot be decoded"),
        ("text.txt", b"not a film\n" * 100, "it is a text"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "it is a text"),
    ],
)
def test_what_is_no_media_file_is_refused(tmp_path, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=rf"({reason}).* \(.*{name}\)"):
        decode(tmp_path / name, BOTH)


def test_what_is_no_file_is_refused(tmp_path) -> None:
    for path in (tmp_path / "missing.mp4", Path("nul\0.mp4"), Path("http://127.0.0.1:9/a.mp4")):
        with pytest.raises(MediaError, match="there is no such file"):
            decode(path, BOTH)
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path(os.devnull)):
        with pytest.raises(MediaError, match="a folder, a pipe or a device"):
            decode(path, BOTH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, media, value) -> None:
    sound = sine(440, 0.5, 16000, 1.0)
    sound[0, 8000] = value
    path = media(tmp_path / "nan.wav", sound=sound, audio_codec="pcm_f32le")
    with pytest.raises(MediaError, match="not finite"):
        decode(path, reading(seconds=1.0, sample_rate=16000))


def test_a_stream_without_samples_is_refused(tmp_path, media) -> None:
    whole = media(tmp_path / "whole.wav", sound=sine(440, 0.5, 16000, 0.1), audio_codec="pcm_s16le")
    header = bytearray(whole.read_bytes())
    at = header.index(b"data")
    header[4:8] = at.to_bytes(4, "little")
    header[at + 4 : at + 8] = bytes(4)
    whole.write_bytes(header[: at + 8])
    with pytest.raises(MediaError, match=r"no samples|cannot be decoded"):
        decode(whole, reading(seconds=1.0, sample_rate=16000))


def test_a_damaged_file_gives_arrays_that_fit_or_one_kind_of_error(tmp_path, ordinary) -> None:
    rng = random.Random(1)
    whole = ordinary.read_bytes()
    path = tmp_path / "damaged.mp4"
    refused = named = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((1, 4, 40))] = rng.randbytes(rng.choice((1, 4, 40)))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))])
        try:
            found = decode(path, BOTH)
        except MediaError as error:
            refused += 1
            named += str(path) in str(error)
            continue
        assert found["audio"].shape == (1, 16000)
        assert np.abs(found["audio"]).max() <= 1
        assert found["video"].shape == (3, 16, 32, 32)
    assert named == refused > 50


def test_files_are_closed_whatever_comes_of_them(tmp_path, ordinary) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(ordinary.read_bytes()[:4000])
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        decode(ordinary, BOTH)
        with pytest.raises(MediaError):
            decode(broken, BOTH)
    assert len(list(descriptors.iterdir())) <= before


def test_all_windows_of_a_clip_are_asked_of_the_model_not_of_the_files() -> None:
    with pytest.raises(ValueError, match=r"give the model `windows: \{count: 5, seconds: 2\}`"):
        ClipsConfig(manifest=Path("m.csv"), window="all")
