"""Read the text of a spec's file: a regular file of bounded size in UTF-8, and nothing that may hang or have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path as FilePath
from typing import Final

from avrobust_core.spec.problems import Problem, suggestion

MAX_BYTES: Final = 2**18
"""The largest file that is read."""

_OTHER_UNICODE: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class UnreadableError(Exception):
    """A file cannot be read.

    Args:
        problem: what is wrong with it; without a line, what is wrong is not in its text.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def read_text(path: FilePath) -> str:
    """The text of a file, a byte order mark left out.

    Raises:
        UnreadableError: if there is no such file, it is no regular file, it is too large, or it is not UTF-8.
    """
    source = str(path)
    try:
        data = _content(path)
    except FileNotFoundError:
        raise UnreadableError(Problem("there is no such file", source, hint=_beside(path))) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = getattr(error, "strerror", None) or error
        raise UnreadableError(Problem(f"cannot be read: {said}", source)) from None
    if len(data) > MAX_BYTES:
        raise UnreadableError(
            Problem(f"has more than {MAX_BYTES // 1024} KiB", source, hint="a spec is text of a few pages")
        )
    if data.startswith(_OTHER_UNICODE) or b"\x00" in data[:4]:
        raise UnreadableError(Problem("this is UTF-16 or UTF-32, or no text", source, 1, 1, hint="save it as UTF-8"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        shown = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise UnreadableError(Problem(shown, source, line, column, hint="save the file as UTF-8")) from None


def _content(path: FilePath) -> bytes:
    """What is in the file, one byte more than is allowed at most."""
    _refuse_special(path, path.stat().st_mode)  # before it is opened: to open a device may do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        _refuse_special(path, os.fstat(handle).st_mode)  # another file may have taken its place meanwhile
        return file.read(MAX_BYTES + 1)


def _refuse_special(path: FilePath, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UnreadableError(Problem("this is a folder, not a file", str(path)))
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise UnreadableError(Problem(f"this is {kind}, not a file", str(path), hint="write the spec into a file"))


def _beside(path: FilePath) -> str:
    """A hint: the file of this folder that was probably meant."""
    try:
        names = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    hint = suggestion(path.name, names)
    return hint if hint.startswith("did you mean") else ""
