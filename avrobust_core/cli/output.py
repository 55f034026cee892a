"""Standard output while a command runs: its errors name it, and one process of a run writes to it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

NAME = "standard output"
"""The file name in its errors."""


class _Named:
    """A text stream whose errors carry a file name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _named():
            return self._stream.write(text)

    def flush(self) -> None:
        with _named():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def named_output() -> Iterator[None]:
    """Let errors of standard output name it; what is still held back is written at the end, where it can be told."""
    stream = sys.stdout
    named = _Named(stream)
    sys.stdout = named  # does what print and rich need
    try:
        yield
        sys.stdout.flush()
    finally:
        if sys.stdout is named:
            sys.stdout = stream


def give_up_output() -> None:
    """Leave what standard output still holds, else Python fails with it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_first_process() -> bool:
    """True in the one process of a run that speaks for all."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = NAME
        raise
