"""Exceptions in one sentence, whoever raised them: the operating system, a plugin, a library."""

import errno
import os
import traceback
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from avrobust_core.errors import AvrobustError, ComponentError
from avrobust_core.plain_text import plain_text

_REMEDIES: Final[Mapping[int, str]] = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "mend its permissions, or choose another place",
    errno.EPERM: "mend its permissions, or choose another place",
    errno.EISDIR: "a folder is in the way of a file: move it, or choose another place",
    errno.ENOTDIR: "a file is in the way of a folder: move it, or choose another place",
    errno.EEXIST: "something is in the way: move it, or choose another place",
    errno.ENOTEMPTY: "something is in the way: move it, or choose another place",
    errno.ENOENT: "look whether the path is right, and still there",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower engine.workers",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: "free some memory, or lower engine.workers and engine.batch_size",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EIO: "the device fails: look at the disk or the network, and choose another place",
    errno.ESTALE: "the network file system has lost it: look at the mount, and try again",
    errno.EPIPE: "the reader has gone away",
    errno.EBADF: "it is closed: redirect it to a file, or to /dev/null",
}

NO_CLIPS_FAULT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT})
"""Errors of the system that say nothing of the file that was being read."""


def sentence(error: BaseException) -> str:
    """An error for a person: the message of our own errors as it is, path, reason and remedy of the system's.

    Of anything else the type, the message on one line, and for what ends programs the place where it was raised.
    """
    if isinstance(error, AvrobustError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    kind = type(error).__name__
    try:
        said = plain_text(error, limit=2000)
    except Exception:  # noqa: BLE001  a plugin's exception may fail to say what it is
        said = "(its message cannot be shown)"
    text = f"{kind}: {said}" if said else kind
    place = None if isinstance(error, Exception) else place_of(error)
    return f"{text} ({place})" if place else text


def place_of(error: BaseException, without: Container[str] = ()) -> str | None:
    """The place where an exception was raised: "file:line"; None if that is not known.

    Args:
        error: the exception.
        without: packages in which nobody looks for the fault: the last place outside them counts.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in without:
            return f"{frame.f_code.co_filename}:{line}"
    return None


def _of_the_system(error: OSError) -> str:
    reason = error.strerror or os.strerror(error.errno or 0)
    remedy = _REMEDIES.get(error.errno or 0)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{where}{reason}" + (f"; {remedy}" if remedy else "")


@contextmanager
def as_plugins_fault(who: str) -> Iterator[None]:
    """Turn whatever foreign code raises, sys.exit(0) too, into an error that names the code.

    Args:
        who: "attack avrobust:pgd (plugin 'attacks')".

    Raises:
        ComponentError: in place of what was raised; errors written for users and KeyboardInterrupt pass as they are.
    """
    try:
        yield
    except (AvrobustError, KeyboardInterrupt):
        raise
    except BaseException as error:
        place = place_of(error) if isinstance(error, Exception) else None
        raise ComponentError(f"{who} failed: {sentence(error)}{f' ({place})' if place else ''}") from error
