"""Read the text of a spec's file: a regular file of bounded size in UTF-8, and nothing that may hang or have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path as FilePath
from typing import Final

from avrobust_core.spec.problems import Problem, SpecError, suggestion

MAX_BYTES: Final = 2**18
"""The largest file that is read."""

_OTHER_UNICODE: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def read_text(path: FilePath) -> str:
    """The text of a file, a byte order mark left out.

    Raises:
        SpecError: if there is no such file, it is not a regular file, it is too large, or it is not UTF-8; its one
            problem has a line only where the fault is in the text.
    """
    source = str(path)
    try:
        data = _content(path)
    except FileNotFoundError:
        raise unreadable("there is no such file", source, hint=_beside(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = getattr(error, "strerror", None) or error
        raise unreadable(f"cannot be read: {said}", source) from None
    if len(data) > MAX_BYTES:
        raise unreadable(f"has more than {MAX_BYTES // 1024} KiB", source, hint="a spec is text of a few pages")
    if data.startswith(_OTHER_UNICODE) or b"\x00" in data[:4]:
        raise unreadable("this is UTF-16 or UTF-32, or no text", source, 1, 1, hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        shown = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise unreadable(shown, source, line, column, hint="save the file as UTF-8") from None


def resolved(path: FilePath) -> FilePath:
    """The absolute path of a file, links followed.

    Raises:
        SpecError: if that cannot be told: a circle of links, a NUL in the name.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path)) from None


def unreadable(message: str, source: str, line: int = 0, column: int = 0, hint: str = "") -> SpecError:
    """The error of a file that cannot be used, at a place in its text if a line is given."""
    return SpecError([Problem(message, source, line, column, hint=hint)])


def _content(path: FilePath) -> bytes:
    """The bytes of the file, one more than is allowed at most."""
    _refuse_special(path, path.stat().st_mode)  # before it is opened: to open a device may do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        _refuse_special(path, os.fstat(handle).st_mode)  # another file may have taken its place meanwhile
        return file.read(MAX_BYTES + 1)


def _refuse_special(path: FilePath, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise unreadable("this is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise unreadable(f"this is {kind}, not a file", str(path), hint="write the spec into a file")


def _beside(path: FilePath) -> str:
    """A hint: the file of this folder that was probably meant."""
    try:
        names = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    hint = suggestion(path.name, names)
    return hint if hint.startswith("did you mean") else ""
