"""Packing a data set: its clips, read once, in shards that are whole or not there, by several processes if need be."""

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core._version import __version__
from avrobust_core.data.batches import Batch
from avrobust_core.data.compact import ENCODINGS, encode
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, check_ids
from avrobust_core.data.packed_index import (
    FORMAT,
    PLAN,
    SCHEMA,
    PackedIndex,
    read_shard_rows,
    shard_name,
    write_index,
    write_shard_rows,
)
from avrobust_core.errors import DataError, RunError
from avrobust_core.files import TEMPORARY, digest, read_json, write_atomically, write_json

SHARD_BYTES: Final = 2**30
"""Of a shard's clips as float32; pictures take a quarter of it."""

SHARD_CLIPS: Final = 10_000
"""The most that a shard has by default: what is known of each is kept in memory until the shard is whole."""

_AT_ONCE: Final = 8
"""Clips that a process reads before it hands them on."""

_Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """What a call of `pack` did, and what the folder has now.

    Attributes:
        folder: that it packed into.
        shards: how many there are to be.
        finished: how many are whole.
        made: how many of them this call made.
        clips: in the shards that are whole, unreadable ones included.
        unreadable: how many of these clips are that.
        bytes: of the shards that are whole.
        complete: whether the index is written, so that the folder can be read.
    """

    folder: str
    shards: int
    finished: int
    made: int
    clips: int
    unreadable: int
    bytes: int
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Shard:
    number: int
    split: str
    start: int
    stop: int

    def batches(self) -> list[list[int]]:
        """The positions of its clips in their split, as they are read together."""
        positions = range(self.start, self.stop)
        return [list(positions[i : i + _AT_ONCE]) for i in range(0, len(positions), _AT_ONCE)]


def pack(
    dataset: Dataset,
    folder: Path,
    *,
    part: tuple[int, int] = (1, 1),
    shard_clips: int | None = None,
    workers: int = 0,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Pack a data set's clips into a folder, for `PackedClips` to read.

    Whoever finds all shards whole writes the index. Shards are tar files of .npy members, as webdataset reads them.

    Args:
        dataset: any.
        folder: new, empty, or one that the same data set was being packed into.
        part: (i, n): this call makes the i-th of n parts of the shards, from 1; those that are whole are kept.
        shard_clips: clips in each shard, the same for all parts; by default as many as make `SHARD_BYTES`, at most
            `SHARD_CLIPS`.
        workers: processes that read; 0 reads in this one.
        report: told of each shard.
        progress: told (clips read, clips that this call reads).

    Raises:
        DataError: if the data set's ids are not unique, or it gives another part of a clip in each epoch.
        DatasetFailure: if more clips cannot be read than the data set allows; the shards made until then are kept.
        RunError: if the folder holds something else.
    """
    if dataset.redrawn:
        raise DataError(
            "the data set gives another part of each clip in each epoch to learn from, and shards hold one part of it: "
            "pack it with one (`--set data.with.window=centre`), or learn from the files"
        )
    check_ids(dataset)
    if shard_clips is None:
        floats = sum(int(np.prod(spec.shape)) for spec in dataset.media.values())
        shard_clips = min(SHARD_CLIPS, max(1, SHARD_BYTES // max(1, 4 * floats)))
    shards = _planned(dataset, shard_clips)
    plan = {
        "format": FORMAT,
        "data": dataset.fingerprint(),
        "splits": {split: len(dataset.ids(split)) for split in dataset.splits},
        "shard_clips": shard_clips,
    }
    _claim(folder, plan)
    of = digest(plan)
    mine = [shard for shard in shards if shard.number % part[1] == part[0] - 1]
    to_make = [shard for shard in mine if read_shard_rows(folder, shard.number, of) is None]
    total = sum(shard.stop - shard.start for shard in to_make)
    read = 0

    def count(clips: int) -> None:
        nonlocal read
        read += clips
        progress(read, total)

    count(0)
    with Loader(dataset, workers=workers) as loader:
        for split in dataset.splits:
            _make(loader, split, [shard for shard in to_make if shard.split == split], folder, of, report, count)
    return _finish(dataset, folder, shards, len(to_make), plan)


def _planned(dataset: Dataset, shard_clips: int) -> list[_Shard]:
    """The shards: each of neighbouring clips of one split, so that whoever reads a split in order reads them so."""
    ranges = [
        (split, start, min(start + shard_clips, len(dataset.ids(split))))
        for split in dataset.splits
        for start in range(0, len(dataset.ids(split)), shard_clips)
    ]
    return [_Shard(number, *place) for number, place in enumerate(ranges)]


def _claim(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder this packing's own.

    Raises:
        RunError: if it holds something else, or another packing.
    """
    path = folder / PLAN
    if not path.is_file():
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is no folder: choose another --out")
        stranger = min((item.name for item in folder.iterdir()), default=None) if folder.is_dir() else None
        # Another part may be writing the same plan at this moment.
        if stranger is not None and not stranger.startswith(TEMPORARY) and not path.is_file():
            raise RunError(
                f"{folder} is not empty, and nothing was packed into it (it holds {stranger!r}): choose a new folder, "
                "or an empty one, for --out"
            )
        if not path.is_file():
            write_json(path, plan)
    found = read_json(path)
    differing = [name for name in plan if not isinstance(found, dict) or found.get(name) != plan[name]]
    if differing:
        what = {"data": "its clips' content", "splits": "its clips", "shard_clips": "the clips in a shard"}
        raise RunError(
            f"{folder} holds shards of another packing, which differs in "
            f"{' and '.join(what.get(name, name) for name in differing)}: choose another --out, or delete it"
        )


def _make(
    loader: Loader,
    split: str,
    shards: Sequence[_Shard],
    folder: Path,
    of: str,
    report: Callable[[str], None],
    count: Callable[[int], None],
) -> None:
    """Make shards of one split, in one reading of all their clips."""
    dataset = loader.dataset
    skipped = Skipped(dataset)
    batches = [batch for shard in shards for batch in shard.batches()]
    items = _counted(batches, loader.batches(split, batches, skipped), count)
    ids, groups, known = dataset.ids(split), dataset.groups(split), dataset.label_matrix(split)
    for shard in shards:
        clips = (next(items) for _ in shard.batches())
        writer = _ShardWriter(dataset, clips)
        write_atomically(folder / shard_name(shard.number), writer.write)
        faults = skipped.by_split.get(split, {})
        rows = [
            {
                "split": split,
                "id": ids[position],
                "group": None if groups is None else groups[position],
                "labels": None if known is None else known[[position]].nonzero()[1].tolist(),
                "fault": faults.get(ids[position]),
                **writer.places.get(ids[position], {}),
            }
            | ({"shard": shard.number} if ids[position] in writer.places else {})
            for position in range(shard.start, shard.stop)
        ]
        write_shard_rows(folder, shard.number, rows, of)
        unreadable = sum(row["fault"] is not None for row in rows)
        told = f", {unreadable} of them unreadable" if unreadable else ""
        report(f"{shard_name(shard.number)}: {len(rows)} clips of split {split!r}{told}")


def _counted(
    asked: Sequence[Sequence[int]], items: Iterator[Batch | None], count: Callable[[int], None]
) -> Iterator[Batch | None]:
    for batch, item in zip(asked, items, strict=True):
        count(len(batch))
        yield item


class _ShardWriter:
    """Writes one shard, and says where in it each clip lies.

    Attributes:
        places: by id: the columns labels, offsets, encodings, checksum and padded of the clips that could be read.
    """

    def __init__(self, dataset: Dataset, batches: Iterator[Batch | None]) -> None:
        self.dataset = dataset
        self.batches = batches
        self.places: dict[str, dict[str, object]] = {}

    def write(self, file: BinaryIO) -> None:
        """Write the file: for each clip a .npy for each modality, and a .json that names it."""
        tar = _Tar(file)
        for batch in self.batches:
            if batch is not None:
                for i, clip_id in enumerate(batch.ids):
                    inputs = {modality: batch.inputs[modality][i] for modality in self.dataset.media}
                    padded = [float(batch.padded[i].get(modality, 0)) for modality in inputs]
                    self.places[clip_id] = self._add(tar, clip_id, inputs, batch.targets[i]) | {"padded": padded}
        tar.end()

    def _add(self, tar: "_Tar", clip_id: str, inputs: Mapping[str, Tensor], target: Tensor) -> dict[str, object]:
        names, key = list(ENCODINGS), f"{len(self.places):09d}"
        offsets, encodings, checksum = [], [], 0
        for modality, x in inputs.items():
            encoding, kept = encode(x)
            numbers = kept.numpy()
            content = numbers.reshape(-1).view(np.uint8).data
            checksum = zlib.crc32(content, checksum)
            offsets.append(tar.add(f"{key}.{quote(modality, safe='')}.npy", _npy_header(numbers), content))
            encodings.append(names.index(encoding))
        labels = [int(target)] if self.dataset.task == "single-label" else target.nonzero().flatten().tolist()
        about = {"id": clip_id, "labels": labels, "encodings": [names[kind] for kind in encodings]}
        tar.add(f"{key}.json", json.dumps(about).encode())
        return {"labels": labels, "offsets": offsets, "encodings": encodings, "checksum": checksum}


class _Tar:
    """Writes a tar. `tarfile.TarFile` takes nearly twice the time, and does not say where it puts what it adds."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position = 0

    def add(self, name: str, *content: bytes | memoryview) -> int:
        """Add a file of a content given in parts.

        Returns:
            Where in the tar the last part begins.
        """
        member = tarfile.TarInfo(name)
        member.size = sum(map(len, content))
        padding = bytes(-member.size % tarfile.BLOCKSIZE)
        for part in (member.tobuf(tarfile.GNU_FORMAT), *content, padding):
            self.file.write(part)
            self.position += len(part)
        return self.position - len(padding) - len(content[-1])

    def end(self) -> None:
        """Write what ends a tar."""
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))


def _npy_header(numbers: _Numbers) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(numbers))
    return head.getvalue()


def _finish(dataset: Dataset, folder: Path, shards: Sequence[_Shard], made: int, plan: Mapping[str, Any]) -> Packed:
    """Write the index if all shards are whole, and count."""
    found = [read_shard_rows(folder, shard.number, digest(plan)) for shard in shards]
    whole = [each for each in found if each is not None]
    rows = pa.concat_tables([SCHEMA.empty_table(), *(each.rows.replace_schema_metadata(None) for each in whole)])
    complete = len(whole) == len(shards)
    if complete:
        index = PackedIndex(
            classes=tuple(dataset.classes),
            task=dataset.task,
            media=dataset.media,
            splits=tuple(dataset.splits),
            max_unreadable=dataset.max_unreadable,
            provenance=dataset.provenance(),
            shards=tuple(each.bytes for each in whole),
            rows=rows,
        )
        write_index(folder, index, {"data": plan["data"], "made_with": __version__})
        for leftover in folder.glob(f"{TEMPORARY}*"):  # of processes that were killed: nobody writes here any more
            leftover.unlink(missing_ok=True)
    return Packed(
        folder=str(folder),
        shards=len(shards),
        finished=len(whole),
        made=made,
        clips=rows.num_rows,
        unreadable=rows.num_rows - rows["fault"].null_count,
        bytes=sum(each.bytes for each in whole),
        complete=complete,
    )
