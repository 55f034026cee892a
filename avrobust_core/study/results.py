"""From predictions to what a run reports: accuracies with intervals, curves, fronts, the per-clip table."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avrobust_core.border.answers import probability_caveats
from avrobust_core.border.readings import FirstReading
from avrobust_core.caveats import Caveat
from avrobust_core.contracts import Dataset, Measurement, Subject
from avrobust_core.errors import ComponentError, RunError
from avrobust_core.goals import Aim
from avrobust_core.latents import Latents
from avrobust_core.media import Task
from avrobust_core.naming import first_of
from avrobust_core.probing import Probe
from avrobust_core.randomness import derive_seed
from avrobust_core.spec.model import EvaluationSection
from avrobust_core.statistics import Estimate, bootstrap, mean_shares, paired_differences, share, weighted_median
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.store import write_atomically, write_text
from avrobust_core.verification import NORM_TOLERANCE

NO_GRADIENT = 0.01
"""The share of all clips that may be robust without any gradient having reached a modality (a dead unit, say) before
the number is marked: the robust accuracy can be too high by no more than this."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """How intervals are made: every estimate of a study resamples the same clips, so that they can be compared.

    Attributes:
        confidence: e.g. 0.95.
        resamples: of a bootstrap.
        seed: of a bootstrap.
        grouping: by clip id, the group that it was drawn with; empty if every clip stands for itself.
        groups: the group of each clip that is measured, in the order of the arrays that the methods are given (`over`);
            None if every clip stands for itself.
    """

    confidence: float
    resamples: int
    seed: int
    grouping: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None

    @classmethod
    def of(cls, section: EvaluationSection, seed: int, dataset: Dataset) -> "Intervals":
        """As a spec asks for them, over the groups of clips that a data set states.

        Raises:
            ComponentError: if it does not state one for each clip.
        """
        ids, groups = dataset.ids(section.split), dataset.groups(section.split)
        if groups is not None and len(groups) != len(ids):
            raise ComponentError(
                f"the data set states groups of {len(groups)} clips of {section.split!r}, which has {len(ids)}: "
                "`groups` must give one for each clip"
            )
        grouping = {} if groups is None else dict(zip(ids, groups, strict=True))
        return cls(section.confidence, section.resamples, derive_seed(seed, "bootstrap"), grouping)

    def over(self, ids: Sequence[str]) -> "Intervals":
        """The same for these clips."""
        return replace(self, groups=tuple(self.grouping[i] for i in ids)) if self.grouping else self

    def mean(self, outcomes: NDArray[np.bool_]) -> Estimate:
        """The share of clips for which a 0/1 outcome is 1."""
        return share(outcomes, confidence=self.confidence, groups=self.groups)

    def means(self, columns: NDArray[np.float64]) -> list[Estimate]:
        """The mean of each column of (N, M) shares per clip."""
        return mean_shares(columns, confidence=self.confidence, groups=self.groups)

    def differences(self, paired: NDArray[np.float64]) -> list[Estimate]:
        """The mean of each column of (N, M) differences per clip."""
        return paired_differences(paired, confidence=self.confidence, groups=self.groups)

    def share(self, outcomes: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        """The share of the clips in `among` for which an outcome is 1."""
        return share(outcomes[among], confidence=self.confidence, groups=self._groups_of(among))

    def median(self, values: NDArray[np.float64], among: NDArray[np.bool_]) -> Estimate:
        """The median over the clips in `among` of one number per clip, which may be infinite."""
        chosen = values[among]
        return self._bootstrap(weighted_median(chosen), chosen.size, self._groups_of(among))

    def statistic(self, of_weights: Callable[[NDArray[np.float64]], NDArray[np.float64]], clips: int) -> Estimate:
        """Whatever can be computed from weights over all clips; see `bootstrap`."""
        return self._bootstrap(of_weights, clips, self.groups)

    def _groups_of(self, among: NDArray[np.bool_]) -> list[str] | None:
        return None if self.groups is None else [self.groups[i] for i in np.flatnonzero(among)]

    def _bootstrap(
        self,
        of_weights: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        clips: int,
        groups: Sequence[str] | None,
    ) -> Estimate:
        return bootstrap(
            of_weights,
            clips,
            confidence=self.confidence,
            resamples=self.resamples,
            seed=self.seed,
            groups=groups,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attack under one threat has come to.

    Attributes:
        attack, threat: names.
        modalities: those that were attacked; none if the threat touches nothing that the model reads.
        predictions: under the attack.
        aim: what it wanted.
        factors: the budgets of its curve, ascending.
        minimal: whether it looked for the smallest perturbation.
        bounded: False if it takes no notice of the radius.
        front: for each direction between two modalities' budgets, the share of each radius, and the predictions.
    """

    attack: str
    threat: str
    modalities: tuple[str, ...]
    predictions: Predictions
    aim: Aim = field(default_factory=Aim)
    factors: tuple[float, ...] = (1.0,)
    minimal: bool = False
    bounded: bool = True
    front: Sequence[tuple[Mapping[str, float], Predictions]] = ()

    @property
    def label(self) -> str:
        """For messages: "pgd/both"."""
        return f"{self.attack}/{self.threat}"


def summarise(
    clean: Predictions, outcomes: Sequence[Outcome], intervals: Intervals, caveats: Sequence[Caveat] = ()
) -> dict[str, Any]:
    """The headline numbers of one model, as JSON data.

    Robust accuracy counts the clips that are classified correctly both clean and after the attack. The worst case
    counts, per threat, those that no attack broke; attacks that take no notice of the radius are left out of it. A
    threat that touches nothing the model reads leaves the clean accuracy, with an empty list of attacked modalities.
    The success rate of a targeted attack is the share of clips, not of the target's class, that are classified as the
    target. `no_gradient` is, by attacked modality, the share of the clips counted as robust that no gradient ever
    reached there, though the attack asked for one: where that is more than `NO_GRADIENT` of all clips, it is a caveat.

    Args:
        clean: predictions on the clean clips.
        outcomes: of all attacks.
        intervals: how they are made.
        caveats: what else speaks against these numbers.

    Raises:
        RunError: if the outcomes are not all of the same clips.
        DataError: if a clip was not read alike each time.
    """
    intervals = intervals.over(clean.ids)
    robust: dict[str, dict[str, Any]] = {}
    success: dict[str, dict[str, Any]] = {}
    curves: dict[str, dict[str, Any]] = {}
    smallest: dict[str, dict[str, Any]] = {}
    fronts: dict[str, dict[str, Any]] = {}
    surviving: dict[str, NDArray[np.bool_]] = {}
    for outcome in outcomes:
        attack, threat, predictions = outcome.attack, outcome.threat, outcome.predictions
        same_clips(clean, predictions, outcome.label)
        survived = clean.correct & predictions.correct
        robust.setdefault(attack, {})[threat] = intervals.mean(survived).to_json() | {
            "attacked": list(outcome.modalities),
            "bounded": outcome.bounded,
            "queries": float(predictions.queries.mean()),
            # Four digits: the last bits move with the batches, and results must not.
            "norms": {name: float(f"{norms.mean():.4g}") for name, norms in sorted(predictions.norms.items())},
            "no_gradient": _without_gradient(survived, predictions),
        }
        success.setdefault(attack, {})[threat] = _success(clean, outcome, survived, intervals).to_json()
        if outcome.bounded:
            surviving[threat] = surviving.get(threat, clean.correct) & survived
        if not outcome.modalities:
            continue
        if len(outcome.factors) > 1:
            curves.setdefault(attack, {})[threat] = _curve(clean, outcome, intervals)
        if outcome.minimal:
            size = intervals.median(predictions.factor, clean.correct)
            smallest.setdefault(attack, {})[threat] = {"median_size": size.to_json()}
        if outcome.front:
            fronts.setdefault(attack, {})[threat] = _front(clean, outcome, intervals)
    return {
        "clips": len(clean.ids),
        "clean_accuracy": intervals.mean(clean.correct).to_json(),
        "robust_accuracy": robust,
        "attack_success_rate": success,
        "worst_case": {threat: intervals.mean(correct).to_json() for threat, correct in surviving.items()},
        "curves": curves,
        "smallest_perturbation": smallest,
        "fronts": fronts,
        "caveats": [caveat.to_json() for caveat in _all_caveats(clean, outcomes, caveats)],
    }


def _all_caveats(clean: Predictions, outcomes: Sequence[Outcome], given: Sequence[Caveat]) -> list[Caveat]:
    """What predictions alone tell, and what was found elsewhere, such as by the audit, each thing once."""
    task: Task = "multi-label" if clean.targets.ndim == 2 else "single-label"
    outputs, gradients = probability_caveats(clean.logits, task), list(_gradient_caveats(clean, outcomes))
    said = {(caveat.check, caveat.threat) for caveat in (*outputs, *gradients)}
    return [*outputs, *(caveat for caveat in given if (caveat.check, caveat.threat) not in said), *gradients]


def _without_gradient(survived: NDArray[np.bool_], predictions: Predictions) -> dict[str, float]:
    robust = max(int(survived.sum()), 1)
    return {
        name: float(f"{(survived & missing).sum() / robust:.4g}")
        for name, missing in sorted(predictions.no_gradient.items())
    }


def _gradient_caveats(clean: Predictions, outcomes: Sequence[Outcome]) -> Iterator[Caveat]:
    for outcome in outcomes:
        survived = clean.correct & outcome.predictions.correct
        for name, missing in sorted(outcome.predictions.no_gradient.items()):
            unproven = survived & missing
            count, robust = int(unproven.sum()), int(survived.sum())
            if count <= NO_GRADIENT * len(clean.ids):
                continue
            first = first_of(clean.ids[i] for i in np.flatnonzero(unproven))
            yield Caveat(
                check="zero-gradient",
                message=f"no gradient reached {name} for {count} of the {robust} clips counted as robust "
                f"({100 * count / robust:.3g} %; {first}): the model rounds, detaches or "
                f"ignores {name} there, or its loss is flat, so that {name} was not attacked; try an attack without "
                "gradients, or one on a smooth stand-in for that step",
                attack=outcome.attack,
                threat=outcome.threat,
            )


def _success(clean: Predictions, outcome: Outcome, survived: NDArray[np.bool_], intervals: Intervals) -> Estimate:
    if not outcome.aim.targeted:
        return intervals.share(clean.correct & ~survived, clean.correct)
    among = np.ones(len(clean.ids), dtype=bool)
    if outcome.aim.target is not None:
        own = clean.targets
        among = own[:, outcome.aim.target] <= 0.5 if own.ndim == 2 else own != outcome.aim.target
    return intervals.share(outcome.predictions.success, among)


def _curve(clean: Predictions, outcome: Outcome, intervals: Intervals) -> list[dict[str, Any]]:
    """Robust accuracy by factor of the radii: a clip broken at one stays broken at larger ones."""
    points = []
    for factor in outcome.factors:
        broken = outcome.predictions.factor <= factor * (1 + NORM_TOLERANCE)
        points.append({"factor": factor} | intervals.mean(clean.correct & ~broken).to_json())
    return points


def _front(clean: Predictions, outcome: Outcome, intervals: Intervals) -> list[dict[str, Any]]:
    """The smallest joint budgets, in shares of the threat's radii, that break half of the clips."""
    points = []
    for shares, predictions in outcome.front:
        same_clips(clean, predictions, outcome.label)
        size = intervals.median(predictions.factor, clean.correct)
        found = np.isfinite(size.value)
        budget = {name: share * size.value if found else None for name, share in shares.items()}
        points.append({"direction": dict(shares), "median_size": size.to_json(), "budget": budget})
    return points


def subject_of(
    predictions: Predictions,
    classes: tuple[str, ...],
    task: Task,
    intervals: Intervals,
    *,
    split: str = "test",
    latents: Mapping[str, Latents] | None = None,
    probe: Probe | None = None,
) -> Subject:
    """What a metric is given of one evaluation."""
    return Subject(
        ids=predictions.ids,
        logits=predictions.logits,
        targets=predictions.targets,
        classes=classes,
        task=task,
        confidence=intervals.confidence,
        resamples=intervals.resamples,
        seed=intervals.seed,
        groups=intervals.over(predictions.ids).groups,
        split=split,
        latents=latents or {},
        probe=probe,
    )


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A metric's finding as JSON data: NaN and infinity, which JSON has no number for, become None."""
    return {
        "values": {name: value.to_json() for name, value in measurement.values.items()},
        "per_class": {
            name: {label: float(value) if np.isfinite(value) else None for label, value in values.items()}
            for name, values in measurement.per_class.items()
        },
        "details": dict(measurement.details),
    }


def write_per_class(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per metric, evaluation, name and class: what a metric found of each class; none if it found none.

    `attack` and `threat` are empty for clean clips, and `value` where a class has none.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("metric", "attack", "threat", "name", "class", "value"))
    for entry in measured:
        where = (entry["metric"], entry["attack"], entry["threat"])
        for name, values in entry.get("per_class", {}).items():
            rows.writerows((*where, name, label, value) for label, value in values.items())
    write_text(path, text.getvalue())


def write_samples(path: Path, clean: Predictions, outcomes: Sequence[Outcome], dataset: Dataset) -> None:
    """Write one row per clip and evaluation: what was predicted, and what it took.

    The norm of a modality that was not attacked is 0: the core has checked that it is as it was, bit for bit. `factor`
    is null for clean rows and where no budget tried has broken the clip.
    """
    rows: list[tuple[str | None, str | None, Predictions]] = [(None, None, clean)]
    rows += [(outcome.attack, outcome.threat, outcome.predictions) for outcome in outcomes]
    tables = []
    for attack, threat, predictions in rows:
        count = len(predictions.ids)
        tables.append(
            pa.table(
                {
                    "id": pa.array(predictions.ids, type=pa.string()),
                    "attack": pa.array([attack] * count, type=pa.string()),
                    "threat": pa.array([threat] * count, type=pa.string()),
                    "labels": pa.array(_labels(predictions, dataset), type=pa.list_(pa.string())),
                    "prediction": pa.array(
                        [dataset.classes[k] for k in predictions.logits.argmax(axis=1)], type=pa.string()
                    ),
                    "correct": predictions.correct,
                    "clean_correct": clean.correct,
                    "margin": predictions.margins,
                    "success": predictions.success,
                    "factor": pa.array(predictions.factor, mask=~np.isfinite(predictions.factor)),
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


def same_clips(clean: Predictions, other: Predictions, label: str) -> None:
    """Refuse predictions under attack that are of other clips than the clean ones, or of clips read otherwise.

    Raises:
        RunError: if they are of other clips.
        DataError: if a clip was read as something else.
    """
    if clean.ids != other.ids:
        raise RunError(
            f"{label}: its predictions hold other clips than the clean ones, since some could be read at one time and "
            "not at another; delete the cell's folder `evaluations` and run again"
        )
    FirstReading(clean.ids, clean.checksums).compare(clean.ids, other.ids, other.checksums, label)
