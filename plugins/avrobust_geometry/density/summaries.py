"""From values of single clips to those of classes and of the whole, without hiding what has none."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import Estimate, Measurement, Task, bootstrap
from avrobust_geometry.inputs import Floats, Ints, Labels


class Findings:
    """A `Measurement` in the making: everything found so far, under its name."""

    def __init__(self) -> None:
        self.values: dict[str, Estimate] = {}
        self.per_class: dict[str, Mapping[str, float]] = {}
        self.per_clip: dict[str, NDArray[Any]] = {}
        self.details: dict[str, Any] = {}

    def add_class_values(self, name: str, classes: Sequence[str], values: Floats) -> None:
        """Add one value per class, (K,)."""
        self.per_class[name] = dict(zip(classes, values.tolist(), strict=True))

    def measurement(self) -> Measurement:
        """All of it."""
        return Measurement(self.values, self.per_class, self.per_clip, self.details)


def mean_of_finite(
    values: Floats, *, confidence: float, resamples: int, seed: int, groups: Sequence[str] | None = None
) -> Estimate:
    """The mean of the finite values, with an interval by bootstrap over their clips.

    Args:
        values: (N,) of clips; NaN and infinite ones are left out, and not counted in the estimate's n.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resampling.
        groups: of the clips, (N,); None if every clip stands for itself.
    """
    known = np.isfinite(values)
    finite = values[known]

    def mean(weights: Floats) -> Floats:
        return np.asarray(weights @ finite / weights.sum(axis=1))

    among = None if groups is None else [group for group, there in zip(groups, known, strict=True) if there]
    return bootstrap(mean, finite.size, confidence=confidence, resamples=resamples, seed=seed, groups=among)


def class_medians(values: Floats, members: Sequence[Ints], classes: Sequence[str]) -> dict[str, float]:
    """The median of each class's values, NaN ones left out; infinite ones count, as they have a place in the order.

    Args:
        values: (P,) of clips, or of pairs of a clip and a class.
        members: for each class, which of them are its own.
        classes: K names.

    Returns:
        by class; NaN where it has no value, or where the median is infinite: `not_finite` tells how many values are.
    """
    found = {}
    for name, rows in zip(classes, members, strict=True):
        own = values[rows]
        own = np.sort(own[~np.isnan(own)])
        # The ends of the middle are averaged only where they are finite: inf - inf is nothing.
        middle = own[(len(own) - 1) // 2 : len(own) // 2 + 1]
        found[name] = float(middle.mean()) if len(middle) and np.isfinite(middle).all() else float("nan")
    return found


def not_finite(values: Mapping[str, Floats]) -> dict[str, dict[str, int]]:
    """The numbers of clips without a value and with an infinite one, by name, where there are any."""
    found = {}
    for name, each in values.items():
        counts = {"none": int(np.isnan(each).sum()), "infinite": int(np.isinf(each).sum())}
        if any(counts.values()):
            found[name] = counts
    return found


def labels_of(task: Task, targets: NDArray[Any]) -> Labels:
    """A study's targets as labels: (N,) int64, or (N, K) bool of a multi-hot target."""
    return np.asarray(targets > 0.5) if task == "multi-label" else np.asarray(targets, dtype=np.int64)


def members_of(labels: Labels, classes: int) -> list[Ints]:
    """For each class, the rows that have it.

    Args:
        labels: (N,) int64, or (N, K) bool.
        classes: K.
    """
    if labels.ndim == 2:
        return [np.flatnonzero(labels[:, c]) for c in range(classes)]
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(classes + 1))
    return [order[ends[c] : ends[c + 1]] for c in range(classes)]


def group_means(values: Floats, group: Ints, count: int) -> Floats:
    """The mean of each group's values, (count,); NaN for a group without any, or with infinities of both signs.

    Args:
        values: (P,), not NaN.
        group: (P,) the group of each.
        count: of groups.
    """
    with np.errstate(invalid="ignore"):
        return ratio(np.bincount(group, values, count), np.bincount(group, minlength=count))


def ratio(sums: NDArray[Any], counts: NDArray[Any]) -> Floats:
    """The quotients; NaN where there is nothing to divide by."""
    undefined: Floats = np.full(np.shape(sums), np.nan)
    np.divide(sums, counts, out=undefined, where=np.asarray(counts) > 0)
    return undefined
