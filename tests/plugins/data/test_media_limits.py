"""Decoding has limits: files that are made to hang it, or to exhaust memory, are refused, and named."""

import os
import resource
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig, DecodingConfig
from avrobust_data.decoding import decode
from avrobust_data.faults import MediaError
from avrobust_data.guard import TooSlow
from pydantic import ValidationError

from avrobust_core import ClipError

SOUND = DecodingConfig(modalities=["audio"], seconds=1.0)
PICTURES = DecodingConfig(modalities=["video"], seconds=1.0, frames=4, size=16)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def huge_png() -> bytes:
    """A few bytes that say to be 16000 x 16000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 16000, 16000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(48001))) + chunk(b"IEND", b"")
    )


def huge_jpeg() -> bytes:
    """A picture of 32 x 32 pixels that says to have 16000 x 16000."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width = codec.height = 32
    codec.pix_fmt, codec.time_base = "yuvj420p", Fraction(1, 8)
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
    data = bytearray(bytes(codec.encode(frame.reformat(format="yuvj420p"))[0]))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 16000, 16000)
    return bytes(data)


def film_of(path: Path, codec: str, pictures: list[bytes], stated: int) -> Path:
    """A film of these encoded pictures, whose header says that they are squares of `stated` pixels (avi, mov)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=8)
        video.width = video.height = 1234
        video.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 8), video, True
            container.mux(packet)
    data = path.read_bytes()
    for form in ("<II", ">HH"):
        data = data.replace(struct.pack(form, 1234, 1234), struct.pack(form, stated, stated))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["avi", "mov"])
@pytest.mark.parametrize("codec", ["png", "mjpeg"])
@pytest.mark.parametrize("stated", [16000, 32])
def test_pictures_of_256_million_pixels_are_refused_before_there_is_memory_for_them(
    tmp_path, suffix, codec, stated
) -> None:
    picture = huge_png() if codec == "png" else huge_jpeg()
    path = film_of(tmp_path / f"bomb.{suffix}", codec, [picture] * 4, stated)
    assert path.stat().st_size < 20_000
    before = peak_mib()
    with pytest.raises(MediaError, match=r"bomb\."):
        decode(path, PICTURES)
    assert peak_mib() - before < 300  # one such picture takes 360 at least; FFmpeg itself refuses from 268 million on


@pytest.mark.parametrize("large", [False, True])
def test_an_index_of_more_samples_than_bytes_is_refused(tmp_path, ordinary, large) -> None:
    data = bytearray(ordinary.read_bytes())
    count = 1 << 24  # FFmpeg would take 0.5 GB, and 100 times as much for the largest count
    at = data.rindex(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, count)
    at = data.rindex(b"stsc") + 8
    data[at + 8 : at + 12] = struct.pack(">I", count)
    if large:  # the same behind a box with a long header
        data[:0] = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    path = tmp_path / "bomb.mp4"
    path.write_bytes(data)
    before = peak_mib()
    with pytest.raises(MediaError, match=rf"its index counts {count} samples, but the file has {len(data)} bytes"):
        decode(path, SOUND)
    assert peak_mib() - before < 200


def test_ten_hours_without_sound_are_no_longer_than_a_second(tmp_path) -> None:
    path = tmp_path / "silence.mka"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("flac", rate=8000, layout="mono")
        packets = []
        for start in (0, 36000 * 8000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 4608), 1000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
            packets += audio.encode(frame)
        for packet in [*packets, *audio.encode(None)]:
            container.mux(packet)
    assert path.stat().st_size < 20_000
    with pytest.raises(MediaError, match="no sound in the part that is read"):
        decode(path, SOUND)
    assert decode(path, SOUND, 36000.0)["audio"][0, 500:8000] == pytest.approx(1000 / 32768, abs=1e-3)


@pytest.fixture
def slow(tmp_path) -> Path:
    """A file that does not say how long it is, of 20,000 packets."""
    path = tmp_path / "slow.aac"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        for number in range(300):
            frame.pts = 1024 * number
            container.mux(audio.encode(frame))
    path.write_bytes(path.read_bytes() * 67)
    return path


def test_a_file_that_takes_too_long_is_refused_and_named(slow) -> None:
    hasty = DecodingConfig(modalities=["audio"], seconds=400.0, window="start", clip_timeout=0.02)
    with pytest.raises(TooSlow, match=r"takes more than 0\.02 s \(clip_timeout\) \(.*slow\.aac\)"):
        decode(slow, hasty)
    manifest = slow.parent / "manifest.csv"
    manifest.write_text("path,label,split\nslow.aac,a,train\nother.aac,b,train\n")
    clips = make_clips(ClipsConfig(manifest=manifest, **hasty.model_dump(exclude={"modalities"}), modalities=["audio"]))
    with pytest.raises(ClipError, match=r"takes more than 0\.02 s \(clip_timeout\)"):
        clips.read("train", 0)


def test_the_old_name_of_the_window_is_told() -> None:
    with pytest.raises(ValidationError, match="crop is called window now"):
        DecodingConfig.model_validate({"crop": "centre"})


def test_the_time_limit_is_no_part_of_what_a_clip_is() -> None:
    assert DecodingConfig(clip_timeout=5).identity() == DecodingConfig().identity()
    assert DecodingConfig(downmix="mean").identity() != DecodingConfig().identity()


def test_links_that_lead_to_no_file_are_refused(tmp_path) -> None:
    loop, zero, pipe, folder, gone = (tmp_path / name for name in ("loop", "zero", "pipe", "folder", "gone"))
    loop.symlink_to(loop)
    zero.symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    pipe.symlink_to(tmp_path / "fifo")
    folder.symlink_to(tmp_path)
    gone.symlink_to(tmp_path / "nothing")
    for path in (zero, pipe, folder):
        with pytest.raises(MediaError, match="a folder, a pipe or a device"):
            decode(path, SOUND)
    for path in (loop, gone):
        with pytest.raises(MediaError, match="there is no such file"):
            decode(path, SOUND)


@pytest.mark.parametrize(("width", "height"), [(16000, 2), (2, 16000)])
def test_pictures_that_are_all_width_are_refused(tmp_path, media, width, height) -> None:
    pictures = np.zeros((4, height, width, 3), np.uint8)
    path = media(tmp_path / "line.mkv", pictures=pictures, fps=4, video_codec="ffv1", pixel_format="yuv444p")
    with pytest.raises(MediaError, match="times as wide as high"):
        decode(path, PICTURES)


def test_boxes_within_boxes_without_end_are_refused(tmp_path) -> None:
    path = tmp_path / "deep.mp4"
    depth = 20_000
    boxes = b"".join(struct.pack(">I4s", 8 * (depth - level), b"moov") for level in range(depth))
    path.write_bytes(struct.pack(">I4s", 8, b"ftyp") + boxes)
    with pytest.raises(MediaError, match=r"deep\.mp4"):
        decode(path, SOUND)
