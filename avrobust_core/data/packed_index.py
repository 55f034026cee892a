"""The index of packed clips: what lies in which shard and where, and all that a data set says of its clips."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avrobust_core.data.compact import ENCODINGS
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import DataError
from avrobust_core.files import read_record, write_atomically, write_record

FORMAT: Final = 2
"""Raised when folders that were packed before can no longer be read."""

INDEX: Final = "index.json"
ROWS: Final = "clips.parquet"
PLAN: Final = "packing.json"

SCHEMA: Final = pa.schema(
    [
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("id", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("group", pa.string()),
        ("shard", pa.int32()),
        ("offsets", pa.list_(pa.int64())),
        ("encodings", pa.list_(pa.int8())),
        ("checksum", pa.uint32()),
        ("padded", pa.list_(pa.float32())),
        ("fault", pa.string()),
    ]
)
"""A row per clip, in the order of the splits and of their ids. `offsets`: where in the shard's file the values of each
modality begin, in the order of `PackedIndex.media`; `encodings`: numbers of `ENCODINGS`; `checksum`: CRC-32 of the
values as they lie there, one modality after the other; `padded`: of each modality, the share of its time that is none
of the clip's. A clip that could not be read has a `fault`, and none of these;
`labels` only if the data set knew them.
"""


class _Media(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    rate: float | None
    bounds: tuple[float, float] | None
    time_axis: int | None
    optional: bool


class _Head(BaseModel):
    """What index.json says."""

    model_config = ConfigDict(extra="ignore")
    classes: tuple[str, ...]
    task: Task
    media: dict[str, _Media]
    splits: tuple[str, ...]
    max_unreadable: float
    provenance: dict[str, Any] = {}
    shards: tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True, slots=True)
class PackedIndex:
    """What a folder of packed clips holds.

    Attributes:
        classes: see `Dataset`, as all but the last two.
        task: likewise.
        media: likewise.
        splits: likewise.
        max_unreadable: likewise.
        provenance: likewise.
        shards: the size of each shard's file in bytes.
        rows: one per clip; see `SCHEMA`.
    """

    classes: tuple[str, ...]
    task: Task
    media: Mapping[str, MediaSpec]
    splits: tuple[str, ...]
    max_unreadable: float
    provenance: Mapping[str, Any]
    shards: tuple[int, ...]
    rows: pa.Table

    def sizes(self, encodings: Sequence[int]) -> list[int]:
        """The bytes that a clip's values take in its shard, for each modality in order."""
        types = [encoding.dtype.itemsize for encoding in ENCODINGS.values()]
        counts = [math.prod(spec.shape) for spec in self.media.values()]
        return [types[kind] * count for kind, count in zip(encodings, counts, strict=True)]


def shard_name(number: int) -> str:
    """The file of a shard. Names come from numbers alone, so that no index can lead out of its folder."""
    return f"shard-{number:05d}.tar"


def write_index(folder: Path, index: PackedIndex, made: Mapping[str, Any]) -> None:
    """Write the index, which makes the folder whole.

    Args:
        folder: where the shards are.
        index: what they hold.
        made: what else is to be kept: from what, and by which version.
    """
    rows = folder / ROWS
    write_atomically(rows, lambda file: pq.write_table(index.rows, file))
    head = _Head(
        classes=index.classes,
        task=index.task,
        media={
            name: _Media(**{field: getattr(spec, field) for field in _Media.model_fields})
            for name, spec in index.media.items()
        },
        splits=index.splits,
        max_unreadable=index.max_unreadable,
        provenance=dict(index.provenance),
        shards=index.shards,
    )
    write_record(folder / INDEX, {"format": FORMAT, **head.model_dump(mode="json"), **made}, [rows])


def read_index(folder: Path) -> PackedIndex:
    """The index of a folder.

    Raises:
        DataError: if the folder holds no packed clips, or they are not all there; or its index does not fit itself.
        RunError: if the index is damaged.
    """
    if not (folder / INDEX).is_file():
        unfinished = (folder / PLAN).is_file()
        raise DataError(
            f"{folder} is not packed to the end: run the same `avrobust data pack` again, every part of it"
            if unfinished
            else f"{folder} holds no packed clips (there is no {INDEX} in it); `avrobust data pack` makes such a folder"
        )
    record = read_record(folder / INDEX)
    if record.get("format") != FORMAT:
        raise DataError(
            f"{folder / INDEX} is of format {record.get('format')!r}, and this version of avrobust reads format "
            f"{FORMAT}: pack the clips anew"
        )
    try:
        head = _Head.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{folder / INDEX}: {where}: {first['msg']}; pack the clips anew") from error
    rows = _read_rows(folder / ROWS)
    media = {name: MediaSpec(**dict(spec)) for name, spec in head.media.items()}
    index = PackedIndex(
        classes=head.classes,
        task=head.task,
        media=media,
        splits=head.splits,
        max_unreadable=head.max_unreadable,
        provenance=head.provenance,
        shards=head.shards,
        rows=rows,
    )
    _check(folder / ROWS, index)
    return index


def _read_rows(path: Path) -> pa.Table:
    try:
        rows = pq.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"{path}: cannot be read ({error}); pack the clips anew") from error
    if rows.schema.names != SCHEMA.names:
        raise DataError(f"{path}: has the columns {', '.join(rows.schema.names)}; pack the clips anew")
    try:
        return rows.cast(SCHEMA).combine_chunks()
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: {error}; pack the clips anew") from error


def _check(path: Path, index: PackedIndex) -> None:
    """Refuse rows that point to where nothing can be.

    Raises:
        DataError: names what is wrong.
    """
    there = index.rows.filter(pc.is_null(index.rows["fault"]))
    modalities, shards = len(index.media), len(index.shards)
    lengths = [pc.min_max(pc.list_value_length(there[name])).as_py() for name in ("offsets", "encodings")]
    ranges = {
        "shard": (there["shard"], shards),
        "offsets": (pc.list_flatten(there["offsets"]), max(index.shards, default=0) + 1),
        "encodings": (pc.list_flatten(there["encodings"]), len(ENCODINGS)),
        "labels": (pc.list_flatten(index.rows["labels"]), len(index.classes)),
    }
    wrong = [name for name, (values, count) in ranges.items() if not _within(values, count)]
    if there.num_rows and any(found != {"min": modalities, "max": modalities} for found in lengths):
        wrong.append(f"{modalities} places for each clip")
    if any(there[name].null_count for name in ("id", "split", "shard", "checksum")):
        wrong.append("values that must be there")
    if wrong:
        raise DataError(f"{path}: does not fit {INDEX} ({', '.join(wrong)}); pack the clips anew")


def _within(values: Any, count: int) -> bool:
    found = pc.min_max(values).as_py()
    return found["min"] is None or (values.null_count == 0 and found["min"] >= 0 and found["max"] < count)


@dataclass(frozen=True, slots=True)
class ShardRows:
    """What a shard's own list says, which stands beside it as soon as it is whole.

    Attributes:
        rows: of its clips; see `SCHEMA`.
        bytes: the size of its file.
    """

    rows: pa.Table
    bytes: int


def rows_path(folder: Path, number: int) -> Path:
    """The file of a shard's own list."""
    return folder / Path(shard_name(number)).with_suffix(".parquet")


def write_shard_rows(folder: Path, number: int, rows: Iterable[Mapping[str, object]], of: str) -> ShardRows:
    """Write a shard's list, which says that the shard is whole.

    Args:
        folder: where the shard is.
        number: the shard's.
        rows: of its clips.
        of: which packing it belongs to.
    """
    size = os.stat(folder / shard_name(number)).st_size
    about = {"of": of, "bytes": size}
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata({"avrobust": json.dumps(about)}))
    write_atomically(rows_path(folder, number), lambda file: pq.write_table(table, file))
    return ShardRows(table, size)


def read_shard_rows(folder: Path, number: int, of: str) -> ShardRows | None:
    """A shard's list, if the shard is whole and of this packing; else None."""
    path = rows_path(folder, number)
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"avrobust"])
        size = os.stat(folder / shard_name(number)).st_size
    except (OSError, ValueError, KeyError):  # not there, or of a machine that lost power as it was written
        return None
    return ShardRows(table, size) if about == {"of": of, "bytes": size} else None
