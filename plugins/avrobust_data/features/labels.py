"""Labels and ids of clips as arrays hold them, checked row by row and kept in little memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from avrobust_core import DataError
from avrobust_data.features.arrays import StoredArray

_BLOCK: Final = 8 * 2**20
"""Bytes that are looked at together."""

_LONGEST: Final = 500
"""Characters that an id may have."""


Names = NDArray[np.bytes_]
"""Ids of clips, in UTF-8: (N,). Two million of YouTube's take 22 MB."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one split.

    Attributes:
        place: the array that they were read from, for messages.
        matrix: (N, K) float32 zeros and ones; of numbers of classes, K is the highest and one more.
        single: whether the array holds numbers of classes, one for each clip.
    """

    place: str
    matrix: csr_array
    single: bool

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def of(self, row: int) -> list[int]:
        """The classes of one clip, ascending."""
        start, stop = self.matrix.indptr[row : row + 2]
        found: list[int] = self.matrix.indices[start:stop].tolist()
        return found

    @property
    def without(self) -> list[int]:
        """The clips that have none."""
        found: list[int] = np.flatnonzero(np.diff(self.matrix.indptr) == 0).tolist()
        return found

    def digest(self) -> str:
        """A hash of what they say, however they were stored."""
        found = hashlib.blake2b(self.matrix.indptr.astype("<i8").tobytes(), digest_size=16)
        found.update(self.matrix.indices.astype("<i4").tobytes())
        return found.hexdigest()


def read_labels(array: StoredArray) -> Labels:
    """Labels, in blocks of rows.

    Args:
        array: (N,) whole numbers from 0, or (N, K) zeros and ones; bool, whole or floating-point.

    Raises:
        DataError: if it is neither; names the first row that is not.
    """
    if array.dtype.kind not in "biuf" or len(array.shape) not in (1, 2) or not len(array):
        raise DataError(
            f"{array.place} is {array.dtype} of shape {array.shape}; labels are (clips,) numbers of classes or (clips, "
            "classes) zeros and ones"
        )
    single = len(array.shape) == 1
    if not single and array.shape[1] < 2:
        raise DataError(
            f"{array.place} has the shape {array.shape}: zeros and ones need a column for each of two classes at "
            "least; numbers of classes are of shape (clips,)"
        )
    positions, counts = [], []
    for start, block in _blocks(array):
        found, many = _numbers(array, block, start) if single else _ones(array, block, start)
        positions.append(found.astype(np.int32))
        counts.append(many)
    indices, ends = np.concatenate(positions), np.cumsum(np.concatenate(counts))
    columns = int(indices.max()) + 1 if single else array.shape[1]
    ones = np.ones(len(indices), np.float32)
    matrix = csr_array((ones, indices, np.concatenate([[0], ends])), shape=(len(array), columns))
    return Labels(array.place, matrix, single)


def read_names(array: StoredArray) -> Names:
    """The clips' ids: text, or whole numbers.

    Raises:
        DataError: if the array is of something else, or an id is empty or too long; names the row.
    """
    if len(array.shape) != 1 or not (array.dtype.kind in "SUiu" or _is_text(array.dtype)):
        raise DataError(f"{array.place} is {array.dtype} of shape {array.shape}; ids are (clips,) texts")
    names: list[str] = []
    for start, block in _blocks(array):
        for row, name in enumerate(block.tolist(), start):
            try:
                names.append(name.decode() if isinstance(name, bytes) else str(name))
            except UnicodeDecodeError:
                raise DataError(f"{array.where(row)} is not UTF-8") from None
    return as_names(names, array.place)


def as_names(names: Sequence[str], place: str) -> Names:
    """Ids, stripped of blanks, in compact form.

    Raises:
        DataError: if one is empty or too long; names the row.
    """
    stripped = [name.strip() for name in names]
    for row, name in enumerate(stripped):
        if not name or len(name) > _LONGEST:
            raise DataError(f"{place} row {row}: an id has 1 to {_LONGEST} characters, not {len(name)}")
    return np.array([name.encode() for name in stripped])


def _blocks(array: StoredArray) -> Iterator[tuple[int, NDArray[Any]]]:
    """All rows, some at a time, with the number of the first; what is stored together is read together."""
    step = -(-max(1, _BLOCK // array.row_bytes) // array.together) * array.together
    for start in range(0, len(array), step):
        yield start, array.rows(start, min(start + step, len(array)))


def _is_text(dtype: np.dtype[Any]) -> bool:
    """Whether this is HDF5's text of any length, which numpy holds as objects."""
    known: Mapping[str, Any] = dtype.metadata or {}
    return dtype.kind == "O" and known.get("vlen") in (str, bytes)


def _numbers(array: StoredArray, block: NDArray[Any], start: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """From numbers of classes to themselves and how many each clip has: one."""
    wide = block.astype(np.float64)  # of float16, no limit that large could be asked for
    wrong = ~((wide >= 0) & (wide < 2**31) & (wide == np.floor(wide)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{array.where(start + row)} is {block[row]}, which is no number of a class: 0, 1, ...")
    return block, np.ones(len(block), np.int64)


def _ones(array: StoredArray, block: NDArray[Any], start: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """From zeros and ones to the columns of the ones, and how many each clip has."""
    wrong = (block != 0) & (block != 1)
    if wrong.any():
        row, column = (int(x) for x in np.argwhere(wrong)[0])
        raise DataError(
            f"{array.where(start + row)}, column {column}, is {block[row, column]:g}; labels with a column for "
            "each class are 0 or 1"
        )
    rows, found = np.nonzero(block)
    return found, np.bincount(rows, minlength=len(block))
