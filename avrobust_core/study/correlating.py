"""Rank correlations between clean measurements and the robustness of a clip, a class or a model."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.statistics.intervals import Estimate, weighted_median
from avrobust_core.statistics.rank_correlation import partial_spearman, spearman

FEWEST = 4
"""Clips, classes or models below which nothing is correlated."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A number that may tell how robust something is.

    Attributes:
        metric: what measured it; None for a baseline.
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
        minimal: whether the factor is the smallest found; else it only tells whether the clip was broken.
    """

    factor: Floats
    minimal: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measurements and the robustness of one cell.

    Attributes:
        model: its name.
        training: its regime's name.
        ids: N clips.
        own: (N, K) bool: each clip's classes.
        correct: (N,) bool, clean.
        per_clip: (N,) by predictor; NaN where a clip has no value.
        per_class: (K,) by predictor, for what has no value per clip.
        whole: by predictor, for what has no value per clip.
        robustness: by "attack/threat".
        seed: the cell's.
    """

    model: str
    training: str
    ids: tuple[str, ...]
    own: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    per_clip: Mapping[Predictor, Floats]
    per_class: Mapping[Predictor, Floats]
    whole: Mapping[Predictor, float]
    robustness: Mapping[str, Robustness]
    seed: int = 0


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
    own = clean.own
    per_clip, per_class = _baselines(clean, own, class_sizes)
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
        model=names["model"],
        training=names["training"],
        ids=clean.ids,
        own=own,
        correct=clean.correct,
        per_clip=per_clip,
        per_class=per_class,
        whole=whole,
        robustness={
            outcome.label: Robustness(np.where(clean.correct, outcome.predictions.factor, 0.0), outcome.minimal)
            for outcome in outcomes
            if outcome.label in asked and outcome.modalities
        },
        seed=names["seed"],
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
            where = {"model": cell.model, "training": cell.training, "seed": cell.seed, "robustness": label}
            found += [where | entry for entry in _over_clips(cell, robustness, over)]
            found += [where | entry for entry in _over_classes(cell, robustness, over)]
    for label in dict.fromkeys(label for cell in cells for label in cell.robustness):
        among = [cell for cell in cells if label in cell.robustness]
        over = intervals.over(among[0].ids)
        found += [{"robustness": label} | entry for entry in _over_models(among, label, over)]
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


def _over_classes(cell: Evidence, robustness: Robustness, intervals: Intervals) -> Iterator[dict[str, Any]]:
    outcome = _Remembered(partial(_class_outcome, cell.own, robustness))
    for predictor in (*cell.per_clip, *cell.per_class):
        if predictor in cell.per_clip:
            measure = partial(_class_means, cell.own, cell.per_clip[predictor])
        else:
            measure = partial(_constant, cell.per_class[predictor])
        yield from _across("class", predictor, measure, outcome, len(cell.ids), intervals)


def _over_models(cells: Sequence[Evidence], label: str, intervals: Intervals) -> Iterator[dict[str, Any]]:
    if len(cells) < FEWEST or len({cell.ids for cell in cells}) > 1:
        return  # clips are resampled together, so that all cells must have the same
    everyone = np.ones((len(cells[0].ids), 1), dtype=np.bool_)

    @_Remembered
    def outcome(weights: Floats) -> Floats:
        return np.hstack([_class_outcome(everyone, cell.robustness[label], weights) for cell in cells])

    def means(predictor: Predictor, weights: Floats) -> Floats:
        return np.hstack([_class_means(everyone, cell.per_clip[predictor], weights) for cell in cells])

    for predictor in cells[0].per_clip:
        if all(predictor in cell.per_clip for cell in cells):
            yield from _across("model", predictor, partial(means, predictor), outcome, len(everyone), intervals)
    for predictor in cells[0].whole:
        if all(predictor in cell.whole for cell in cells):
            values = np.array([cell.whole[predictor] for cell in cells])
            yield from _across("model", predictor, partial(_constant, values), outcome, len(everyone), intervals)


def _across(
    level: str, predictor: Predictor, measure: Any, outcome: Any, clips: int, intervals: Intervals
) -> Iterator[dict[str, Any]]:
    """The correlation over classes or models, where there are enough of them."""
    ones = np.ones((1, clips))
    n = int((~np.isnan(measure(ones)[0]) & ~np.isnan(outcome(ones)[0])).sum())
    if n < FEWEST:
        return
    estimate = intervals.statistic(lambda weights: _rows_spearman(measure(weights), outcome(weights)), clips)
    yield _entry(level, predictor, replace(estimate, n=n))


def _entry(level: str, predictor: Predictor, estimate: Estimate) -> dict[str, Any]:
    return {"level": level, "metric": predictor.metric, "predictor": predictor.name} | estimate.to_json()


def _estimate(statistic: Any, usable: NDArray[np.bool_], intervals: Intervals) -> Estimate:
    found = intervals.statistic(lambda weights: statistic(weights[:, usable]), len(usable))
    return replace(found, n=int(usable.sum()))


MARGIN = Predictor(None, "margin")
ACCURACY = Predictor(None, "clean accuracy")
CONFIDENCE = Predictor(None, "confidence")
CLASS_SIZE = Predictor(None, "class size")


def _baselines(
    clean: Predictions, own: NDArray[np.bool_], class_sizes: NDArray[np.int64]
) -> tuple[dict[Predictor, Floats], dict[Predictor, Floats]]:
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
    return per_clip, {CLASS_SIZE: np.where(own.any(axis=0), class_sizes, np.nan).astype(np.float64)}


def _class_means(own: NDArray[np.bool_], values: Floats, weights: Floats) -> Floats:
    """The mean over each class's clips that have a finite value: (R, K); NaN where there is none."""
    known = np.isfinite(values)
    members = (own & known[:, None]).astype(np.float64)
    total = weights @ members
    undefined: Floats = np.full(total.shape, np.nan)
    return np.divide(weights @ (members * np.where(known, values, 0.0)[:, None]), total, out=undefined, where=total > 0)


def _class_outcome(own: NDArray[np.bool_], robustness: Robustness, weights: Floats) -> Floats:
    """Each class's median factor, or its robust accuracy: (R, K); NaN where a resample has none of its clips."""
    if not robustness.minimal:
        return _class_means(own, (robustness.factor > 1).astype(np.float64), weights)
    columns = []
    for members in own.T:
        inside = weights[:, members]
        if not members.any():
            columns.append(np.full(len(weights), np.nan))
            continue
        columns.append(np.where(inside.sum(axis=1) > 0, weighted_median(robustness.factor[members])(inside), np.nan))
    return np.stack(columns, axis=1)


def _constant(values: Floats, weights: Floats) -> Floats:
    return np.broadcast_to(values, (len(weights), len(values)))


def _rows_spearman(x: Floats, y: Floats) -> Floats:
    """The rank correlation of each row of x with that of y, where neither is NaN: (R,)."""
    found: Floats = np.full(len(x), np.nan)
    known = ~np.isnan(x) & ~np.isnan(y)
    whole = known.all(axis=1)
    if x.shape[1] >= FEWEST and whole.any():
        found[whole] = _whole_rows(x[whole], y[whole])
    for row in np.flatnonzero(~whole):
        there = known[row]
        if there.sum() >= FEWEST:
            found[row] = _whole_rows(x[row : row + 1, there], y[row : row + 1, there])[0]
    return found


def _whole_rows(x: Floats, y: Floats) -> Floats:
    """The same of rows without NaN; NaN where a row does not vary."""
    a, b = (rankdata(values, axis=1) for values in (x, y))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    undefined: Floats = np.full(len(x), np.nan)
    return np.asarray(np.divide((a * b).sum(axis=1), spread, out=undefined, where=spread > 0))
