"""Predictions of one model on chosen clips, clean or under one attack, kept in parts that survive a kill."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.attacking import AttackRun, attack_batch
from avrobust_core.batches import Batch
from avrobust_core.errors import DataError
from avrobust_core.media import Task
from avrobust_core.objectives import margin
from avrobust_core.study.loading import Selection
from avrobust_core.study.store import write_atomically
from avrobust_core.victim import Victim

PART_SECONDS = 30.0
"""How much evaluation a killed process loses at most, beside the batch it was in."""

ReadBatches = Callable[[str, Sequence[Sequence[int]]], Iterator[Batch | None]]
"""From a split and batches of positions to batches; None where no clip of a batch could be read."""

Tick = Callable[[int], None]
"""Told how many clips have been done since it was last told."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What was found for each clip that could be read, in the selection's order.

    Attributes:
        ids: the clips.
        logits: (N, K) float32.
        targets: (N,) int64 or (N, K) float32.
        margins: (N,) float32; correct where positive.
        norms: by attacked modality, (N,) float64: the size of the perturbation.
        success: (N,) bool: whether the attack's goal is reached; False for clean predictions.
        factor: (N,) float64: by what factor of the threat's radii a clip is broken, of those tried or, with an attack
            that looks for the smallest perturbation, of all; infinite where it is not.
        queries: (N,) int64 forward passes per clip; 0 for clean predictions.
        seconds: spent on these clips, by all processes together.
    """

    ids: tuple[str, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    margins: NDArray[np.float32]
    norms: dict[str, NDArray[np.float64]]
    success: NDArray[np.bool_]
    factor: NDArray[np.float64]
    queries: NDArray[np.int64]
    seconds: float

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each clip is classified correctly: (N,) bool."""
        return np.asarray(self.margins > 0)


def evaluate_batch(victim: Victim, batch: Batch, run: AttackRun | None) -> dict[str, Tensor]:
    """Predict one batch, attacked first if there is an attack; whatever the attack returns is verified.

    Returns:
        By column: logits (B, K), margin (B,), success (B,), factor (B,), queries (B,), and norm/<modality> (B,) for
        each attacked modality.

    Raises:
        AttackViolation: if the attack broke its threat model.
    """
    if run is None:
        logits = victim.logits(batch.inputs)
        return {
            "logits": logits,
            "margin": margin(logits, batch.targets, victim.task),
            "success": torch.zeros(len(batch), dtype=torch.bool),
            "factor": torch.full((len(batch),), torch.inf, dtype=torch.float64),
            "queries": torch.zeros(len(batch), dtype=torch.int64),
        }
    found = attack_batch(victim, batch, run)
    columns = {
        "logits": found.logits,
        "margin": margin(found.logits, batch.targets, victim.task),
        "success": found.success,
        "factor": found.factor,
        "queries": found.queries,
    }
    return columns | {f"norm/{name}": norm for name, norm in found.norms.items()}


class MicroBatches:
    """Evaluates batches in parts that the device's memory holds; results do not depend on the size of a part.

    Args:
        victim: the model.
        run: the attack; None for clean predictions.
    """

    def __init__(self, victim: Victim, run: AttackRun | None) -> None:
        self.victim = victim
        self.run = run
        self.largest: int | None = None
        """Clips in a part, halved each time that memory runs out; None until it has."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """As `evaluate_batch`.

        Raises:
            torch.OutOfMemoryError: if memory does not even hold one clip.
        """
        positions = torch.arange(len(batch), device=batch.targets.device)
        found: list[dict[str, Tensor]] = []
        while len(positions):
            part = positions[: self.largest]
            try:
                found.append(
                    evaluate_batch(self.victim, batch if len(part) == len(batch) else batch.select(part), self.run)
                )
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
    victim: Victim,
    selection: Selection,
    *,
    run: AttackRun | None,
    batch_size: int,
    read: ReadBatches,
    unreadable: Callable[[], dict[str, str]],
    device: torch.device,
    rank: int,
    tick: Tick,
) -> None:
    """Evaluate the clips that no part in `folder` holds yet, writing parts of whole batches as time goes by.

    Args:
        folder: of this evaluation.
        victim: the model; frozen here.
        selection: this process's clips.
        run: the attack; None for clean predictions.
        batch_size: clips per forward pass.
        read: reads batches.
        unreadable: the clips of the split that could not be read so far, with reasons.
        device: where the model is.
        rank: of this process: names its parts.
        tick: told of progress.
    """
    done = {clip_id for part in _parts(folder) for clip_id in (*part.column("id").to_pylist(), *_skipped_in(part))}
    tick(sum(clip_id in done for clip_id in selection.ids))
    remaining = selection.where(clip_id not in done for clip_id in selection.ids)
    chunks = remaining.chunks(batch_size)
    tables: list[pa.Table] = []
    saved = time.monotonic()
    evaluate = MicroBatches(victim, run)
    with victim.frozen():
        for number, batch in enumerate(read(selection.split, chunks), start=1):
            if batch is not None:
                batch = batch.to(device)
                tables.append(to_table(batch, evaluate(batch)))
            tick(len(chunks[number - 1]))
            now = time.monotonic()
            if now - saved > PART_SECONDS or number == len(chunks):
                _write_part(folder, rank, tables, unreadable(), now - saved)
                tables, saved = [], now


def collect(folder: Path, selection: Selection, task: Task) -> tuple[Predictions, dict[str, str]]:
    """All parts of an evaluation together, in the selection's order, and the clips that could not be read.

    Raises:
        DataError: if no clip could be read.
    """
    parts = _parts(folder)
    table = pa.concat_tables(parts, promote_options="default").combine_chunks()
    if table.num_rows == 0:
        raise DataError(f"no clip of split {selection.split!r} could be read")
    skipped = {clip_id: reason for part in parts for clip_id, reason in _skipped_in(part).items()}
    seconds = sum(float((part.schema.metadata or {})[b"seconds"]) for part in parts)
    position = {clip_id: i for i, clip_id in enumerate(selection.ids)}
    order = sorted(range(table.num_rows), key=lambda row: position[table["id"][row].as_py()])
    predictions = from_table(table.take(pa.array(order, type=pa.int64())), task, seconds)
    return predictions, {clip_id: skipped[clip_id] for clip_id in selection.ids if clip_id in skipped}


def remove_parts(folder: Path) -> None:
    """Remove the parts, once what they hold lies elsewhere."""
    for path in folder.glob("part-*.parquet"):
        path.unlink()


def to_parquet(path: Path, predictions: Predictions) -> None:
    """Write predictions as one parquet file, whole or not at all."""
    table = pa.table(
        {
            "id": pa.array(predictions.ids, type=pa.string()),
            "target": _column(predictions.targets),
            "logits": _column(predictions.logits),
            "margin": predictions.margins,
            "success": predictions.success,
            "factor": predictions.factor,
            "queries": predictions.queries,
            **{f"norm/{name}": norm for name, norm in predictions.norms.items()},
        }
    )
    write_atomically(path, lambda file: pq.write_table(table, file))


def from_parquet(path: Path, task: Task, seconds: float) -> Predictions:
    """Read what `to_parquet` wrote."""
    return from_table(pq.read_table(path), task, seconds)


def from_table(table: pa.Table, task: Task, seconds: float) -> Predictions:
    """Predictions from their table."""
    targets = _matrix(table["target"]) if task == "multi-label" else table["target"].to_numpy()
    return Predictions(
        ids=tuple(table["id"].to_pylist()),
        logits=_matrix(table["logits"]),
        targets=targets,
        margins=table["margin"].to_numpy(),
        norms={
            name.removeprefix("norm/"): table[name].to_numpy()
            for name in table.column_names
            if name.startswith("norm/")
        },
        success=table["success"].to_numpy(zero_copy_only=False),
        factor=table["factor"].to_numpy(),
        queries=table["queries"].to_numpy(),
        seconds=seconds,
    )


def to_table(batch: Batch, columns: dict[str, Tensor]) -> pa.Table:
    """One row per clip of what was found for a batch."""
    arrays = {name: _column(tensor.cpu().numpy()) for name, tensor in columns.items()}
    return pa.table(
        {"id": pa.array(batch.ids, type=pa.string()), "target": _column(batch.targets.cpu().numpy()), **arrays}
    )


def _column(array: NDArray[Any]) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    width = column.type.list_size
    flat = column.combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)


def _parts(folder: Path) -> list[pa.Table]:
    # Opened here, not by pq.read_table(path): that memory-maps nothing useful and holds the file open.
    return [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]


def _skipped_in(part: pa.Table) -> dict[str, str]:
    found: dict[str, str] = json.loads((part.schema.metadata or {})[b"skipped"])
    return found


def _write_part(folder: Path, rank: int, tables: Iterable[pa.Table], skipped: dict[str, str], seconds: float) -> None:
    tables = list(tables)
    table = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], type=pa.string())})
    table = table.replace_schema_metadata({"seconds": f"{seconds:.6f}", "skipped": json.dumps(skipped)})
    number = len(list(folder.glob(f"part-{rank:04}-*.parquet")))
    write_atomically(folder / f"part-{rank:04}-{number:06}.parquet", lambda file: pq.write_table(table, file))
