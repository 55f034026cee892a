"""Standard output while a command runs: its errors name it, JSON stands there alone, one process of a run writes."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from avrobust_core.ranks import ranks

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


class _Aside:
    """In the place of standard output where JSON alone may stand there: whatever is printed goes to standard error.

    Attributes:
        kept: standard output itself, for the JSON.
    """

    def __init__(self, kept: _Named) -> None:
        self.kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def named_output(*, json_alone: bool = False) -> Iterator[None]:
    """Let errors of standard output name it; what is still held back is written at the end, where it can be told.

    Args:
        json_alone: keep all else that is printed meanwhile, by plugins and libraries too, off standard output.
    """
    stream = sys.stdout
    named = _Named(stream)
    during: Any = _Aside(named) if json_alone else named  # does what print and rich need
    sys.stdout = during
    try:
        yield
        named.flush()
    finally:
        if sys.stdout is during:
            sys.stdout = stream


def print_json(data: object, **how: Any) -> None:
    """Print the one JSON object of a command with `--json`.

    Args:
        data: of the object.
        how: `json.dumps` makes it.
    """
    out: Any = sys.stdout
    (out.kept if isinstance(out, _Aside) else out).write(json.dumps(data, **how) + "\n")


def give_up_output() -> None:
    """Leave what standard output still holds, else Python fails with it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_first_process() -> bool:
    """True in the one process of a run that speaks for all."""
    return ranks().rank == 0


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = NAME
        raise
