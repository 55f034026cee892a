"""The clips of a data set of media files, in columns: two million take some hundred megabytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import Task

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("start", pa.float64()),
        ("stop", pa.float64()),
        ("labels", pa.list_(pa.int32())),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("group", pa.string()),
    ]
)
"""Columns of a listing: the id, unique; the file, relative to the root; where the clip begins and ends in it, in
seconds (null: at its beginning, at its end); positions in `classes`; the split; the group (null: none)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip of a listing; see `SCHEMA`."""

    id: str
    path: str
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
        row = self.table.slice(index, 1).to_pylist()[0]
        return Entry(**row | {"labels": tuple(row["labels"])})

    def entries(self) -> Iterable[Entry]:
        """All clips, one after the other."""
        for batch in self.table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                yield Entry(**row | {"labels": tuple(row["labels"])})

    def by_split(self, order: Sequence[str]) -> dict[str, "Listing"]:
        """The listings of the splits that have clips, in an order of splits."""
        split = self.table["split"].combine_chunks().cast(pa.string())
        found = {}
        for name in order:
            part = self.table.filter(pc.equal(split, name))
            if part.num_rows:
                found[name] = Listing(part.combine_chunks(), self.classes, self.task, self.source)
        return found

    def column(self, name: str) -> list[object]:
        """One column's values."""
        values: list[object] = self.table[name].to_pylist()
        return values


def listing_of(columns: Mapping[str, Sequence[object]], classes: Sequence[str], task: Task, source: str) -> Listing:
    """A listing from its columns; those that may be null may be left out."""
    count = len(columns["id"])
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in SCHEMA]
    return Listing(pa.Table.from_arrays(arrays, schema=SCHEMA), tuple(classes), task, source)
