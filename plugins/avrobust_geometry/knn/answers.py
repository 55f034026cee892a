"""Answers of the search for nearest neighbours: plain records of arrays, with a report of how they were found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest neighbours of N points.

    Attributes:
        indices: (N, k) rows of the reference, nearest first; of equally distant ones, the lower row first.
        distances: (N, k) Euclidean, ascending; exactly 0 for a duplicate.
        report: JSON data: how and why; see `nearest`.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NearestByClass:
    """Distances to the k-th neighbour inside and outside a class, for P pairs of a point and a class that it has.

    With one label per point there is one pair per point, in the points' order. With several, pairs are ordered by
    point, then by class, as `numpy.argwhere(labels)` has them.

    Attributes:
        clip: (P,) row of the point.
        cls: (P,) the class.
        same: (P,) distance to the k-th nearest reference row that has the class, the point itself left out; NaN where
            there are fewer than k.
        other: (P,) the same among the reference rows that do not have the class.
        n_same: (P,) how many reference rows have the class, the point itself left out.
        n_other: (P,) how many do not.
        k: (P,) the k of each pair.
        report: JSON data: how they were found; see `nearest_by_class`.
    """

    clip: NDArray[np.int64]
    cls: NDArray[np.int64]
    same: NDArray[np.float64]
    other: NDArray[np.float64]
    n_same: NDArray[np.int64]
    n_other: NDArray[np.int64]
    k: NDArray[np.int64]
    report: Mapping[str, Any]
