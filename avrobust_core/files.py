"""Files of a run: written whole or not at all, and one run at a time in a folder."""

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from avrobust_core.blame import sentence
from avrobust_core.errors import RunError

TEMPORARY = ".avrobust-unfinished."
"""The prefix of a file's name while it is written: no other program gives such a name."""

HOLDER = ".avrobust-run"
"""The file that makes a folder a run's own, and that names the process which works in it; also in each cell's."""

_PAUSE = 0.2
"""Seconds between looks at whether a folder is free."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folder is made.
        write: writes the content to the open file.

    Raises:
        OSError: names the file, whatever step of it failed.
    """
    handled = sys.exc_info()[1]
    try:
        _write_atomically(path, write)
    except Exception as error:
        cause = _of_the_system(error, handled)
        if cause is None or (cause.filename is not None and TEMPORARY not in os.fsdecode(cause.filename)):
            raise
        # A full disk does not say where, and what is said of the temporary file helps nobody.
        raise OSError(cause.errno, cause.strerror or os.strerror(cause.errno or 0), str(path)) from error


def _of_the_system(error: BaseException, handled: BaseException | None) -> OSError | None:
    """The system's error that an error is, or that a library turned into one of its own, as torch.save does.

    Args:
        error: that was raised.
        handled: what was being handled before, and so is not its reason.
    """
    link: BaseException | None = error
    while link is not None and link is not handled:
        if isinstance(link, OSError) and link.errno is not None:
            return link
        link = link.__context__
    return None


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def reserve(file: BinaryIO, size: int) -> None:
    """Have the disk set aside so many bytes for a file: what is written into a map of it on a full disk ends a process.

    Raises:
        OSError: if there is no such room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, data: object) -> None:
    """Write JSON, whole or not at all; NaN is an error, since no other reader takes it."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that this project wrote.

    Raises:
        RunError: if the file is damaged, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(sentence(error)) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete it to have it made again") from error


def write_record(path: Path, data: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """Write the JSON that completes something, with hashes of the files that belong to it and of itself.

    Args:
        path: of the record.
        data: what it says.
        files: written already, in the record's folder or below it.

    Returns:
        What was written.
    """
    record = {**data, "files": {str(file.relative_to(path.parent)): file_hash(file) for file in files}}
    record["hash"] = _content_hash(record)
    write_json(path, record)
    return record


def read_record(path: Path, check: Iterable[str] | None = None) -> dict[str, Any]:
    """Read what `write_record` wrote, and check it and its files against their hashes.

    Args:
        path: of the record.
        check: names of the files to be checked; by default all.

    Raises:
        RunError: if the record or one of the files is damaged or missing; says which.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise RunError(f"{path}: is no record of a run; delete it to have it made again")
    if record.get("hash") != _content_hash({k: v for k, v in record.items() if k != "hash"}):
        raise RunError(f"{path}: is damaged (what it holds is not what was written); delete it to have it made again")
    kept: Mapping[str, str] = record.get("files", {})
    for name in kept if check is None else check:
        file = path.parent / name
        try:
            found = file_hash(file)
        except OSError as error:
            raise RunError(sentence(error)) from error
        if found != kept.get(name, found):
            raise RunError(f"{file}: is damaged (what it holds is not what was written)")
    return record


def without_upkeep(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its upkeep: hashes, versions, and what it was made from."""
    return {
        name: value for name, value in record.items() if name not in ("hash", "files", "made_with", "of", "weights")
    }


def file_hash(path: Path) -> str:
    """A hash of a file's content: 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _content_hash(data: object, size: int = 16) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def digest(identity: Mapping[str, Any]) -> str:
    """A short id of JSON data: 12 hexadecimal digits, the same whatever the order of keys."""
    return _content_hash(identity, 6)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that gets its name once it is whole; what killed processes left of such a one is removed.

    Args:
        path: what it is to be called: new, or an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{TEMPORARY}{glob.escape(path.name)}.*"):
        if left.is_dir() and not left.is_symlink():
            with suppress(OSError), _held(left):  # an OSError: it is being written
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}."))
    try:
        with _held(folder):
            folder.chmod(0o777 & ~_umask())
            yield folder
            folder.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder as long as this process lives; an OSError if another does."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def refuse_changed(run: Path) -> None:
    """Refuse a run's folder whose resolved.yaml is not what the run wrote: something else would be done in its name.

    A lock.json that does not say what was written (of an earlier version), or that is not there, is passed over.

    Raises:
        RunError: if it is not, or lock.json is damaged.
    """
    path, lock = run / "resolved.yaml", run / "lock.json"
    written = read_json(lock) if lock.exists() else {}
    if not isinstance(written, dict):
        raise RunError(f"{lock}: is no record of a run; run the study again to have it written anew")
    if written.get("resolved") not in (None, file_hash(path)):
        raise RunError(
            f"{path}: is damaged, or was changed (it is not what the run wrote); run the study again to have it "
            "written anew, or ask for something else with --set"
        )


def remove_leftovers(run: Path) -> None:
    """Remove the unfinished files that a killed process left behind in the places where a run writes, no other.

    Those places are the run's folder itself and all below its `cells`; a link is not followed, and a cell that another
    process works on is left alone.
    """
    _remove_unfinished(run.glob(f"{TEMPORARY}*"))
    cells = run / "cells"
    if cells.is_symlink():
        return
    _remove_unfinished(cells.glob(f"{TEMPORARY}*"))
    for cell in sorted(path for path in cells.glob("*") if path.is_dir() and not path.is_symlink()):
        if any(cell.rglob(f"{TEMPORARY}*")):
            with suppress(InUse), in_turn(cell):  # which removes them
                pass


def _remove_unfinished(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is not empty and not a run's: its files may be somebody's work.

    Raises:
        RunError: names the folder and something in it.
    """
    if (folder / HOLDER).exists() or ((folder / "lock.json").is_file() and (folder / "resolved.yaml").is_file()):
        return
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise RunError(f"{folder} is no folder: choose another --out")
        return
    found = min((path.name for path in folder.iterdir()), default=None)
    if found is not None:
        raise RunError(
            f"{folder} is not empty, and no run of avrobust (it holds {found!r}): choose a new folder, or an empty "
            "one, for --out"
        )


def made_runs_own(folder: Path) -> None:
    """Make a folder a run's own, without holding it.

    Raises:
        RunError: if it is not empty and no run's.
    """
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HOLDER).touch()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run's folder: a second process that asks for it gets an error, and a killed one lets go of it.

    Raises:
        RunError: if another process holds it, or the folder is not empty and no run's.
    """
    refuse_foreign(folder)
    with ExitStack() as held:
        try:
            held.enter_context(_holding(folder, None))
        except InUse as error:
            raise RunError(f"{error}; wait for it, or choose another --out") from None
        yield


class InUse(RunError):
    """Another process holds a folder."""


@contextmanager
def in_turn(folder: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the folder of a cell, one process after the other; what a killed one left unfinished in it is removed.

    Args:
        folder: is made.
        waiting: told once of the process that holds it, if there is one, in words; None not to wait for it.

    Raises:
        InUse: if another process holds it, and this one is not to wait.
    """
    with _holding(folder, waiting):
        _remove_unfinished(folder.rglob(f"{TEMPORARY}*"))
        yield


@contextmanager
def _holding(folder: Path, waiting: Callable[[str], object] | None) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HOLDER).open("a+") as file:
        if not _locked(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if waiting is None:
                raise InUse(f"{folder} is in use by {holder}")
            waiting(holder)
            while not _locked(file):
                time.sleep(_PAUSE)
        try:
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        except OSError as error:  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(folder / HOLDER)) from error
        yield


def _locked(file: TextIO) -> bool:
    """Lock a file, unless another process has; the lock ends with the process."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second on some file systems of a network
        return False
    except OSError as error:  # a file system without locks
        raise OSError(error.errno, error.strerror, file.name) from error
    return True
