"""Rank correlations between clean measurements and the robustness of a clip, a class or a model."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.statistics.intervals import Estimate, weighted_median
from avrobust_core.statistics.rank_correlation import partial_spearman, spearman, spearman_of_rows

FEWEST = 4
"""Clips, classes or models below which nothing is correlated."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A number that may tell how robust something is.

    Attributes:
        metric: by name; None for a baseline.
        name: e.g. "class-ratio/fused"; "margin".
    """

    metric: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Robustness:
    """The robustness of one cell's clips to an attack under a threat.

    Attributes:
        factor: (N,) the factor of the threat's radii that broke each clip; infinite where none did, 0 where the clip
            is wrong when clean.
        minimal: True if the factor is the smallest found; else it only tells broken clips from others.
    """

    factor: Floats
    minimal: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measurements and the robustness of one cell.

    Attributes:
        names: its `model`, `training` and `seed`.
        ids: N clips.
        own: (N, K) bool: each clip's classes.
        correct: (N,) bool, clean.
        per_clip: (N,) by predictor; NaN where a clip has no value.
        per_class: (K,) by predictor, for what has no value per clip.
        whole: by predictor, for what has no value per clip.
        robustness: by "attack/threat".
    """

    names: Mapping[str, Any]
    ids: tuple[str, ...]
    own: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    per_clip: Mapping[Predictor, Floats]
    per_class: Mapping[Predictor, Floats]
    whole: Mapping[Predictor, float]
    robustness: Mapping[str, Robustness]


def gather(
    names: Mapping[str, Any],
    classes: Sequence[str],
    clean: Predictions,
    outcomes: Sequence[Outcome],
    measured: Sequence[tuple[Mapping[str, Any], Mapping[str, Floats]]],
    class_sizes: NDArray[np.int64],
    asked: Sequence[str],
) -> Evidence:
    """The evidence of one cell.

    Args:
        names: the cell's `model`, `training` and `seed`.
        classes: K names.
        clean: predictions.
        outcomes: under attack; those of which the model reads nothing are left out.
        measured: each metric's entry in the cell's result, and what it found per clip.
        class_sizes: (K,) clips to learn from.
        asked: the attacks and threats, as "attack/threat".
    """
    per_clip, per_class = _baselines(clean, class_sizes)
    whole: dict[Predictor, float] = {}
    for entry, clips in measured:
        metric = entry["metric"]
        per_clip |= {Predictor(metric, name): np.asarray(values, dtype=np.float64) for name, values in clips.items()}
        for name, values in entry.get("per_class", {}).items():
            if name not in clips:  # None, where a class has no value, becomes NaN
                per_class[Predictor(metric, name)] = np.array([values.get(k) for k in classes], dtype=np.float64)
        for name, estimate in entry.get("values", {}).items():
            if name not in clips and estimate["value"] is not None:
                whole[Predictor(metric, name)] = estimate["value"]
    return Evidence(
        names={key: names[key] for key in ("model", "training", "seed")},
        ids=clean.ids,
        own=clean.own,
        correct=clean.correct,
        per_clip=per_clip,
        per_class=per_class,
        whole=whole,
        robustness={
            outcome.label: Robustness(np.where(clean.correct, outcome.predictions.factor, 0.0), outcome.minimal)
            for outcome in outcomes
            if outcome.label in asked and outcome.modalities
        },
    )


def correlate(cells: Sequence[Evidence], intervals: Intervals) -> list[dict[str, Any]]:
    """Rank correlations of each predictor with each kind of robustness, over clips, over classes, over models.

    Clips: those that are correct when clean, within one cell, with the factor that broke them. Beside it stands what is
    left once the clean margin is accounted for (`beyond_margin`). Classes: within one cell, with the class's robust
    accuracy, or the median factor where an attack looks for the smallest. Models: over all cells, likewise, so that
    with several seeds a model counts once for each. Intervals resample clips, or groups of them; what a metric gives
    per class or per model only, not per clip, stays as it is in every resample.

    Returns:
        One entry per level ("clip", "class", "model"), cell, robustness and predictor.
    """
    found = []
    for cell in cells:
        over = intervals.over(cell.ids)
        for label, robustness in cell.robustness.items():
            where = {**cell.names, "robustness": label}
            found += [where | entry for entry in _over_clips(cell, robustness, over)]
            classes = _over_columns("class", cell.own, cell.per_clip, cell.per_class, robustness, over)
            found += [where | entry for entry in classes]
    for label in dict.fromkeys(label for cell in cells for label in cell.robustness):
        among = [cell for cell in cells if label in cell.robustness]
        if len(among) < FEWEST or len({cell.ids for cell in among}) > 1:
            continue  # clips are resampled together, so that all cells must have the same
        factors = np.stack([cell.robustness[label].factor for cell in among], axis=1)
        together = Robustness(factors, among[0].robustness[label].minimal)
        everyone, over = np.ones(factors.shape, dtype=np.bool_), intervals.over(among[0].ids)
        per_clip, whole = _of_all([cell.per_clip for cell in among]), _of_all([cell.whole for cell in among])
        models = _over_columns("model", everyone, per_clip, whole, together, over)
        found += [{"robustness": label} | entry for entry in models]
    return found


class _Remembered:
    """Computes what depends on weights alone once: each bootstrap with the same seed draws the same weights again."""

    def __init__(self, function: Callable[[Floats], Floats]) -> None:
        self._function = function
        self._found: dict[bytes, Floats] = {}

    def __call__(self, weights: Floats) -> Floats:
        key = hashlib.blake2b(np.ascontiguousarray(weights).data, digest_size=16).digest()
        if key not in self._found:
            self._found[key] = self._function(weights)
        return self._found[key]


def _over_clips(cell: Evidence, robustness: Robustness, intervals: Intervals) -> Iterator[dict[str, Any]]:
    margin = cell.per_clip[MARGIN]
    for predictor, values in cell.per_clip.items():
        usable = cell.correct & ~np.isnan(values)
        if predictor.name == ACCURACY.name or usable.sum() < FEWEST:
            continue
        x, y, z = values[usable], robustness.factor[usable], margin[usable]
        entry = _entry("clip", predictor, _estimate(spearman(x, y), usable, intervals))
        if predictor != MARGIN:
            entry["beyond_margin"] = _estimate(partial_spearman(x, y, z), usable, intervals).to_json()
        yield entry


def _of_all(cells: Sequence[Mapping[Predictor, Any]]) -> dict[Predictor, Floats]:
    """The predictors that all cells have, the cells along the last axis."""
    shared = [predictor for predictor in cells[0] if all(predictor in cell for cell in cells)]
    return {predictor: np.stack([cell[predictor] for cell in cells], axis=-1) for predictor in shared}


def _over_columns(
    level: str,
    members: NDArray[np.bool_],
    per_clip: Mapping[Predictor, Floats],
    fixed: Mapping[Predictor, Floats],
    robustness: Robustness,
    intervals: Intervals,
) -> Iterator[dict[str, Any]]:
    """The correlations over M classes or models, where enough of them have a value.

    Args:
        level: "class" or "model".
        members: (N, M): the clips of each.
        per_clip: (N,) of the clips in all of them, or (N, M).
        fixed: (M,), for what has no value per clip.
        robustness: with a factor likewise (N,) or (N, M).
        intervals: over the clips.
    """
    outcome = _Remembered(partial(_robustness, members, robustness))
    measures: dict[Predictor, Callable[[Floats], Floats]] = {
        predictor: partial(_means, members, values) for predictor, values in per_clip.items()
    }
    measures |= {predictor: partial(_constant, values) for predictor, values in fixed.items()}
    ones = np.ones((1, len(members)))
    for predictor, measure in measures.items():
        n = int((~np.isnan(measure(ones)) & ~np.isnan(outcome(ones))).sum())
        if n >= FEWEST:
            estimate = intervals.statistic(partial(_correlated, measure, outcome), len(members))
            yield _entry(level, predictor, replace(estimate, n=n))


def _correlated(measure: Callable[[Floats], Floats], outcome: Callable[[Floats], Floats], weights: Floats) -> Floats:
    return spearman_of_rows(measure(weights), outcome(weights), FEWEST)


def _entry(level: str, predictor: Predictor, estimate: Estimate) -> dict[str, Any]:
    return {"level": level, "metric": predictor.metric, "predictor": predictor.name} | estimate.to_json()


def _estimate(statistic: Any, usable: NDArray[np.bool_], intervals: Intervals) -> Estimate:
    found = intervals.statistic(lambda weights: statistic(weights[:, usable]), len(usable))
    return replace(found, n=int(usable.sum()))


MARGIN = Predictor(None, "margin")
ACCURACY = Predictor(None, "clean accuracy")
CONFIDENCE = Predictor(None, "confidence")
CLASS_SIZE = Predictor(None, "class size")


def _baselines(clean: Predictions, sizes: NDArray[np.int64]) -> tuple[dict[Predictor, Floats], dict[Predictor, Floats]]:
    """The predictors that need no metric, of clips and of classes."""
    logits = clean.logits.astype(np.float64)
    highest = logits.max(axis=1)
    several = clean.targets.ndim == 2
    rest = 1 + np.exp(-highest) if several else np.exp(logits - highest[:, None]).sum(axis=1)
    per_clip = {
        MARGIN: clean.margins.astype(np.float64),
        CONFIDENCE: 1 / rest,
        ACCURACY: clean.correct.astype(np.float64),
    }
    return per_clip, {CLASS_SIZE: np.where(clean.own.any(axis=0), sizes, np.nan).astype(np.float64)}


def _means(members: NDArray[np.bool_], values: Floats, weights: Floats) -> Floats:
    """The mean over each column's clips that have a finite value: (R, M); NaN where there is none."""
    values = values.reshape(len(values), -1)
    known = np.isfinite(values)
    shares = (members & known).astype(np.float64)
    total = weights @ shares
    undefined: Floats = np.full(total.shape, np.nan)
    return np.divide(weights @ (shares * np.where(known, values, 0.0)), total, out=undefined, where=total > 0)


def _robustness(members: NDArray[np.bool_], robustness: Robustness, weights: Floats) -> Floats:
    """Each column's median factor, or its robust accuracy: (R, M); NaN where a resample has none of its clips."""
    if not robustness.minimal:
        return _means(members, (robustness.factor > 1).astype(np.float64), weights)
    found: Floats = np.full((len(weights), members.shape[1]), np.nan)
    factors = np.broadcast_to(robustness.factor.reshape(len(members), -1), members.shape)
    for column, (own, factor) in enumerate(zip(members.T, factors.T, strict=True)):
        inside = weights[:, own]
        drawn = inside.any(axis=1)
        if drawn.any():
            found[drawn, column] = weighted_median(factor[own])(inside[drawn])
    return found


def _constant(values: Floats, weights: Floats) -> Floats:
    return np.broadcast_to(values, (len(weights), len(values)))
