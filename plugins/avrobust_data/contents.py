"""Digests of files' contents, kept on disk by size and times, so that a file that does not change is read once."""

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from avrobust_data.images import is_image

BLOCK: Final = 64 * 2**10
BLOCKS: Final = 16
"""A file of at most 16 blocks of 64 KiB is read whole; of a longer one that many, evenly spread from end to end; of a
folder of images the first block of each of 16, likewise, and all names and sizes."""

_SETTLED_NS: Final = 2_000_000_000
"""A file that changed less than this long ago may change again within one tick of the file system's clock."""

_READERS: Final = 8
"""Threads: reading waits for disks and networks."""

_TOGETHER: Final = 1000
"""Files that a thread looks at before it tells of them."""

_STATE: Final = ("size", "modified", "changed", "number")

State = tuple[int, int, int, int]
"""A file's state, as `_STATE` names it: its size, its times of modification and change in ns, its number."""

Look = tuple[State | None, str]
"""A file's state and the digest of its content; None and "" if it cannot be read."""


def digests(names: Sequence[str], store: Path | None) -> list[str]:
    """The digest of the content of each file or folder of images: hexadecimal, "" for what cannot be read.

    Args:
        names: absolute paths.
        store: where digests are kept between runs; None, or a place that cannot be written, for nowhere.
    """
    kept = _load(store) if store is not None else {}
    found = {name: kept[name] for name in names if name in kept and kept[name][0] == _state(name)}
    changed = [name for name in dict.fromkeys(names) if name not in found]
    if changed:
        with ThreadPoolExecutor(_READERS) as pool:
            found |= zip(changed, pool.map(_look_into, changed), strict=True)
    settled = time.time_ns() - _SETTLED_NS
    keep = {name: look for name, look in found.items() if look[0] is not None and max(look[0][1:3]) < settled}
    if store is not None and keep != kept:
        _save(store, keep)
    return [found[name][1] for name in names]


def sizes(names: Sequence[str]) -> list[int | None]:
    """The size of each file in bytes; None for one that is not there."""
    with ThreadPoolExecutor(_READERS) as pool:
        parts = (names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER))
        found = pool.map(lambda part: [_size(name) for name in part], parts)
        return [size for part in found for size in part]


def default_store(name: str) -> Path | None:
    """Where the digests of one manifest are kept: in the user's folder for caches; None if there is no such place."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "avrobust" / f"contents-{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.parquet"


def _state(name: str) -> State | None:
    """The state of a file, or of a folder of images; None for what is not there, or neither."""
    try:
        found = os.stat(name)
        if stat.S_ISDIR(found.st_mode):
            return _state_of_folder(name, found)
    except (OSError, ValueError):
        return None
    return _of(found) if stat.S_ISREG(found.st_mode) else None


def _state_of_folder(name: str, folder: os.stat_result) -> State | None:
    """All images' bytes, the latest times among theirs and the folder's, its number; None without images."""
    states = [_of(os.stat(os.path.join(name, image))) for image in _images(name)]
    if not states:
        return None
    sizes, modified, changed, _ = zip(*states, strict=True)
    own = _of(folder)
    return sum(sizes), max(own[1], *modified), max(own[2], *changed), own[3]


def _of(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1)


def _images(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name) and entry.is_file())


def _size(name: str) -> int | None:
    state = _state(name)
    return None if state is None else state[0]


def _look_into(name: str) -> Look:
    """A file's or folder's state and digest, where it can be read; to open a pipe would wait for a writer."""
    state = _state(name)
    if state is None:
        return None, ""
    digest = hashlib.blake2b(str(state[0]).encode(), digest_size=16)
    try:
        for block in _blocks_of_folder(name) if os.path.isdir(name) else _blocks(name, _starts(state[0])):
            digest.update(block)
    except OSError:
        return None, ""
    return state, digest.hexdigest()


def _blocks_of_folder(name: str) -> Iterator[bytes]:
    """The names and sizes of all images, and the first block of some."""
    images = _images(name)
    paths = [os.path.join(name, image) for image in images]
    yield json.dumps([images, [os.stat(path).st_size for path in paths]]).encode()
    for i in _spread(len(paths), BLOCKS):
        yield from _blocks(paths[i], (0,))


def _blocks(name: str, starts: Iterable[int]) -> Iterator[bytes]:
    with open(name, "rb", buffering=0) as file:
        for start in starts:
            file.seek(start)
            yield file.read(BLOCK)


def _starts(size: int) -> Iterable[int]:
    """The offsets of the blocks that are read from a file."""
    if size <= BLOCK * BLOCKS:
        return range(0, size, BLOCK)
    return _spread(size - BLOCK + 1, BLOCKS)


def _spread(count: int, most: int) -> Iterable[int]:
    """At most so many of the numbers below `count`, evenly spread from the first to the last."""
    return range(count) if count <= most else (round(i * (count - 1) / (most - 1)) for i in range(most))


def _load(store: Path) -> dict[str, Look]:
    """The looks that are kept, by file; none from a store that is missing or damaged."""
    try:
        columns = pq.read_table(store).to_pydict()
        states = zip(*(columns[name] for name in _STATE), strict=True)
        looks = zip(states, columns["digest"], strict=True)
        return cast(dict[str, Look], dict(zip(columns["file"], looks, strict=True)))
    except (OSError, KeyError, pa.ArrowException):
        return {}


def _save(store: Path, keep: Mapping[str, Look]) -> None:
    """Write the store, whole or not at all; a place that cannot be written only costs the next run its time."""
    table = pa.table(
        {
            "file": pa.array(keep, pa.string()),
            "digest": pa.array([digest for _, digest in keep.values()], pa.string()),
            **{
                name: pa.array([state[i] for state, _ in keep.values() if state], pa.int64())
                for i, name in enumerate(_STATE)
            },
        }
    )
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=store.parent, prefix=f".{store.name}.")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file)
        os.replace(temporary, store)
    except (OSError, pa.ArrowException):
        Path(temporary).unlink(missing_ok=True)
