"""From predictions to what a run reports: accuracies with intervals, worst cases, metrics, the per-clip table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avrobust_core.contracts import Dataset, Measurement
from avrobust_core.errors import RunError
from avrobust_core.randomness import derive_seed
from avrobust_core.spec.model import EvaluationSection
from avrobust_core.statistics import Estimate, bootstrap, bootstrap_mean
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.plan import CLEAN, PlannedCell
from avrobust_core.study.store import write_atomically


@dataclass(frozen=True, slots=True)
class Intervals:
    """How intervals are made: every estimate of a study resamples the same clips, so that they can be compared."""

    confidence: float
    resamples: int
    seed: int

    @classmethod
    def of(cls, section: EvaluationSection, seed: int) -> "Intervals":
        """As a spec asks for them."""
        return cls(section.confidence, section.resamples, derive_seed(seed, "bootstrap"))

    def mean(self, outcomes: NDArray[np.bool_]) -> Estimate:
        """The share of clips for which a 0/1 outcome is 1."""
        return bootstrap_mean(outcomes, confidence=self.confidence, resamples=self.resamples, seed=self.seed)

    def share(self, outcomes: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        """The share of the clips in `among` for which an outcome is 1; `among` is resampled too."""
        inside = outcomes[among]
        if not inside.size or inside.min() == inside.max():
            return self.mean(inside)
        hits, base = (outcomes & among).astype(np.float64), among.astype(np.float64)

        def ratio(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            total = weights @ base
            undefined: NDArray[np.float64] = np.full(len(weights), np.nan)
            return np.divide(weights @ hits, total, out=undefined, where=total > 0)

        found = bootstrap(ratio, outcomes.size, confidence=self.confidence, resamples=self.resamples, seed=self.seed)
        return Estimate(found.value, found.low, found.high, int(inside.size), found.method)


def summarise(cell: PlannedCell, found: Mapping[str, Predictions], intervals: Intervals) -> dict[str, Any]:
    """The headline numbers of one cell, as JSON data; `found` is by the evaluation's label.

    Robust accuracy counts the clips that are classified correctly both clean and after the attack. The worst case
    counts, per threat, those that no attack broke. A threat that touches nothing the model reads leaves the clean
    accuracy, with an empty list of attacked modalities.
    """
    clean = found[CLEAN]
    robust: dict[str, dict[str, Any]] = {}
    success: dict[str, dict[str, Any]] = {}
    surviving: dict[str, NDArray[np.bool_]] = {}
    for evaluation in cell.evaluations[1:]:
        attack, threat = str(evaluation.attack), str(evaluation.threat)
        predictions = found[evaluation.label]
        _same_clips(cell, clean, predictions)
        survived = clean.correct & predictions.correct
        attacked = list(evaluation.applied.modalities) if evaluation.applied is not None else []
        robust.setdefault(attack, {})[threat] = intervals.mean(survived).to_json() | {
            "attacked": attacked,
            "queries": float(predictions.queries.mean()),
        }
        success.setdefault(attack, {})[threat] = intervals.share(clean.correct & ~survived, clean.correct).to_json()
        surviving[threat] = surviving.get(threat, clean.correct) & survived
    return {
        "clips": len(clean.ids),
        "clean_accuracy": intervals.mean(clean.correct).to_json(),
        "robust_accuracy": robust,
        "attack_success_rate": success,
        "worst_case": {threat: intervals.mean(correct).to_json() for threat, correct in surviving.items()},
    }


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A metric's finding as JSON data: NaN becomes None."""
    return {
        "values": {name: value.to_json() for name, value in measurement.values.items()},
        "per_class": {
            name: {label: None if value != value else float(value) for label, value in values.items()}
            for name, values in measurement.per_class.items()
        },
    }


def write_samples(path: Path, cell: PlannedCell, found: Mapping[str, Predictions], dataset: Dataset) -> None:
    """Write one row per clip and evaluation: what was predicted, and what it took.

    The norm of a modality that was not attacked is 0: the core has checked that it is as it was, bit for bit.
    """
    clean = found[CLEAN]
    tables = []
    for evaluation in cell.evaluations:
        predictions = found[evaluation.label]
        count = len(predictions.ids)
        tables.append(
            pa.table(
                {
                    "id": pa.array(predictions.ids, type=pa.string()),
                    "attack": pa.array([evaluation.attack] * count, type=pa.string()),
                    "threat": pa.array([evaluation.threat] * count, type=pa.string()),
                    "labels": pa.array(_labels(predictions, dataset), type=pa.list_(pa.string())),
                    "prediction": pa.array(
                        [dataset.classes[k] for k in predictions.logits.argmax(axis=1)], type=pa.string()
                    ),
                    "correct": predictions.correct,
                    "clean_correct": clean.correct,
                    "margin": predictions.margins,
                    "queries": predictions.queries,
                    **{f"norm/{name}": predictions.norms.get(name, np.zeros(count)) for name in sorted(dataset.media)},
                }
            )
        )
    table = pa.concat_tables(tables)
    write_atomically(path, lambda file: pq.write_table(table, file))


def _labels(predictions: Predictions, dataset: Dataset) -> Sequence[list[str]]:
    if dataset.task == "single-label":
        return [[dataset.classes[k]] for k in predictions.targets]
    return [[dataset.classes[k] for k in np.flatnonzero(row > 0.5)] for row in predictions.targets]


def _same_clips(cell: PlannedCell, clean: Predictions, other: Predictions) -> None:
    if clean.ids != other.ids:
        raise RunError(
            f"cell {cell.id} ({cell.label}): its evaluations hold different clips, since some could be read at one "
            f"time and not at another; delete {cell.folder / 'evaluations'} and run again"
        )
