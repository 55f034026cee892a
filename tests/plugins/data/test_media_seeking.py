"""Decoding of windows far into a file: sought, and yet the same as decoded from the start."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_data import decoding, seeking
from avrobust_data.configs import DecodingConfig
from avrobust_data.decoding import decode
from avrobust_data.faults import MediaError

LENGTH = 14.0

FORMATS = {
    "mp4": ("libx264", "aac", 44100),
    "m4a": (None, "aac", 48000),
    "mov": ("mjpeg", "pcm_s16le", 22050),
    "mkv": ("libx264", "aac", 44100),
    "mkv/pcm": ("mpeg4", "pcm_s16le", 11025),
    "mka": (None, "flac", 44100),
    "webm": ("libvpx", "libopus", 48000),
    "webm/vp9": ("libvpx-vp9", "vorbis", 44100),
    "avi": ("mpeg4", "libmp3lame", 44100),
    "avi/pcm": ("mjpeg", "pcm_s16le", 16000),
    "ts": ("libx264", "aac", 44100),
    "ts/mpeg2": ("mpeg2video", "mp2", 48000),
    "ts/mpeg4": ("mpeg4", "mp2", 48000),
    "flv": ("flv", "libmp3lame", 44100),
    "asf": ("msmpeg4v3", "wmav2", 44100),
    "nut": ("ffv1", "flac", 16000),
    "mp3": (None, "libmp3lame", 44100),
    "ogg": (None, "vorbis", 44100),
    "ogg/opus": (None, "libopus", 48000),
    "flac": (None, "flac", 44100),
    "wav": (None, "pcm_s16le", 44100),
    "aiff": (None, "pcm_s16be", 32000),
    "aac": (None, "aac", 44100),
    "ac3": (None, "ac3", 48000),
    "mpg": ("mpeg2video", "mp2", 44100),
}
"""Containers with their codecs and rates of sound; all but the last three are sought in."""


def film(folder: Path, kind: str, length: float = LENGTH) -> Path:
    """A recording of a rising tone beside a square that wanders, at 10 pictures per second, a keyframe every 2.5 s."""
    video_codec, audio_codec, rate = FORMATS[kind]
    path = folder / f"film.{kind.partition('/')[0]}"
    with av.open(str(path), "w") as container:
        packets = []
        video = None
        if video_codec:
            video = container.add_stream(video_codec, rate=25 if video_codec == "mpeg2video" else 10)
            video.width, video.height = 64, 48
            video.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "yuv420p"}.get(video_codec, "yuv420p")
            video.codec_context.gop_size = 25
            if video_codec.startswith("libvpx"):
                video.codec_context.options = {"deadline": "realtime", "cpu-used": "8"}
        layout = "stereo" if audio_codec == "vorbis" else "mono"
        audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        audio.bit_rate = 96000
        if audio_codec == "aac":
            audio.codec_context.options = {"aac_pns": "0"}  # no noise instead of what is hard to code
        elif audio_codec == "vorbis":
            audio.codec_context.options = {"strict": "experimental"}
        if video is not None:
            rate_of_pictures = int(video.average_rate)
            for number in range(round(length * rate_of_pictures)):
                picture = np.full((48, 64, 3), 40, np.uint8)
                at = number % 48
                picture[at // 2 : at // 2 + 16, at : at + 16] = (250, number % 200, 20)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate_of_pictures)
                packets += video.encode(frame)
            packets += video.encode(None)
        t = np.arange(round(rate * length)) / rate
        tone = (0.5 * np.sin(2 * np.pi * (200 + 20 * t) * t)).astype(np.float32)
        size = audio.codec_context.frame_size or 1152
        resampler = av.AudioResampler(audio.codec_context.format, layout, rate, frame_size=size)
        whole = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
        whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
        for frame in [*resampler.resample(whole), *resampler.resample(None)]:
            packets += audio.encode(frame)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def asked(kind: str, **fields: object) -> DecodingConfig:
    modalities = ["audio", "video"] if FORMATS[kind][0] else ["audio"]
    fixed = {"seconds": 1.0, "sample_rate": 16000, "frames": 10, "size": 32, "window": "start"}
    return DecodingConfig(**{"modalities": modalities, **fixed, **fields})


def from_the_start(monkeypatch: pytest.MonkeyPatch, *args: object) -> dict[str, np.ndarray]:
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "targets_before", lambda *_: [])
        return decode(*args)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_sought_window_is_the_same_as_one_decoded_from_the_start(tmp_path, monkeypatch, kind) -> None:
    path = film(tmp_path, kind)
    sought = []
    feed = seeking.feed_from
    monkeypatch.setattr(decoding, "feed_from", lambda *args: sought.append(feed(*args)) or sought[-1])
    for begin in (4.313, 12.97):
        found = decode(path, asked(kind), begin, begin + 1)
        whole = from_the_start(monkeypatch, path, asked(kind), begin, begin + 1)
        assert found.keys() == whole.keys()
        assert np.abs(found["audio"] - whole["audio"]).max() <= 1e-4
        assert whole["audio"].std() > 0.1
        if "video" in whole:
            assert np.array_equal(found["video"], whole["video"])
    assert any(sought) == (kind not in ("aac", "ac3", "mpg"))


def test_a_window_far_into_a_file_costs_no_more_than_one_at_its_beginning(tmp_path, monkeypatch) -> None:
    path = film(tmp_path, "mp4", 30.0)
    decoded = []
    add = seeking.add_frames
    monkeypatch.setattr(
        seeking, "add_frames", lambda packet, collector: decoded.append(packet) or add(packet, collector)
    )
    decode(path, asked("mp4"), 26.0, 27.0)
    # of 300 pictures and 1292 packets of sound: from the last keyframe, 3.5 s before at most, and after a run-up of 1 s
    assert len(decoded) < 45 + 90 + 10


def test_a_seek_that_ends_behind_the_window_is_not_believed(tmp_path, monkeypatch) -> None:
    path = film(tmp_path, "mkv")
    wanted = from_the_start(monkeypatch, path, asked("mkv"), 6.0, 7.0)
    monkeypatch.setattr(decoding, "targets_before", lambda *_: [11.0, 9.0, 8.0])
    found = decode(path, asked("mkv"), 6.0, 7.0)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "wav"])
def test_what_lies_behind_the_end_of_a_segment_is_not_in_the_clip(tmp_path, kind) -> None:
    path = film(tmp_path, kind)
    segment = decode(path, asked(kind, seconds=2.0, frames=20), 5.0, 6.0)
    longer = decode(path, asked(kind, seconds=2.0, frames=20), 5.0, 7.0)
    assert np.array_equal(segment["audio"][:, :16000], longer["audio"][:, :16000])
    assert longer["audio"][:, 16000:].std() > 0.1
    assert not segment["audio"][:, 16000:].any()
    if "video" in segment:
        assert np.array_equal(segment["video"][:, :10], longer["video"][:, :10])
        assert (segment["video"][:, 10:] == longer["video"][:, 9:10]).all()
        assert not np.array_equal(longer["video"][:, 10], longer["video"][:, 9])


@pytest.mark.parametrize("kind", ["mp4", "mka", "mp3"])
def test_the_centre_of_a_segment_is_read(tmp_path, kind) -> None:
    path = film(tmp_path, kind)
    centre = decode(path, asked(kind, window="centre"), 4.0, 9.0)
    assert all(np.array_equal(part, centre[name]) for name, part in decode(path, asked(kind), 6.0, 7.0).items())
    # of a segment that ends behind the file's end, of what there is of it
    last = decode(path, asked(kind, window="centre"), LENGTH - 2, LENGTH + 8)["audio"]
    assert last[:, :15000].std() > 0.1
    assert last[:, -1600:].std() > 0.1


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "mp3", "ogg/opus", "flac", "wav", "aac", "avi"])
@pytest.mark.parametrize("window", ["start", "centre"])
def test_a_segment_behind_the_end_of_its_file_is_refused(tmp_path, kind, window) -> None:
    path = film(tmp_path, kind, 3.0)
    for begin, end in ((8.0, 9.0), (30.0, None)):
        with pytest.raises(
            MediaError, match=rf"segment begins at {begin:.2f} s.* file has ended: it is [23]\.\d+ s long"
        ):
            decode(path, asked(kind, window=window), begin, end)


def test_an_empty_segment_is_refused(tmp_path) -> None:
    with pytest.raises(MediaError, match=r"segment from 2\.00 to 2\.00 s is empty"):
        decode(film(tmp_path, "wav", 3.0), asked("wav"), 2.0, 2.0)


def test_damage_far_before_the_window_does_not_matter(tmp_path) -> None:
    path = film(tmp_path, "mkv")
    wanted = decode(path, asked("mkv"), 12.0, 13.0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    found = decode(path, asked("mkv"), 12.0, 13.0)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
