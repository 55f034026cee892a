"""From values of single clips to those of classes and of the whole, without hiding what has none."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import Estimate, Task, bootstrap

Floats = NDArray[np.float64]
Labels = NDArray[np.int64] | NDArray[np.bool_]
"""(N,) classes, or (N, K) for several per clip."""


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


def class_medians(values: Floats, members: Sequence[NDArray[np.int64]], classes: Sequence[str]) -> dict[str, float]:
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
    """How many clips have no value or an infinite one, by name, where there are any."""
    found = {}
    for name, each in values.items():
        counts = {"none": int(np.isnan(each).sum()), "infinite": int(np.isinf(each).sum())}
        if any(counts.values()):
            found[name] = counts
    return found


def labels_of(task: Task, targets: NDArray[Any]) -> Labels:
    """A study's targets as labels: (N,) int64, or (N, K) bool of a multi-hot target."""
    return np.asarray(targets > 0.5) if task == "multi-label" else np.asarray(targets, dtype=np.int64)


def members_of(labels: Labels, classes: int) -> list[NDArray[np.int64]]:
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
