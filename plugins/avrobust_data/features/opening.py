"""From a configuration to the arrays of each split: found, and checked against one another."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from avrobust_core import AvrobustWarning, DataError
from avrobust_data.features.arrays import Folder, Joined, Npz, Source, StoredArray, missing
from avrobust_data.features.config import SPLIT, USUAL_SPLITS, FeaturesConfig
from avrobust_data.features.hdf5 import Hdf5, OpenFiles
from avrobust_data.features.labels import Labels, Names, as_names, read_labels, read_names
from avrobust_data.sets.sheets import read_lines

_LARGEST: Final = 2**30
"""Bytes that may be read, or unpacked, for one clip."""

_SLOW: Final = 16 * 2**20
"""Bytes unpacked for one clip from which on a warning is due, if most of them are other clips'."""


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """The clips of a split.

    Attributes:
        arrays: by modality, all with as many rows.
        labels: of the clips.
        names: their ids; None where they are made from split and row.
        rows: (N,) int64, the rows of the arrays that are the clips; None for all.
    """

    arrays: Mapping[str, StoredArray]
    labels: Labels
    names: Names | None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def row(self, index: int) -> int:
        """The row of the arrays that a clip is."""
        return index if self.rows is None else int(self.rows[index])

    def taken(self, index: NDArray[np.int64]) -> "StoredSplit":
        """Some of the clips of a split that has all of them."""
        names = None if self.names is None else self.names[index]
        return StoredSplit(self.arrays, replace(self.labels, matrix=self.labels.matrix[index]), names, index)


def open_splits(config: FeaturesConfig, files: OpenFiles) -> dict[str, StoredSplit]:
    """Open the arrays of every split, and read labels and ids.

    Args:
        config: where they lie.
        files: where HDF5 files are opened.

    Raises:
        AvrobustError: if h5py is needed, and not installed.
        DataError: if an array is missing, cannot be read, does not fit the others of its split, or is in two splits.
    """
    opening = _Opening(config, files)
    return {split: opening.split(split, pieces) for split, pieces in opening.pieces()}


class _Opening:
    """Finds arrays, and notes which have been taken."""

    def __init__(self, config: FeaturesConfig, files: OpenFiles) -> None:
        self.config, self.files = config, files
        self._taken: dict[tuple[Path, str, str], str] = {}

    def pieces(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The splits, and what each is called in the files: those asked for, or the usual ones that are there."""
        if self.config.splits is not None:
            for split, names in self.config.splits.items():
                yield split, (names,) if isinstance(names, str) else names
            return
        there = {split: name for split, name in USUAL_SPLITS.items() if self._is_there(name)}
        if not there:
            source, inner = self._find(USUAL_SPLITS["test"], self.config.labels)
            usual = ", ".join(USUAL_SPLITS.values())
            raise missing(
                source, inner, f"the labels of any split called {usual} (say what yours are called in `splits`)"
            )
        for split, name in there.items():
            yield split, (name,)

    def split(self, split: str, pieces: Sequence[str]) -> StoredSplit:
        """The clips of a split, in all its pieces."""
        config = self.config
        labels = read_labels(self._joined(split, pieces, config.labels, "labels"))
        arrays = {
            modality: self._joined(split, pieces, feature.array, modality)
            for modality, feature in config.modalities.items()
        }
        counts = [(array.place, len(array)) for array in arrays.values()]
        names = None
        if config.names is not None:
            names = np.concatenate([self._names(split, piece, config.names) for piece in pieces])
            counts.append((f"the array of ids {config.names!r}", len(names)))
        for what, count in counts:
            if count != len(labels):
                raise DataError(f"split {split!r}: {what} has {count} rows, but {labels.place} has {len(labels)}")
        for array in arrays.values():
            _check_features(array)
        return StoredSplit(arrays, labels, names)

    def _joined(self, split: str, pieces: Sequence[str], name: str, what: str) -> StoredArray:
        parts = [self._array(split, piece, name, what) for piece in pieces]
        return parts[0] if len(parts) == 1 else Joined(parts)

    def _array(self, split: str, piece: str, name: str, what: str) -> StoredArray:
        """One array, taken for the first time: what two splits share would be learned and tested."""
        source, inner = self._find(piece, name)
        array = source.array(inner)
        if array is None:
            raise missing(source, inner, f"{what} of split {split!r}")
        key = (array.file.resolve(), inner, what)
        if key in self._taken:
            raise DataError(
                f"{array.place} would be {what} of split {self._taken[key]!r} and of {split!r}, too: put {SPLIT} into "
                "`path`, `group` or the array's name, or mend `splits` of data.with"
            )
        self._taken[key] = split
        if array.bytes_per_read > _LARGEST:
            needed = f"{array.bytes_per_read / 2**20:,.0f} MiB"
            raise DataError(f"{array.place}: to read one clip takes {needed}; at most 1024 MiB are read")
        return array

    def _names(self, split: str, piece: str, name: str) -> Names:
        source, inner = self._find(piece, name)
        file = source.lines(inner) if isinstance(source, Folder) else None
        if file is not None:
            return as_names(read_lines(file), str(file))
        return read_names(self._array(split, piece, name, "ids"))

    def _is_there(self, piece: str) -> bool:
        if not self._path(piece).exists():
            return False
        source, inner = self._find(piece, self.config.labels)
        return source.array(inner) is not None

    def _find(self, piece: str, name: str) -> tuple[Source, str]:
        """Where an array of a piece of a split should be, and its whole name there."""
        source = self._source(self._path(piece))
        if name.startswith("/"):
            return source, name.replace(SPLIT, piece).strip("/")
        group = source.group if self.config.group is None else self.config.group
        return source, f"{group}/{name}".replace(SPLIT, piece).strip("/")

    def _path(self, piece: str) -> Path:
        return Path(self.config.path.replace(SPLIT, piece))

    def _source(self, path: Path) -> Source:
        if path.is_dir():
            return Folder(path)
        if not path.is_file():
            raise DataError(
                f"there is no file or folder {path}; set data.with.path to an HDF5 file, an .npz file, or a folder "
                "with .npy files"
            )
        try:
            with path.open("rb") as file:
                begins = file.read(6)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if begins == b"\x93NUMPY":
            raise DataError(f"{path} is a single array; set data.with.path to the folder that it is in")
        return Npz(path) if begins.startswith(b"PK") else Hdf5(path, self.files)


def _check_features(array: StoredArray) -> None:
    if array.dtype.kind not in "fiu" or len(array.shape) < 2 or not min(array.shape):
        raise DataError(
            f"{array.place} is {array.dtype} of shape {array.shape}; features are numbers of shape (clips, ...)"
        )
    for part in array.parts if isinstance(array, Joined) else (array,):
        needed = part.bytes_per_read
        if needed > _SLOW and needed > 8 * part.row_bytes:
            warnings.warn(
                f"{part.place}: to read a clip of {part.row_bytes / 2**20:.2g} MiB unpacks {needed / 2**20:.0f} MiB, "
                "since its pieces (chunks) hold others, too; write it with one clip in each",
                AvrobustWarning,
                stacklevel=2,
            )
