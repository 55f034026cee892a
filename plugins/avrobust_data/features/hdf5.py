"""Arrays in HDF5 files, opened by each process for itself; links that leave the file are refused."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from avrobust_core import AvrobustError, DataError
from avrobust_data.features.arrays import Source, StoredArray

_MOST_OPEN: Final = 32
"""Files that a process keeps open."""

_MOST_LINKS: Final = 16
"""Soft links on the way to one array; more are taken for a circle."""

_MOST_NAMES: Final = 1000
"""Arrays that are listed in a message's stead."""

_FAILURES: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises for files that are damaged, or hold what it cannot read."""


@dataclass(frozen=True, slots=True)
class _Open:
    """An open h5py.File, and the datasets of it that have been found, by name."""

    file: Any
    datasets: dict[str, Any] = field(default_factory=dict)


class OpenFiles:
    """HDF5 files, opened at their first use in each process: the library's state must not be shared by two.

    A copy for another process starts empty; after a fork, handles of the parent's are dropped.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[Path, _Open] = OrderedDict()

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[()]]:
        return OpenFiles, ()

    def file(self, path: Path) -> Any:
        """The open h5py.File.

        Raises:
            AvrobustError: if h5py is not installed.
            DataError: if it is no HDF5 file, or damaged.
        """
        return self._get(path).file

    def dataset(self, path: Path, name: str) -> Any:
        """The h5py.Dataset of a name like "eval/data/labels"; None if there is none.

        Raises:
            AvrobustError: if h5py is not installed.
            DataError: if the file is damaged, or a link leads out of it.
        """
        found = self._get(path)
        if name not in found.datasets:
            place = f"{path}:{name}"
            try:
                found.datasets[name] = _find(found.file, name, place)
            except _FAILURES as error:
                raise DataError(f"{place} is damaged: {_said(error)}") from error
        return found.datasets[name]

    def close(self) -> None:
        """Close all of this process's."""
        while self._open:
            self._open.popitem()[1].file.close()

    def _get(self, path: Path) -> _Open:
        if self._process != os.getpid():
            self._open.clear()
            self._process = os.getpid()
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        try:
            import h5py
        except ImportError as error:
            raise AvrobustError(f"to read {path}, features needs h5py: pip install 'avrobust[features]'") from error
        if not path.is_file():
            raise DataError(f"{path} cannot be read: it is not there, or no file")
        try:
            # No lock: the file is only read, and many file systems have none.
            self._open[path] = _Open(h5py.File(path, "r", locking=False))
        except _FAILURES as error:
            raise DataError(f"{path} is no HDF5 file, or damaged or cut short: {_said(error)}") from error
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].file.close()
        return self._open[path]


class Hdf5Array(StoredArray):
    """A dataset of an HDF5 file.

    Args:
        files: where the file is opened.
        file: the file.
        inner: the dataset's name.
        found: the dataset.

    Raises:
        DataError: if it has data elsewhere or none at all, is of a type that numpy does not have, or is packed by a
            filter that is not installed, or in pieces that are too large.
    """

    def __init__(self, files: OpenFiles, file: Path, inner: str, found: Any) -> None:
        self.file, self.inner, self._files = file, inner, files
        try:
            self.shape, self.dtype, self._pieces = tuple(found.shape or ()), found.dtype, found.chunks
            self._refuse(found)
        except _FAILURES as error:
            raise DataError(f"{self.place} is damaged, or of a type that cannot be read: {_said(error)}") from error

    @property
    def bytes_per_read(self) -> int:
        """Of all pieces (chunks) that hold some of a row."""
        if self._pieces is None:
            return self.row_bytes
        across = [-(-size // piece) * piece for size, piece in zip(self.shape[1:], self._pieces[1:], strict=True)]
        return int(np.prod([self._pieces[0], *across], dtype=object)) * self.dtype.itemsize

    @property
    def together(self) -> int:
        return 1 if self._pieces is None else int(self._pieces[0])

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        try:
            found: NDArray[Any] = self._files.dataset(self.file, self.inner)[start:stop]
        except _FAILURES as error:
            raise DataError(f"{self.where(start)} cannot be read: {_said(error)}") from error
        if found.shape != (stop - start, *self.shape[1:]):
            raise DataError(f"{self.where(start)} cannot be read: the file has changed")
        return found

    def _refuse(self, found: Any) -> None:
        import h5py

        if found.is_virtual or found.external:
            raise DataError(f"{self.place} has its data in other files, which are not opened; copy it into this one")
        if not self.shape:
            raise DataError(f"{self.place} is a single value, not one row for each clip")
        if found.size and not found.id.get_storage_size():
            raise DataError(f"{self.place} was made, but never written")
        settings = found.id.get_create_plist()
        for i in range(settings.get_nfilters()):
            code, _, _, name = settings.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                named = name.decode(errors="replace") or "unnamed"
                raise DataError(
                    f"{self.place} is packed by the filter {code} ({named}), which is not installed; pack it with gzip"
                )


class Hdf5(Source):
    """An HDF5 file.

    Args:
        path: the file.
        files: where it is opened.

    Raises:
        AvrobustError: if h5py is not installed.
        DataError: if it is no HDF5 file, or damaged.
    """

    group = "{split}/data"

    def __init__(self, path: Path, files: OpenFiles) -> None:
        self.path, self._files = path, files
        files.file(path)

    def array(self, name: str) -> StoredArray | None:
        found = self._files.dataset(self.path, name)
        return None if found is None else Hdf5Array(self._files, self.path, name, found)

    def known(self) -> Sequence[str]:
        import h5py

        found: list[str] = []

        def look(name: str, item: object) -> bool | None:
            if isinstance(item, h5py.Dataset):
                found.append(name)
            return len(found) >= _MOST_NAMES or None

        with suppress(*_FAILURES):  # of a damaged file the others are told
            self._files.file(self.path).visititems(look)  # follows no soft or external links
        return found


def _find(file: Any, name: str, place: str) -> Any:
    """The dataset of a name, by links inside the file alone; None if there is none.

    Every step is looked at before it is taken: HDF5 itself would open whatever file an external link names.

    Args:
        file: an open h5py.File.
        name: like "eval/data/labels".
        place: for the error.

    Raises:
        DataError: if a link leads out of the file, or in a circle.
    """
    import h5py

    node, parts, links = file["/"], _steps(name), 0
    while parts:
        if not isinstance(node, h5py.Group):
            return None
        part = parts.pop(0)
        try:
            link = node.get(part, getlink=True)
        except TypeError:  # a kind of link that h5py does not know
            link = h5py.ExternalLink("?", "?")
        if isinstance(link, h5py.ExternalLink):
            raise DataError(f"{place}: {part!r} is a link to another file, which is not opened; copy the data into it")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                raise DataError(f"{place}: its links lead in a circle")
            node = file["/"] if link.path.startswith("/") else node
            parts = _steps(link.path) + parts
        elif link is None:
            return None
        else:
            node = node[part]
    return node if isinstance(node, h5py.Dataset) else None


def _steps(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
