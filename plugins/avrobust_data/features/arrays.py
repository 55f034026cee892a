"""Arrays in files, of which rows are read by themselves; and those of numpy's files."""

import os
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from avrobust_core import DataError, first_of
from avrobust_data.suggesting import nearest

_HEADERS: Final = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_ENCRYPTED: Final = 1


class StoredArray(ABC):
    """An array in a file. It can be pickled: nothing is held open that a copy would need.

    Attributes:
        file: the file.
        inner: its name inside the file; "" if it is all that the file holds.
        shape: (clips, ...).
        dtype: as stored.
    """

    file: Path
    inner: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def place(self) -> str:
        """File and name, for messages."""
        return f"{self.file}:{self.inner}" if self.inner else f"{self.file}"

    def where(self, row: int) -> str:
        """File, name and row, for messages."""
        return f"{self.place} row {row}"

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize

    @property
    def bytes_per_read(self) -> int:
        """The bytes that are read, or unpacked, for one row."""
        return self.row_bytes

    @property
    def together(self) -> int:
        """The rows that are read, or unpacked, together with each."""
        return 1

    @abstractmethod
    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` to before `stop`: (stop - start, ...), a copy.

        Raises:
            DataError: if they cannot be read; names file, array and row.
        """


class Source(ABC):
    """A file or folder that holds arrays by name.

    Attributes:
        path: the file or folder.
        group: the group that arrays are in where the configuration names none; may hold "{split}".
    """

    path: Path
    group: str

    @abstractmethod
    def array(self, name: str) -> StoredArray | None:
        """The array of a name like "eval/data/labels"; None if there is no such array.

        Raises:
            DataError: if there is one that must not, or cannot, be read.
        """

    @abstractmethod
    def known(self) -> Sequence[str]:
        """The names of the arrays that there are, or of some thousands of them."""


class FlatArray(StoredArray):
    """Rows that lie one after the other from an offset on: of a .npy file, by itself or stored in an .npz file.

    They are read, not mapped: a mapped file that is cut while it is in use would end the process.
    """

    def __init__(self, file: Path, inner: str, begin: int, available: int) -> None:
        """Read the header.

        Args:
            file: the file.
            inner: the name inside it.
            begin: where numpy's header begins.
            available: bytes from there on.

        Raises:
            DataError: if it is no array, or not one that can be read row by row, or is cut short.
        """
        self.file, self.inner = file, inner
        with file.open("rb") as stream:
            stream.seek(begin)
            self.shape, fortran, self.dtype = _header(stream, self.place)
            self._offset = stream.tell()
        if self.dtype.hasobject:
            raise DataError(f"{self.place} holds pickled Python objects, which are never loaded; save plain numbers")
        if not self.shape or min(self.shape) < 0 or not self.dtype.itemsize:
            raise DataError(f"{self.place} is {self.dtype} of shape {self.shape}, which has no rows")
        if fortran and len(self.shape) > 1:
            raise DataError(
                f"{self.place} is stored in Fortran's order, in which a clip is scattered over the whole file; save "
                "np.ascontiguousarray of it"
            )
        needed = self._offset - begin + len(self) * self.row_bytes
        if needed > available:
            raise DataError(f"{self.place} is cut short: its {len(self)} rows need {needed} bytes, of {available}")

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        count = (stop - start) * (self.row_bytes // self.dtype.itemsize)
        try:
            found = np.fromfile(self.file, self.dtype, count, offset=self._offset + start * self.row_bytes)
        except OSError as error:
            raise DataError(f"{self.where(start)} cannot be read: {error.strerror or error}") from error
        if len(found) < count:
            raise DataError(f"{self.where(start)} cannot be read: the file has become shorter")
        return found.reshape(stop - start, *self.shape[1:])


class Joined(StoredArray):
    """Several arrays with rows of one shape and type, one after the other.

    Args:
        parts: the arrays, not none.

    Raises:
        DataError: if their rows differ.
    """

    def __init__(self, parts: Sequence[StoredArray]) -> None:
        first = parts[0]
        for part in parts:
            if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                raise DataError(
                    f"{part.place} has rows of {part.dtype} {part.shape[1:]}, but {first.place}, a piece of the same "
                    f"split, has {first.dtype} {first.shape[1:]}"
                )
        self.parts = tuple(parts)
        self.file, self.inner, self.dtype = first.file, first.inner, first.dtype
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *first.shape[1:])

    def where(self, row: int) -> str:
        i = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[i].where(row - int(self._ends[i]) + len(self.parts[i]))

    @property
    def together(self) -> int:
        return max(part.together for part in self.parts)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        found = []
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            begin = end - len(part)
            if max(start, begin) < min(stop, end):
                found.append(part.rows(max(start, begin) - begin, min(stop, end) - begin))
        return found[0] if len(found) == 1 else np.concatenate(found)


class Folder(Source):
    """A folder with .npy files, below it or in folders of it."""

    group = "{split}"

    def __init__(self, path: Path) -> None:
        self.path = path

    def array(self, name: str) -> StoredArray | None:
        file = self.path / f"{name.removesuffix('.npy')}.npy"
        return FlatArray(file, "", 0, file.stat().st_size) if file.is_file() else None

    def known(self) -> Sequence[str]:
        files = (*self.path.glob("*.npy"), *self.path.glob("*/*.npy"), *self.path.glob("*/*/*.npy"))
        return sorted(file.relative_to(self.path).with_suffix("").as_posix() for file in files)

    def lines(self, name: str) -> Path | None:
        """The text file of a name; None if there is none."""
        file = self.path / f"{name.removesuffix('.txt')}.txt"
        return file if file.is_file() else None


class Npz(Source):
    """A file of numpy.savez, whose members are not compressed.

    Raises:
        DataError: if it is not such a file.
    """

    group = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise DataError(f"{path} is no .npz file, or damaged: {error}") from error

    def array(self, name: str) -> StoredArray | None:
        info = self._members.get(name)
        if info is None:
            return None
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise DataError(
                f"{self.path}:{name} is compressed or encrypted, so that no clip can be read by itself; save it with "
                "numpy.savez, or each array with numpy.save"
            )
        with self.path.open("rb") as stream:
            stream.seek(info.header_offset)
            local = stream.read(30)
        if len(local) < 30 or local[:4] != b"PK\3\4":
            raise DataError(f"{self.path}:{name} is damaged: its header is not where the file says")
        begin = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:]))
        available = min(info.file_size, os.stat(self.path).st_size - begin)
        return FlatArray(self.path, name, begin, available)

    def known(self) -> Sequence[str]:
        return sorted(self._members)


def missing(source: Source, name: str, what: str) -> DataError:
    """The error that says that an array is not there, and which are."""
    known = source.known()
    there = f"it has {first_of(known)}" if known else "it has no array at all"
    return DataError(f"{source.path} has no array {name!r}{nearest(name, known)} for {what}; {there}: mend data.with")


def _header(stream: BinaryIO, place: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = _HEADERS[version](stream)
    except KeyError:
        raise DataError(f"{place} is of a version of numpy's format that holds no plain numbers") from None
    except Exception as error:  # numpy raises many kinds for a damaged header
        raise DataError(f"{place} is no array of numpy, or damaged: {error}") from error
    return found
