"""Read the text of a spec's file: a regular file of bounded size in UTF-8, and nothing that may hang or have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path as FilePath
from typing import Final

from avrobust_core.spec.nodes import Place
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
        raise unreadable(source, "there is no such file", _beside(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(source, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise unreadable(source, f"has more than {MAX_BYTES // 1024} KiB", "a spec is text of a few pages")
    if data.startswith(_OTHER_UNICODE) or b"\x00" in data[:4]:
        raise SpecError([Problem(Place(source, 1, 1), "this is UTF-16 or UTF-32, or no text", "save it as UTF-8")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        place = Place(source, before.count("\n") + 1, len(before) - before.rfind("\n"))
        shown = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise SpecError([Problem(place, shown, "save the file as UTF-8")]) from None


def resolved(path: FilePath) -> FilePath:
    """The absolute path of a file, links followed.

    Raises:
        SpecError: if that cannot be told: a circle of links, a NUL in the name.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise unreadable(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def unreadable(source: str, message: str, hint: str = "") -> SpecError:
    """The error of a file that cannot be used as a whole."""
    return SpecError([Problem(Place(source), message, hint)])


def _content(path: FilePath) -> bytes:
    """The bytes of the file, one more than is allowed at most."""
    _refuse_special(path, path.stat().st_mode)  # before it is opened: to open a device may do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        _refuse_special(path, os.fstat(handle).st_mode)  # another file may have taken its place meanwhile
        return file.read(MAX_BYTES + 1)


def _refuse_special(path: FilePath, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise unreadable(str(path), "this is a folder, not a file")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise unreadable(str(path), f"this is {kind}, not a file", "write the spec into a file")


def _beside(path: FilePath) -> str:
    """A hint: the file of this folder that was probably meant."""
    try:
        names = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    hint = suggestion(path.name, names)
    return hint if hint.startswith("did you mean") else ""
