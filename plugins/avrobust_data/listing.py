"""The clips of a data set of media files, in columns: two million take some hundred megabytes."""

import csv
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, overload

import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import AvrobustWarning, DataError, Task, first_of
from avrobust_data.table import read_lines, read_rows

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("sound", pa.string()),
        ("start", pa.float64()),
        ("stop", pa.float64()),
        ("labels", pa.list_(pa.int32())),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("group", pa.string()),
    ]
)
"""Columns of a listing: the id, unique; the file (or folder of images), relative to the root; the file of its sound,
likewise, where that is another one (null: it is not); where the clip begins and ends in it, in
seconds (null: at its beginning, at its end); positions in `classes`; the split; the group (null: none)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip of a listing; see `SCHEMA`."""

    id: str
    path: str
    sound: str | None
    start: float | None
    stop: float | None
    labels: tuple[int, ...]
    split: str
    group: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The clips of a set, whatever it was read from.

    Attributes:
        table: one row per clip, in order, with the columns of `SCHEMA`.
        classes: the class names in the order of the targets.
        task: single-label if every clip has one label and can have one only.
        source: the file or folder that it was read from, for messages.
    """

    table: pa.Table
    classes: tuple[str, ...]
    task: Task
    source: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Entry:
        row = {name: column[index].as_py() for name, column in zip(SCHEMA.names, self.table.columns, strict=True)}
        return Entry(**row | {"labels": tuple(row["labels"])})

    def entries(self) -> Iterable[Entry]:
        """All clips, one after the other."""
        for batch in self.table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                yield Entry(**row | {"labels": tuple(row["labels"])})

    def chunks(self) -> Iterator[dict[str, list[Any]]]:
        """The columns of ten thousand clips at a time."""
        for start in range(0, len(self), 10_000):
            columns: dict[str, list[Any]] = self.table.slice(start, 10_000).to_pydict()
            yield columns

    def every(self, step: int) -> "Listing":
        """One in `step` clips, from the first on."""
        return self if step == 1 else self._of(self.table.take(pa.array(range(0, len(self), step))))

    def by_split(self, order: Sequence[str]) -> dict[str, "Listing"]:
        """The listings of the splits that have clips, in an order of splits."""
        split = self.table["split"].combine_chunks().cast(pa.string())
        found = {}
        for name in order:
            part = self.table.filter(pc.equal(split, name))
            if part.num_rows:
                found[name] = self._of(part)
        return found

    def at(self, keep: pa.ChunkedArray | pa.Array) -> "Listing":
        """The clips for which `keep` (N,) is true."""
        return self._of(self.table.filter(keep))

    def _of(self, table: pa.Table) -> "Listing":
        return Listing(table.combine_chunks(), self.classes, self.task, self.source)

    def texts(self, name: str) -> "Texts":
        """The values of `id`, `path` or `group`."""
        return Texts(self.table[name])


class Texts(Sequence[str]):
    """A column of texts as a sequence; it takes the memory of their letters, also in another process.

    Args:
        column: of strings, none of them null.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._column[index]
        taken: str | list[str] = found.to_pylist() if isinstance(index, slice) else found.as_py()
        return taken

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 10_000):
            yield from self._column[start : start + 10_000].to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return f"<{len(self)} texts: {first_of(self[:6])}>"


def listing_of(columns: Mapping[str, Sequence[object]], classes: Sequence[str], task: Task, source: str) -> Listing:
    """A listing from its columns; those that may be null may be left out."""
    count = len(columns["id"])
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in SCHEMA]
    return Listing(pa.Table.from_arrays(arrays, schema=SCHEMA), tuple(classes), task, source)


def listed(ids: pa.ChunkedArray, file: Path, source: str) -> pa.ChunkedArray:
    """(N,) whether each id is in a published list, which need not be of this copy of a set.

    How many of the list are missing is an `AvrobustWarning`.

    Args:
        ids: (N,) of the clips that there are.
        file: the list; see `read_ids`.
        source: what the ids are of, for the warning.

    Raises:
        DataError: if the list cannot be read, or names none of them.
    """
    wanted = pa.array(dict.fromkeys(read_ids(file)), pa.string())
    keep = pc.is_in(ids, value_set=wanted)
    missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=ids.combine_chunks())))
    if len(missing) == len(wanted):
        raise DataError(
            f"none of the {len(wanted)} ids of {file} is an id of {source}; the first is {wanted[0].as_py()!r}"
        )
    if len(missing):
        shown = first_of([*missing[:5].to_pylist(), *[""] * (len(missing) - 5)])
        warnings.warn(
            f"{source} lacks {len(missing)} of the {len(wanted)} ids of {file}: {shown}", AvrobustWarning, stacklevel=2
        )
    return keep


def read_ids(file: Path) -> list[str]:
    """The ids of a list: of a CSV with a column `id` those in it, else one per line; "#" begins a comment.

    Raises:
        DataError: if the file cannot be read, or has no id.
    """
    lines = (line.strip() for line in read_lines(file, "ids"))
    found = [line for line in lines if line and not line.startswith("#")]
    delimited = found and next(csv.reader([found[0].replace(";", ",").replace("\t", ",")]))
    if "id" in [name.strip().casefold() for name in delimited or ()]:
        rows = (cells for _, cells in read_rows(file, "ids"))
        at = [name.strip().casefold() for name in next(rows)].index("id")
        found = [cells[at].strip() for cells in rows if len(cells) > at and cells[at].strip()]
    if not found:
        raise DataError(f"{file} has no id; it needs one per line")
    return found
