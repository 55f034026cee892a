"""Work on chosen clips, batch by batch, kept in shards that survive a kill: predictions, attacks, embeddings."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import NOTE_KINDS, ClipNotes, Selection, Skipped
from avrobust_core.data.readings import checksums
from avrobust_core.errors import DatasetFailure
from avrobust_core.files import write_atomically

SHARD_SECONDS = 30.0
"""The most work that a killed process loses, beside the batch it was in."""

SHARD_BYTES = 256 * 2**20
"""The most results held in memory, beside the batch."""

CHECKSUM = "checksum/"
"""The prefix of the columns of checksums: results of two readings are put together only if the clips were the same."""

Columns = Mapping[str, Tensor]
"""The results for a batch of B clips, by name, each (B, ...)."""

Work = Callable[[Batch], Columns]
"""From a batch to what is found for each of its clips, which does not depend on its batch mates."""

ReadBatches = Callable[[str, Sequence[Sequence[int]]], Iterator[Batch | None]]
"""From a split and batches of positions to batches; None where no clip of a batch could be read."""

Report = Callable[[int, int], None]
"""Told how many clips have been done, and of how many."""

Limit = Callable[[str, Sequence[str]], AbstractContextManager[None]]
"""From what is done ("reading batch 3") and the clips that it is done with, to what ends it when it takes too long."""

Compare = Callable[[Sequence[str], Sequence[str], Mapping[str, Tensor]], None]
"""From the clips that a batch was to have, those that could be read, and their checksums, to an error if it must be."""


class MicroBatches:
    """Works on batches in pieces that the device's memory holds; results do not depend on the size of a piece.

    Args:
        work: on a batch of any size.
        spare: makes the work take less memory and tells whether it does now; asked where one clip does not fit.
    """

    def __init__(self, work: Work, spare: Callable[[], bool] = lambda: False) -> None:
        self.work = work
        self.spare = spare
        self.largest: int | None = None
        """Clips in a piece, halved each time that memory runs out; None until it has."""

    def __call__(self, batch: Batch) -> Columns:
        """As `work`.

        Raises:
            torch.OutOfMemoryError: if memory does not even hold one clip.
        """
        positions = torch.arange(len(batch), device=batch.targets.device)
        found: list[Columns] = []
        while len(positions):
            piece = positions[: self.largest]
            try:
                found.append(self.work(batch if len(piece) == len(batch) else batch.select(piece)))
            except torch.OutOfMemoryError:
                if len(piece) == 1 and not self.spare():
                    raise
                self.largest = max(1, len(piece) // 2)
            else:
                positions = positions[len(piece) :]
                continue
            if batch.targets.device.type == "cuda":
                torch.cuda.empty_cache()  # outside the handler: its traceback holds on to what the attempt left behind
        return found[0] if len(found) == 1 else {name: torch.cat([piece[name] for piece in found]) for name in found[0]}


def carry_out(
    folder: Path,
    selection: Selection,
    work: Work,
    *,
    batch_size: int,
    read: ReadBatches,
    skipped: Skipped,
    device: torch.device,
    rank: int,
    report: Report,
    limit: Limit = lambda step, ids: nullcontext(),
    compare: Compare | None = None,
    spare: Callable[[], bool] = lambda: False,
) -> None:
    """Do the work for the clips that no shard in `folder` holds yet, writing shards of whole batches as time goes by.

    Args:
        folder: of this work.
        selection: this process's clips.
        work: on each batch.
        batch_size: clips per call of `work`.
        read: reads batches.
        skipped: the record in which `read` notes clips that cannot be read, or are odd.
        device: of the model.
        rank: of this process: names its shards.
        report: told of progress.
        limit: on the time that a batch may take.
        compare: looks at what was read before anything is done with it.
        spare: see `MicroBatches`.
    """
    _remove_damaged(folder)
    earlier = {clip_id for path in paths(folder) for clip_id in (*ids_in(path), *_notes_in(path, "skipped"))}
    left = selection.where(clip_id not in earlier for clip_id in selection.ids)
    done = len(selection) - len(left)
    report(done, len(selection))
    chunks = left.chunks(batch_size)
    tables: list[pa.Table] = []
    saved = time.monotonic()
    work_on = MicroBatches(work, spare)
    batches = read(selection.split, chunks)
    for number, chunk in enumerate(chunks, start=1):
        ids = left.ids[(number - 1) * batch_size :][: len(chunk)]
        with limit(f"reading batch {number} of {len(chunks)}", ids):
            batch = next(batches)
            read_as = {} if batch is None else checksums(batch)  # before it is moved: they are computed on the CPU
        if compare is not None:
            compare(ids, () if batch is None else batch.ids, read_as)
        if batch is not None:
            with limit(f"batch {number} of {len(chunks)}", batch.ids):
                batch = batch.to(device)
                found = {**work_on(batch), **{f"{CHECKSUM}{name}": values for name, values in read_as.items()}}
                tables.append(to_table(batch, found))
        done += len(chunk)
        report(done, len(selection))
        now = time.monotonic()
        full = sum(table.nbytes for table in tables) > SHARD_BYTES
        if full or now - saved > SHARD_SECONDS or number == len(chunks):
            own = {what: by_split.get(selection.split, {}) for what, by_split in skipped.to_json().items()}
            _write(folder, rank, tables, now - saved, own)
            tables, saved = [], now


def _remove_damaged(folder: Path) -> None:
    """Remove shards that cannot be read or do not agree with their checksums: their clips are done again."""
    for path in paths(folder):
        try:
            pq.read_table(path, page_checksum_verification=True)
            for what in NOTE_KINDS:
                _notes_in(path, what)
            seconds_in(path)
        except (OSError, ValueError, KeyError, TypeError):  # pyarrow's errors are ValueErrors or OSErrors
            path.unlink()


def paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def ids_in(path: Path) -> list[str]:
    """The clips whose results a shard holds."""
    found: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()
    return found


def seconds_in(path: Path) -> float:
    """The time it took to make a shard."""
    return float(pq.read_schema(path).metadata[b"seconds"])


def remove(folder: Path) -> None:
    """Remove the shards, once what they hold lies elsewhere."""
    for path in paths(folder):
        path.unlink()


def collected(folder: Path, selection: Selection) -> pa.Table:
    """All shards together, one row per clip that could be read, in the selection's order.

    Raises:
        DatasetFailure: if there is no clip.
    """
    # pq.read_table(path) of a folder would memory-map nothing useful and hold the files open.
    tables = [pq.read_table(path) for path in paths(folder)]
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    return table.take(pa.array(np.argsort(in_order(table["id"].to_pylist(), selection))))


def in_order(found: Sequence[str], selection: Selection) -> NDArray[np.int64]:
    """For each clip of the shards, taken one after the other, its row in the selection's order: (N,).

    Raises:
        DatasetFailure: if there is no clip.
    """
    if not found:
        raise DatasetFailure(f"no clip of split {selection.split!r} could be read")
    position = {clip_id: i for i, clip_id in enumerate(selection.ids)}
    return np.argsort(np.argsort([position[clip_id] for clip_id in found], kind="stable"))


def notes_of(folder: Path, selection: Selection) -> dict[str, ClipNotes]:
    """What the shards say of the selection's clips, as `Skipped.merge` takes it."""
    notes = {}
    for what in NOTE_KINDS:
        found = {clip_id: text for path in paths(folder) for clip_id, text in _notes_in(path, what).items()}
        notes[what] = {selection.split: {clip_id: found[clip_id] for clip_id in selection.ids if clip_id in found}}
    return notes


def _notes_in(path: Path, what: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(pq.read_schema(path).metadata[what.encode()])
    return found


def to_table(batch: Batch, columns: Columns) -> pa.Table:
    """One row per clip of what was found for a batch."""
    arrays = {name: to_column(tensor.cpu().numpy()) for name, tensor in columns.items()}
    return pa.table(
        {"id": pa.array(batch.ids, type=pa.string()), "target": to_column(batch.targets.cpu().numpy()), **arrays}
    )


def columns_named(table: pa.Table, prefix: str) -> dict[str, NDArray[Any]]:
    """The columns whose names begin with a prefix, by what follows it, each (N,)."""
    names = [name for name in table.column_names if name.startswith(prefix)]
    return {name.removeprefix(prefix): table[name].to_numpy(zero_copy_only=False) for name in names}


def to_column(array: NDArray[Any]) -> pa.Array:
    """A column of a table, one row per clip, from (N, ...)."""
    column = pa.array(array.reshape(-1))
    for width in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, width)
    return column


def from_column(column: pa.ChunkedArray) -> NDArray[Any]:
    """(N, ...) from a column that `to_column` made."""
    widths = []
    flat = column.combine_chunks()
    while pa.types.is_fixed_size_list(flat.type):
        widths.append(flat.type.list_size)
        flat = flat.flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), *widths)


def _write(
    folder: Path, rank: int, tables: Sequence[pa.Table], seconds: float, clips: Mapping[str, Mapping[str, str]]
) -> None:
    table = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], type=pa.string())})
    notes = {what: json.dumps(found) for what, found in clips.items()}
    table = table.replace_schema_metadata({"seconds": f"{seconds:.6f}", **notes})
    numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob(f"part-{rank:04}-*.parquet")]
    path = folder / f"part-{rank:04}-{max(numbers, default=-1) + 1:06}.parquet"
    write_atomically(path, lambda file: pq.write_table(table, file, write_page_checksum=True))
