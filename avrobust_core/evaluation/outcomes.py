"""From predictions to what a run reports: accuracies with intervals, curves, fronts, the per-clip table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.verification import NORM_TOLERANCE
from avrobust_core.caveats import Caveat
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.media import Task
from avrobust_core.data.readings import FirstReading
from avrobust_core.errors import ComponentError, RunError
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.metrics.latents import Latents
from avrobust_core.metrics.metric import Measurement, Subject
from avrobust_core.metrics.probe import Probe
from avrobust_core.metrics.shares import Shares
from avrobust_core.models.answers import probability_caveats
from avrobust_core.naming import first_of
from avrobust_core.statistics.intervals import Estimate, bootstrap, paired_difference, share, weighted_median

NO_GRADIENT = 0.01
"""The share of all clips that may be robust without any gradient having reached a modality (a dead unit, say) before
the number is marked: the robust accuracy can be too high by no more than this."""


def groups_by_clip(dataset: Dataset, split: str) -> dict[str, str]:
    """The group of each clip of a split, by its id; empty if every clip stands for itself.

    Raises:
        ComponentError: if the data set does not state one for each clip.
    """
    ids, groups = dataset.ids(split), dataset.groups(split)
    if groups is None:
        return {}
    if len(groups) != len(ids):
        raise ComponentError(
            f"the data set states groups of {len(groups)} clips of {split!r}, which has {len(ids)}: `groups` must give "
            "one for each clip"
        )
    return dict(zip(ids, groups, strict=True))


@dataclass(frozen=True, slots=True)
class Intervals:
    """The settings of intervals: every estimate of a study resamples the same clips, so that they can be compared.

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

    def over(self, ids: Sequence[str]) -> "Intervals":
        """The same for these clips."""
        return replace(self, groups=tuple(self.grouping[i] for i in ids)) if self.grouping else self

    def mean(self, outcomes: NDArray[np.bool_] | NDArray[np.float64]) -> Estimate:
        """The share of clips for which a 0/1 outcome is 1, or the mean of a share per clip: of (N,)."""
        return share(outcomes, confidence=self.confidence, groups=self.groups)

    def difference(self, paired: NDArray[np.float64]) -> Estimate:
        """The mean of (N,) differences per clip."""
        return paired_difference(paired, confidence=self.confidence, groups=self.groups)

    def share(self, outcomes: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        """The share of the clips in `among` for which an outcome is 1."""
        return self._among(among).mean(outcomes[among])

    def median(self, values: NDArray[np.float64], among: NDArray[np.bool_]) -> Estimate:
        """The median over the clips in `among` of one number per clip, which may be infinite."""
        return self._among(among).statistic(weighted_median(values[among]), int(among.sum()))

    def statistic(self, of_weights: Callable[[NDArray[np.float64]], NDArray[np.float64]], clips: int) -> Estimate:
        """A statistic that can be computed from weights over all clips; see `bootstrap`."""
        return bootstrap(
            of_weights, clips, confidence=self.confidence, resamples=self.resamples, seed=self.seed, groups=self.groups
        )

    def _among(self, among: NDArray[np.bool_]) -> "Intervals":
        """The same for some of these clips."""
        return self if self.groups is None else replace(self, groups=tuple(compress(self.groups, among)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one attack under one threat.

    Attributes:
        attack, threat: names.
        modalities: those that were attacked; none if the threat touches nothing that the model reads.
        predictions: under the attack.
        goal: of the attack.
        factors: the budgets of its curve, ascending.
        minimal: True if it looked for the smallest perturbation.
        bounded: False if it takes no notice of the radius.
        front: for each direction between two modalities' budgets, the share of each radius, and the predictions.
    """

    attack: str
    threat: str
    modalities: tuple[str, ...]
    predictions: Predictions
    goal: Goal = field(default_factory=Goal)
    factors: tuple[float, ...] = (1.0,)
    minimal: bool = False
    bounded: bool = True
    front: Sequence[tuple[Mapping[str, float], Predictions]] = ()

    @property
    def label(self) -> str:
        """For messages: "pgd/both"."""
        return f"{self.attack}/{self.threat}"

    @property
    def where(self) -> dict[str, Any]:
        """Attack and threat by name, for a check or a caveat."""
        return {"attack": self.attack, "threat": self.threat}


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
        intervals: their settings.
        caveats: further ones, against these numbers.

    Raises:
        RunError: if the outcomes are not all of the same clips.
        DataError: if a clip was not read alike each time.
    """
    intervals = intervals.over(clean.ids)
    sections = ("robust_accuracy", "attack_success_rate", "worst_case", "curves", "smallest_perturbation", "fronts")
    found: dict[str, dict[str, dict[str, Any]]] = {section: {} for section in sections}
    surviving: dict[str, NDArray[np.bool_]] = {}
    for outcome in outcomes:
        threat, predictions = outcome.threat, outcome.predictions
        same_clips(clean, predictions, outcome.label)
        survived = clean.correct & predictions.correct
        measured: dict[str, Any] = {}
        measured["robust_accuracy"] = intervals.mean(survived).to_json() | {
            "attacked": list(outcome.modalities),
            "bounded": outcome.bounded,
            "queries": float(predictions.queries.mean()),
            # Four digits: the last bits move with the batches, and results must not.
            "norms": {name: float(f"{norms.mean():.4g}") for name, norms in sorted(predictions.norms.items())},
            "no_gradient": _without_gradient(survived, predictions),
        }
        measured["attack_success_rate"] = _success(clean, outcome, survived, intervals).to_json()
        if outcome.bounded:
            surviving[threat] = surviving.get(threat, clean.correct) & survived
        if outcome.modalities and len(outcome.factors) > 1:
            measured["curves"] = _curve(clean, outcome, intervals)
        if outcome.modalities and outcome.minimal:
            size = intervals.median(predictions.factor, clean.correct)
            measured["smallest_perturbation"] = {"median_size": size.to_json()}
        if outcome.modalities and outcome.front:
            measured["fronts"] = _front(clean, outcome, intervals)
        for section, entry in measured.items():
            found[section].setdefault(outcome.attack, {})[threat] = entry
    found["worst_case"] = {threat: intervals.mean(correct).to_json() for threat, correct in surviving.items()}
    return {
        "clips": len(clean.ids),
        "clean_accuracy": intervals.mean(clean.correct).to_json(),
        **found,
        "caveats": [caveat.to_json() for caveat in _all_caveats(clean, outcomes, caveats)],
    }


def _all_caveats(clean: Predictions, outcomes: Sequence[Outcome], given: Sequence[Caveat]) -> list[Caveat]:
    """The caveats from predictions alone, and those given, such as by the audit, each once."""
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
            unproven = np.flatnonzero(survived & missing)
            count, robust = len(unproven), int(survived.sum())
            if count <= NO_GRADIENT * len(clean.ids):
                continue
            first = first_of(clean.ids[i] for i in unproven)
            yield Caveat(
                check="zero-gradient",
                message=f"no gradient reached {name} for {count} of the {robust} clips counted as robust "
                f"({100 * count / robust:.3g} %; {first}): the model rounds, detaches or "
                f"ignores {name} there, or its loss is flat, so that {name} was not attacked; try an attack without "
                "gradients, or one on a smooth stand-in for that step",
                **outcome.where,
            )


def _success(clean: Predictions, outcome: Outcome, survived: NDArray[np.bool_], intervals: Intervals) -> Estimate:
    if not outcome.goal.targeted:
        return intervals.share(clean.correct & ~survived, clean.correct)
    among = np.ones(len(clean.ids), dtype=bool)
    if outcome.goal.target is not None:
        among = ~clean.own[:, outcome.goal.target]
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
        budget = {name: share * size.value if np.isfinite(size.value) else None for name, share in shares.items()}
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
    shares: Shares | None = None,
) -> Subject:
    """The subject of a metric: one evaluation."""
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
        shares=shares or Shares(),
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


def same_clips(clean: Predictions, other: Predictions, label: str) -> None:
    """Refuse predictions under attack on other clips than the clean ones, or on clips that were read differently.

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
