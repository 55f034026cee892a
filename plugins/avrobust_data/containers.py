"""Opening a media file and nothing beside it, and what its container promises of it."""

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import ContainerFormat
from av.video.stream import VideoStream

from avrobust_data.boxes import refuse_impossible_counts
from avrobust_data.faults import MediaError
from avrobust_data.guard import DECODER_LIMITS, Watch

_TICKS: Final = 1_000_000
"""Container times are in microseconds."""

_REFUSED: Final = frozenset({"concat", "dash", "hls", "imf", "sdp", "tty", "vobsub", "webm_dash_manifest"})
"""Formats of FFmpeg that are playlists of other files, descriptions of streams, or plain text played as pictures."""

_STATES_LENGTH: Final = frozenset(
    {"aiff", "ape", "asf", "au", "avi", "caf", "flac", "flv", "matroska", "mov", "tta", "w64", "wav", "wv"}
)
"""Formats whose header says how long each file is; of others, FFmpeg may only have estimated it. FFmpeg reads MP4 as
"mov" too, and WebM as "matroska"."""

_TIMED: Final = frozenset({"mpeg", "mpegts", "mxf", "nut", "ogg", "rm", "wtv"})
"""Formats whose last timestamp says how long each file is, though no header does."""

_XING_SPAN: Final = 2048
"""Bytes behind an MP3's tags among which its first frame is, and in it the count of all frames."""

_ENDLESS: Final = 0x7FFF_F000
"""Bytes from which on a WAV's size means that it was not known; some programs leave a sign bit free, and a header."""

_OGG_PAGE: Final = 27 + 255 + 255 * 255
"""The longest page of an Ogg file in bytes."""


def open_file(path: Path, watch: Watch) -> InputContainer:
    """Open one file as media: no playlist, pattern or script that names others, no address and no device.

    Raises:
        MediaError: if it is not a regular file, is empty, is a text, or has an impossible index; or the time is up.
        av.FFmpegError: if FFmpeg knows no format for it.
    """
    watch.look()
    _check_file(path)
    refuse_impossible_counts(path, watch)
    options: dict[str, Any] = {
        "container_options": {"protocol_whitelist": "file", "format_whitelist": _formats()},
        "options": dict(DECODER_LIMITS),  # for the decoders that FFmpeg opens to look into the file
        "timeout": watch.seconds,
    }
    if int(av.__version__.partition(".")[0]) < 19:  # later ones never fail over what encoding tags are in
        options["metadata_errors"] = "replace"
    return cast(InputContainer, av.open(os.fspath(path.absolute()), **options))


def start_of(container: InputContainer) -> float:
    """The start of its first stream, in seconds."""
    return (container.start_time or 0) / _TICKS


def duration_of(container: InputContainer, path: Path, watch: Watch) -> float:
    """In seconds: as stated; or measured over all packets, where FFmpeg could only guess it from the rate of bits."""
    known = states_length(container, path) or not _TIMED.isdisjoint(container.format.name.split(","))
    if known and container.duration is not None and container.duration > 0:
        return container.duration / _TICKS
    with open_file(path, watch) as again:
        ends = [0.0, *_packet_ends(again, watch)]
    return max(0.0, max(ends) - start_of(container))


def end_of(part: InputContainer | AudioStream | VideoStream) -> float | None:
    """The stated end of a container or of one of its streams, in seconds; None if it states none."""
    unit = Fraction(1, _TICKS) if isinstance(part, InputContainer) else part.time_base
    if part.duration is None or unit is None:
        return None
    return float((part.duration + (part.start_time or 0)) * unit)


def states_length(container: InputContainer, path: Path) -> bool:
    """True if the file itself says how long it is: in its header, or, of an MP3, in its first frame."""
    names = container.format.name.split(",")
    return not _STATES_LENGTH.isdisjoint(names) or ("mp3" in names and _counts_frames(path))


def is_open_ended(path: Path) -> bool:
    """True of a WAV written into a pipe: its size, which could not be filled in at the end, is the largest one."""
    stated, size = _sizes(path)
    return stated is not None and stated >= _ENDLESS > size


def lacks_its_end(path: Path) -> bool:
    """True if a WAV is shorter than it says, or an Ogg file ends inside a page; False for all others."""
    stated, size = _sizes(path)
    if stated is not None:
        return size + 1 < stated < _ENDLESS
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(max(0, size - _OGG_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 or len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths)


def _sizes(path: Path) -> tuple[int | None, int]:
    """Bytes that a WAV says to have, None of other files; and that it has."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
    is_wave = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    return (8 + int.from_bytes(head[4:8], "little") if is_wave else None), size


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MediaError(
            "it is no file, but a folder, a pipe or a device" if path.exists() else "there is no such file"
        )
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        raise MediaError("the file is empty")
    if _is_text(start):
        raise MediaError("it is a text (a playlist or a web page, perhaps), no media file")


def _is_text(start: bytes) -> bool:
    """True if a file's first bytes are all printable characters."""
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else a character that is cut in two at the end of what was read
            return False
        text = start[: error.start].decode("utf-8-sig")
    return all(character.isprintable() or character in "\t\n\r\f\v" for character in text)


@cache
def _formats() -> str:
    """The formats that are read: all that this FFmpeg knows but those that open something else than the file."""
    names = []
    for name in sorted(av.formats_available):
        try:
            known = ContainerFormat(name, "r")
        except ValueError:  # one that can only be written
            continue
        if not known.no_file and _REFUSED.isdisjoint(known.name.split(",")):
            names.append(name)
    return ",".join(names)


def _packet_ends(container: InputContainer, watch: Watch) -> Iterator[float]:
    for packet in container.demux():
        watch.look()
        if packet.pts is not None and packet.time_base is not None:
            yield float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _counts_frames(path: Path) -> bool:
    """True if an MP3 begins with a frame that counts all frames (Xing, Info or VBRI)."""
    with path.open("rb") as file:
        head = file.read(10)
        while head[:3] == b"ID3" and len(head) == 10:  # the tag's size: seven bits in each of four bytes
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(size, os.SEEK_CUR)
            head = file.read(10)
        start = head + file.read(_XING_SPAN)
    return any(mark in start for mark in (b"Xing", b"Info", b"VBRI"))
