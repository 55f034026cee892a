"""A look into MP4's index before FFmpeg builds it: a few bytes can state more samples than there is memory for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from avrobust_data.faults import MediaError
from avrobust_data.guard import Watch

_FIRST: Final = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
"""Types of the box with which a file in the family of MP4 and QuickTime begins."""

_FOLDERS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
"""Boxes of boxes, down to those that count samples."""

_DEEPEST: Final = 10
"""FFmpeg looks no deeper into boxes of boxes."""

_COUNTS: Final = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Boxes that count samples (ISO/IEC 14496-12, 8.7.3 and 8.8.8), and where the count stands behind their header."""


def refuse_impossible_counts(path: Path, watch: Watch) -> None:
    """Refuse an MP4 whose index counts more samples than the file has bytes; other files pass.

    FFmpeg takes 24 bytes and more for each, before it looks for the first one.

    Raises:
        MediaError: states the count; or the time is up.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4)
        if file.read(4) not in _FIRST:
            return
        for count in _counts(file, 0, size, watch):
            if count > size:
                raise MediaError(
                    f"its index counts {count} samples, but the file has {size} bytes: it is damaged, or made to "
                    "exhaust memory"
                )


def _counts(file: BinaryIO, start: int, stop: int, watch: Watch, depth: int = 0) -> Iterator[int]:
    """The counts of samples in the boxes between two places of a file."""
    while start + 8 <= stop and depth <= _DEEPEST:
        watch.look()
        file.seek(start)
        head = file.read(16)
        length, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        end = min(stop, start + length) if length else stop
        if length and length < header:
            return  # no box: FFmpeg stops here, too
        if kind in _FOLDERS:
            yield from _counts(file, start + header, end, watch, depth + 1)
        elif kind in _COUNTS:
            file.seek(start + header + _COUNTS[kind])
            yield int.from_bytes(file.read(4), "big")
        start = end
