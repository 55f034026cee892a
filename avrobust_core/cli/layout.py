"""Lay text out in columns and paragraphs for a terminal, by hand: importing rich takes a fifth of a listing's time."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from avrobust_core.plain_text import plain_lines

GAP = "  "
"""The space between two columns."""


def say(text: object = "") -> None:
    """Print lines to standard output, as plain text; JSON needs no such care: it escapes control characters itself."""
    sys.stdout.write(plain_lines(text) + "\n")


def complain(text: object) -> None:
    """Print lines to standard error, as plain text."""
    sys.stderr.write(plain_lines(text) + "\n")


def terminal_width() -> int:
    """The terminal's columns, at least 40."""
    return max(shutil.get_terminal_size().columns, 40)


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), pad_last: bool = False) -> list[str]:
    """Rows as lines of aligned columns.

    Args:
        rows: cells; every row has as many.
        right: the columns that are aligned right.
        pad_last: pad the last column too, for something that follows it.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    to_right = set(right)
    lines = [
        GAP.join(
            cell.rjust(width) if column in to_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return lines if pad_last else [line.rstrip() for line in lines]


def wrapped(text: str, width: int, *, indent: int, first: str | None = None) -> list[str]:
    """Text as lines of at most `width`, indented; long words such as paths are left whole.

    Args:
        text: one paragraph.
        width: columns of the terminal.
        indent: columns before every line; where that leaves too little room, the text starts on a line of its own.
        first: what stands before the text on the first line; by default the indentation.
    """
    if width - indent < 24 and first is not None:
        return [first.rstrip(), *wrapped(text, width, indent=8)]
    blank = " " * indent
    return textwrap.wrap(
        text,
        width=max(width, indent + 24),
        initial_indent=blank if first is None else first,
        subsequent_indent=blank,
        break_long_words=False,
        break_on_hyphens=False,
    )
