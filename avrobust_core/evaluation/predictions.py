"""Predictions of one model on chosen clips, clean or under one attack, kept in shards that survive a kill."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.attacks.running import AttackRun, attack_batch
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.checking import check_targets
from avrobust_core.data.loading import Selection
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.shards import from_column, to_column
from avrobust_core.files import write_atomically
from avrobust_core.models.objectives import margin

PREDICTIONS = "predictions.parquet"
"""The file of an evaluation's predictions, beside its record.json."""

_COLUMNS: Mapping[str, str] = MappingProxyType(
    {"target": "targets", "logits": "logits", "margin": "margins"}
    | {name: name for name in ("success", "factor", "queries", "backwards")}
)
"""The columns of the file, and the fields of `Predictions` that they hold."""

_PREFIXES: Mapping[str, str] = MappingProxyType(
    {"norm/": "norms", "no_gradient/": "no_gradient", shards.CHECKSUM: "checksums"}
)
"""The prefixes of columns by modality, and the fields that they hold."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions for each clip that could be read, in the selection's order.

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
        no_gradient: by attacked modality, (N,) bool: all gradients that the attack asked for were zero.
        checksums: by modality, and for the targets, (N,) int64: of what was read; see `data.readings`.
        backwards: (N,) int64 backward passes per clip; 0 for clean predictions, None where they are not known.
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
    no_gradient: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    checksums: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    backwards: NDArray[np.int64] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """The clips that are classified correctly: (N,) bool."""
        return np.asarray(self.margins > 0)

    @property
    def own(self) -> NDArray[np.bool_]:
        """Each clip's own classes: (N, K) bool."""
        if self.targets.ndim == 2:
            return np.asarray(self.targets > 0.5)
        return np.asarray(self.targets[:, None] == np.arange(self.logits.shape[1]))


def evaluate_batch(victim: Victim, batch: Batch, run: AttackRun | None) -> dict[str, Tensor]:
    """Predict one batch, attacked first if there is an attack; whatever the attack returns is verified.

    Returns:
        By column: logits (B, K), margin (B,), success (B,), factor (B,), queries (B,), backwards (B,), and for each
        attacked modality norm/<modality> (B,) and no_gradient/<modality> (B,).

    Raises:
        AttackViolation: if the attack broke its threat model.
        ModelError: if the model's answers cannot be used; see `Victim.clean_logits`.
        DataError: if the targets do not fit the model's logits.
    """
    if run is None:
        logits = victim.clean_logits(batch)
        check_targets(batch.targets, batch.ids, logits.shape[1], victim.task)
        none = torch.zeros(len(batch), dtype=torch.int64)
        columns = {"success": none.bool(), "factor": none.double() + torch.inf, "queries": none, "backwards": none}
    else:
        found = attack_batch(victim, batch, run)
        logits = found.logits
        columns = {name: getattr(found, name) for name in ("success", "factor", "queries", "backwards")}
        columns |= {f"norm/{name}": norm for name, norm in found.norms.items()}
        columns |= {f"no_gradient/{name}": missing for name, missing in found.no_gradient.items()}
    return {"logits": logits, "margin": margin(logits, batch.targets, victim.task), **columns}


def collect(folder: Path, selection: Selection) -> Predictions:
    """All shards of an evaluation together, in the selection's order.

    Raises:
        DatasetFailure: if no clip could be read.
    """
    seconds = sum(shards.seconds_in(path) for path in shards.paths(folder))
    return from_table(shards.collected(folder, selection), seconds)


def to_parquet(path: Path, predictions: Predictions) -> None:
    """Write predictions as one parquet file, whole or not at all."""
    columns = {"id": pa.array(predictions.ids, type=pa.string())}
    columns |= {column: to_column(getattr(predictions, attribute)) for column, attribute in _COLUMNS.items()}
    for prefix, attribute in _PREFIXES.items():
        columns |= {prefix + name: to_column(values) for name, values in getattr(predictions, attribute).items()}
    write_atomically(path, lambda file: pq.write_table(pa.table(columns), file))


def from_parquet(path: Path, seconds: float) -> Predictions:
    """Read what `to_parquet` wrote."""
    return from_table(pq.read_table(path), seconds)


def from_table(table: pa.Table, seconds: float) -> Predictions:
    """Predictions from their table."""
    single: dict[str, Any] = {attribute: from_column(table[column]) for column, attribute in _COLUMNS.items()}
    by_modality: dict[str, Any] = {
        attribute: shards.columns_named(table, prefix) for prefix, attribute in _PREFIXES.items()
    }
    return Predictions(ids=tuple(table["id"].to_pylist()), seconds=seconds, **single, **by_modality)
