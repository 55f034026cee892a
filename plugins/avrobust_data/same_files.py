"""Which paths name one file, by whatever spelling or link: folders are listed, so that few files need a look each."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LISTED: Final = 64
"""From so many files of one folder on, the folder is listed; files of others are looked at one by one."""

_ODD: Final = r"^/|//|(^|/)\.{1,2}(/|$)"
"""A path that another one may spell otherwise: it is absolute, goes up, or stays where it is."""

_UNSURE: Final = r"%[0-9A-Fa-f]{2}|\\|[^\x00-\x7f]"
"""What other systems spell otherwise."""

_TRIED: Final = 1000


def files_of(paths: pa.Array, root: Path) -> NDArray[np.int64]:
    """(N,) for each path a number that it shares with just the paths of the same file: links, too.

    A folder's own listing gives the files' numbers without a look at each, which takes two million files from minutes
    to seconds on a network. What two paths seem to share is confirmed by looking at both. Files in folders whose file
    system lists no numbers, or others than it states, are told apart by their paths alone.

    Args:
        paths: (N,) strings.
        root: what relative paths are relative to.
    """
    distinct = paths.dictionary_encode()
    names: list[str] = distinct.dictionary.to_pylist()
    odd = pc.match_substring_regex(distinct.dictionary, _ODD).to_numpy(zero_copy_only=False)
    folder = os.path.abspath(root)
    numbers = _numbers(names, odd, folder)
    codes = np.arange(len(names), dtype=np.int64)
    found, missing = np.flatnonzero(numbers), np.flatnonzero(numbers == 0)
    _, first, inverse, counts = np.unique(numbers[found], return_index=True, return_inverse=True, return_counts=True)
    if len(first) < len(found):
        sure: dict[tuple[int, int], int] = {}
        for i in found[counts[inverse] > 1].tolist():
            state = _state(_at(folder, names[i], odd[i]))
            if state is not None:
                codes[i] = sure.setdefault(state, i)
    if odd[missing].any():
        spelled: dict[str, int] = {}
        for i in missing.tolist():
            codes[i] = spelled.setdefault(_normal(folder, names[i]), i)
    by_row: NDArray[np.int64] = codes[distinct.indices.to_numpy()]
    return by_row


def misspelt(paths: pa.ChunkedArray, root: Path) -> Iterator[tuple[str, str]]:
    """Paths that name no file where one of another spelling is there: percent signs, backslashes, forms of Unicode.

    Looks at the first thousand paths at most that may be meant.

    Yields:
        the path, and the spelling of the file that is there.
    """
    unsure = paths.filter(pc.match_substring_regex(paths, _UNSURE))
    for path in unsure.slice(0, _TRIED).to_pylist():
        if os.path.exists(os.path.join(root, path)):
            continue
        plain = unquote(path).replace("\\", "/")
        others = (plain, unicodedata.normalize("NFC", plain), unicodedata.normalize("NFD", plain))
        for other in dict.fromkeys(others):
            if other != path and "\0" not in other and os.path.exists(os.path.join(root, other)):
                yield path, other
                break


def _numbers(names: Sequence[str], odd: NDArray[np.bool_], root: str) -> NDArray[np.uint64]:
    """The number of each file within its file system; 0 for one that is not there."""
    by_folder: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        by_folder[name.rpartition("/")[0]].append(i)
    numbers = np.zeros(len(names), np.uint64)
    for folder, members in by_folder.items():
        listed = _listing(os.path.join(root, folder or ("/" if names[members[0]][:1] == "/" else "")), len(members))
        for i in members:
            number = listed.get(names[i].rpartition("/")[2]) if listed is not None else None
            if listed is None or number == 0:
                state = _state(_at(root, names[i], odd[i]))
                number = state[1] if state is not None else None
            numbers[i] = number or 0
    return numbers


def _listing(folder: str, files: int) -> dict[str, int] | None:
    """The numbers of a folder's files by name, 0 for links; None if the files are to be looked at one by one."""
    if files < LISTED:
        return None
    try:
        with os.scandir(folder) as entries:
            listed = {entry.name: 0 if entry.is_symlink() else entry.inode() for entry in entries}
    except FileNotFoundError:
        return {} if folder == os.path.normpath(folder) else None
    except (OSError, ValueError):
        return None
    probe = next((name for name, number in listed.items() if number), None)
    if probe is not None and _state(os.path.join(folder, probe)) not in (None, (os.stat(folder).st_dev, listed[probe])):
        return None  # some file systems that are laid over others list numbers that `stat` does not know
    return listed


def _at(root: str, path: str, odd: bool) -> str:
    """Where a file lies; if that goes up from a folder that is not there, without going down and up again."""
    whole = os.path.join(root, path) if odd else f"{root}/{path}"
    return whole if not odd or os.path.exists(whole) else os.path.normpath(whole)


def _normal(root: str, path: str) -> str:
    return os.path.normpath(os.path.join(root, path))


def _state(path: str) -> tuple[int, int] | None:
    """Device and number of a file; None if it is not there, or its file system has no numbers."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None
