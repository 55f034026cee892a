"""Work on chosen clips, batch by batch, kept in parts that survive a kill: predictions, attacks, embeddings."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.batches import Batch
from avrobust_core.border.readings import checksums
from avrobust_core.errors import DatasetFailure
from avrobust_core.study.loading import Selection
from avrobust_core.study.store import write_atomically

PART_SECONDS = 30.0
"""How much work a killed process loses at most, beside the batch it was in."""

PART_BYTES = 256 * 2**20
"""How much of what was found is held in memory, beside the batch."""

CHECKSUM = "checksum/"
"""What the columns of checksums are named with."""

Columns = Mapping[str, Tensor]
"""What was found for a batch of B clips, by name, each (B, ...)."""

Work = Callable[[Batch], Columns]
"""From a batch to what is found for each of its clips, which does not depend on its batch mates."""

ReadBatches = Callable[[str, Sequence[Sequence[int]]], Iterator[Batch | None]]
"""From a split and batches of positions to batches; None where no clip of a batch could be read."""

Tick = Callable[[int], None]
"""Told how many clips have been done since it was last told."""

Limit = Callable[[str, Sequence[str]], AbstractContextManager[None]]
"""From what is done ("reading batch 3") and the clips that it is done with, to what ends it when it takes too long."""


Compare = Callable[[Sequence[str], Sequence[str], Mapping[str, Tensor]], None]
"""From the clips that a batch was to have, those that could be read, and their checksums, to an error if it must be."""


def no_limit(step: str, ids: Sequence[str]) -> AbstractContextManager[None]:
    """As long as it takes."""
    return nullcontext()


class MicroBatches:
    """Works on batches in parts that the device's memory holds; results do not depend on the size of a part.

    Args:
        work: on a batch of any size.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.largest: int | None = None
        """Clips in a part, halved each time that memory runs out; None until it has."""

    def __call__(self, batch: Batch) -> Columns:
        """As `work`.

        Raises:
            torch.OutOfMemoryError: if memory does not even hold one clip.
        """
        positions = torch.arange(len(batch), device=batch.targets.device)
        found: list[Columns] = []
        while len(positions):
            part = positions[: self.largest]
            try:
                found.append(self.work(batch if len(part) == len(batch) else batch.select(part)))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.largest = len(part) // 2
            else:
                positions = positions[len(part) :]
                continue
            if batch.targets.device.type == "cuda":
                torch.cuda.empty_cache()  # outside the handler: its traceback holds on to what the attempt left behind
        return found[0] if len(found) == 1 else {name: torch.cat([part[name] for part in found]) for name in found[0]}


def carry_out(
    folder: Path,
    selection: Selection,
    work: Work,
    *,
    batch_size: int,
    read: ReadBatches,
    unreadable: Callable[[], dict[str, str]],
    device: torch.device,
    rank: int,
    tick: Tick,
    constant: Callable[[], dict[str, str]] = dict,
    limit: Limit = no_limit,
    compare: Compare | None = None,
) -> None:
    """Do the work for the clips that no part in `folder` holds yet, writing parts of whole batches as time goes by.

    Args:
        folder: of this work.
        selection: this process's clips.
        work: what to do.
        batch_size: clips per call of `work`.
        read: reads batches.
        unreadable: the clips of the split that could not be read so far, with reasons.
        device: where the model is.
        rank: of this process: names its parts.
        tick: told of progress.
        constant: the clips so far that have one value throughout, and in which modality.
        limit: on the time that a batch may take.
        compare: looks at what was read before anything is done with it.
    """
    _remove_damaged(folder)
    done = {clip_id for path in paths(folder) for clip_id in (*ids_in(path), *skipped_in(path))}
    tick(sum(clip_id in done for clip_id in selection.ids))
    left = selection.where(clip_id not in done for clip_id in selection.ids)
    chunks = left.chunks(batch_size)
    tables: list[pa.Table] = []
    saved = time.monotonic()
    work_on = MicroBatches(work)
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
                tables.append(to_table(batch, {**work_on(batch), **_columns(read_as)}))
        tick(len(chunk))
        now = time.monotonic()
        full = sum(table.nbytes for table in tables) > PART_BYTES
        if full or now - saved > PART_SECONDS or number == len(chunks):
            _write(folder, rank, tables, now - saved, {"skipped": unreadable(), "constant": constant()})
            tables, saved = [], now


def _remove_damaged(folder: Path) -> None:
    """Remove parts that cannot be read or do not agree with their checksums: their clips are done again."""
    for path in paths(folder):
        try:
            pq.read_table(path, page_checksum_verification=True)
            skipped_in(path)
            seconds_in(path)
        except (OSError, ValueError, KeyError, TypeError):  # pyarrow's errors are ValueErrors or OSErrors
            path.unlink()


def paths(folder: Path) -> list[Path]:
    """The parts of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def ids_in(path: Path) -> list[str]:
    """The clips whose results a part holds."""
    found: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()
    return found


def skipped_in(path: Path) -> dict[str, str]:
    """The clips that could not be read while a part was made, with reasons."""
    return _clips_in(path, b"skipped")


def seconds_in(path: Path) -> float:
    """How long it took to make a part."""
    return float(_metadata(path)[b"seconds"])


def remove(folder: Path) -> None:
    """Remove the parts, once what they hold lies elsewhere."""
    for path in paths(folder):
        path.unlink()


def in_order(found: Sequence[str], selection: Selection) -> NDArray[np.int64]:
    """For each clip of the parts, taken one after the other, its row in the selection's order: (N,).

    Raises:
        DatasetFailure: if there is no clip.
    """
    if not found:
        raise DatasetFailure(f"no clip of split {selection.split!r} could be read")
    position = {clip_id: i for i, clip_id in enumerate(selection.ids)}
    order = np.argsort([position[clip_id] for clip_id in found], kind="stable")
    rows = np.empty(len(found), dtype=np.int64)
    rows[order] = np.arange(len(found))
    return rows


def all_skipped(folder: Path, selection: Selection) -> dict[str, str]:
    """The selection's clips that no part could read, with reasons."""
    return _all_clips(folder, selection, b"skipped")


def all_constant(folder: Path, selection: Selection) -> dict[str, str]:
    """The selection's clips that have one value throughout, and in which modality."""
    return _all_clips(folder, selection, b"constant")


def _all_clips(folder: Path, selection: Selection, what: bytes) -> dict[str, str]:
    found = {clip_id: text for path in paths(folder) for clip_id, text in _clips_in(path, what).items()}
    return {clip_id: found[clip_id] for clip_id in selection.ids if clip_id in found}


def _clips_in(path: Path, what: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(_metadata(path).get(what, b"{}"))
    return found


def to_table(batch: Batch, columns: Columns) -> pa.Table:
    """One row per clip of what was found for a batch."""
    arrays = {name: to_column(tensor.cpu().numpy()) for name, tensor in columns.items()}
    return pa.table(
        {"id": pa.array(batch.ids, type=pa.string()), "target": to_column(batch.targets.cpu().numpy()), **arrays}
    )


def checksums_in(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    """The checksums of a table, by modality and for the targets, each (N,)."""
    names = [name for name in table.column_names if name.startswith(CHECKSUM)]
    return {name.removeprefix(CHECKSUM): table[name].to_numpy() for name in names}


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


def _columns(read_as: Columns) -> Columns:
    """Checksums as columns: results of several readings are set side by side only if they are of the same clips."""
    return {f"{CHECKSUM}{name}": found for name, found in read_as.items()}


def _metadata(path: Path) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = pq.read_schema(path).metadata
    return found


def _write(
    folder: Path, rank: int, tables: Iterable[pa.Table], seconds: float, clips: Mapping[str, Mapping[str, str]]
) -> None:
    tables = list(tables)
    table = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], type=pa.string())})
    notes = {what: json.dumps(found) for what, found in clips.items()}
    table = table.replace_schema_metadata({"seconds": f"{seconds:.6f}", **notes})
    numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob(f"part-{rank:04}-*.parquet")]
    path = folder / f"part-{rank:04}-{max(numbers, default=-1) + 1:06}.parquet"
    write_atomically(path, lambda file: pq.write_table(table, file, write_page_checksum=True))
