"""A folder of images in place of a video: one for each frame, numbered in their names, at a stated rate."""

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from avrobust_data.cache import Media
from avrobust_data.configs import DecodingConfig
from avrobust_data.faults import MediaError
from avrobust_data.guard import DECODER_LIMITS, Watch, refuse_size
from avrobust_data.squares import Squarer

SUFFIXES: Final = frozenset({"jpeg", "jpg", "png", "webp"})

_NUMBER: Final = re.compile(r"(\d+)\D*$")
"""The last number of a name without its suffix."""

_MARKS: Final = ((b"\xff\xd8", "mjpeg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
"""How files begin, and FFmpeg's decoder for them; what a file is called does not matter."""

_LARGEST: Final = 2**28
"""Bytes of one image."""

_TURNED: Final = re.compile(rb"\x12\x01\x03\0\x01\0{3}[\x02-\x08]|\x01\x12\0\x03\0{3}\x01\0[\x02-\x08]")
"""EXIF's word, in either order of bytes, that an image is to be turned or mirrored."""

_TIE: Final = 1e-6


def is_image(name: str) -> bool:
    """True of the names that a folder's images may have."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in SUFFIXES


def images_in(folder: Path) -> list[str]:
    """The names of a folder's images, by their numbers.

    Raises:
        MediaError: if there is none, or their numbers do not follow one another, all by the same step.
        OSError: if the folder cannot be read.
    """
    numbered: list[tuple[int, str]] = []
    with os.scandir(folder) as entries:
        for name in (entry.name for entry in entries if is_image(entry.name)):
            found = _NUMBER.search(name.rpartition(".")[0])
            if found is None:
                raise MediaError(f"the image {name!r} has no number in its name, which would say when it is shown")
            numbered.append((int(found[1]), name))
    if not numbered:
        raise MediaError(f"the folder has no image ({', '.join(sorted(SUFFIXES))})")
    numbered.sort()
    steps = [after[0] - before[0] for before, after in pairwise(numbered)]
    step = sorted(steps)[len(steps) // 2] if steps else 1
    at = next((i for i, found in enumerate(steps) if found != step or not found), None)
    if at is not None:
        raise MediaError(
            f"images are missing or there twice between {numbered[at][1]!r} and {numbered[at + 1][1]!r}: their numbers "
            "must all be the same step apart"
        )
    return [name for _, name in numbered]


def length_of_folder(folder: Path, config: DecodingConfig) -> float | None:
    """Seconds that a folder's images last; None of a single one, which is shown throughout.

    Raises:
        MediaError: as from `images_in`, or if no rate is stated.
    """
    count = len(images_in(folder))
    return None if count == 1 else count / _rate(config)


def decode_folder(
    folder: Path, config: DecodingConfig, begin: float, end: float | None, place: float, watch: Watch
) -> Media:
    """Of a folder's images those on show at the times that `decode` says of a file, and likewise padded.

    Only these are opened. A single image is shown throughout.

    Args:
        folder: the folder.
        config: what is asked for.
        begin: where the clip begins, in seconds from the first image.
        end: where it ends; None for the end of the last image.
        place: where the window lies in a longer clip, from 0 to 1.
        watch: over the time that it takes.

    Returns:
        "video": (3, F, S, S) uint8, RGB.

    Raises:
        MediaError: if the segment is empty or behind the last image, or an image is missing, damaged or too large.
    """
    names, rate = images_in(folder), _rate(config)
    length = len(names) / rate
    if end is not None and end <= begin:
        raise MediaError(f"the segment from {begin:.2f} to {end:.2f} s is empty")
    if begin >= length and len(names) > 1:
        raise MediaError(
            f"the segment begins at {begin:.2f} s, where the images have ended: they last {length:.2f} s, "
            f"{len(names)} of them at frame_rate {rate:g}"
        )
    stop = length if end is None else min(end, length)
    start = begin + max(0.0, stop - begin - config.seconds) * place
    times = start + (np.arange(config.frames) + 0.5) * (config.seconds / config.frames)
    held = np.zeros(0) if len(names) == 1 else times[times > stop - _TIE]
    times = times if end is None else np.minimum(times, end - 2 * _TIE)
    shown = np.clip(np.floor(times * rate + _TIE).astype(int), 0, len(names) - 1)
    square = Squarer(config.size, stretch=config.resize == "stretch")
    pictures: dict[int, NDArray[np.uint8]] = {}
    for i in dict.fromkeys(shown.tolist()):
        watch.look()
        try:
            pictures[i] = square(*_image(folder / names[i]))
        except MediaError as error:
            raise MediaError(f"the image {names[i]!r}: {error}") from error.__cause__
    media = Media(video=np.ascontiguousarray(np.stack([pictures[i] for i in shown.tolist()]).transpose(3, 0, 1, 2)))
    media.padded = {"video": len(held) / config.frames} if len(held) else {}
    return media


def _rate(config: DecodingConfig) -> float:
    if config.frame_rate is None:
        raise MediaError(
            "it is a folder, no file; if it holds a clip's images, say how many a second there are (frame_rate)"
        )
    return config.frame_rate


def _image(file: Path) -> tuple[av.VideoFrame, float]:
    """A decoded image, and the width over the height of its pixels."""
    if not file.is_file():
        raise MediaError("it is no file")
    if file.stat().st_size > _LARGEST:
        raise MediaError("it has more than 256 MiB")
    data = file.read_bytes()
    name = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if name is None:
        raise MediaError("it is empty, or neither JPEG nor PNG nor WebP")
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    decoder.options = {**DECODER_LIMITS, "err_detect": "explode"}
    try:
        frames = [*decoder.decode(av.Packet(_bare(data) if name == "mjpeg" else data)), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise MediaError(f"it cannot be decoded: {error.strerror}") from error
    if not frames or frames[0].is_corrupt:
        raise MediaError("it is damaged")
    refuse_size(frames[0].width, frames[0].height)
    return frames[0], float(decoder.sample_aspect_ratio or 1)


def _bare(data: bytes) -> bytes:
    """A JPEG without its segments of EXIF and XMP, over which some versions of PyAV fail.

    Raises:
        MediaError: if it is cut short, which FFmpeg does not notice, or to be turned.
    """
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise MediaError("it is cut short")
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at : at + size]
        if segment[1:2] != b"\xe1":
            kept.append(segment)
        elif _TURNED.search(segment):
            raise MediaError("its EXIF says that it is to be turned or mirrored: write it upright")
        at += size
    return b"".join(kept) + data[at:]
