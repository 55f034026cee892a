"""Rank correlation under many weightings of the same clips at once, for the bootstrap; free of torch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From weights (R, n), each row whole numbers of copies of n clips, to values (R,)."""


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One number per clip, ready to be ranked under any weights.

    Attributes:
        order: the clips, lowest first.
        starts: where in `order` each group of equal values begins.
        group: of each clip.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "_Ranking":
        """The ranking of values (n,), which may be infinite, but not NaN."""
        order = np.argsort(values, kind="stable")
        new = np.append(True, values[order][1:] != values[order][:-1])
        group = np.empty(len(values), dtype=np.int64)
        group[order] = np.cumsum(new) - 1
        return cls(order, np.flatnonzero(new), group)

    def ranks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rank of each clip among the copies that the weights make; equal values share their mean rank: (R, n)."""
        sizes = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        below = np.cumsum(sizes, axis=1) - sizes
        shared: NDArray[np.float64] = (below + (sizes + 1) / 2)[:, self.group]
        return shared


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> Weighted:
    """Spearman's rank correlation of two numbers per clip, as a statistic for `bootstrap`.

    NaN where either has only one value under the weights.

    Args:
        x: (n,), may be infinite, but not NaN.
        y: likewise.
    """
    first, second = _Ranking.of(x), _Ranking.of(y)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _pearson(first.ranks(weights), second.ranks(weights), weights)

    return statistic


def partial_spearman(x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64]) -> Weighted:
    """The part of the rank correlation of x and y that a third number does not account for (partial rank correlation).

    Args:
        x: (n,), may be infinite, but not NaN.
        y: likewise.
        given: likewise.
    """
    rankings = [_Ranking.of(values) for values in (x, y, given)]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = (ranking.ranks(weights) for ranking in rankings)
        ab, ac, bc = _pearson(a, b, weights), _pearson(a, c, weights), _pearson(b, c, weights)
        left = (1 - ac**2) * (1 - bc**2)
        undefined: NDArray[np.float64] = np.full(len(weights), np.nan)
        # Where the third number orders the clips as one of the two does, nothing is left to correlate.
        return np.divide(ab - ac * bc, np.sqrt(np.maximum(left, 0)), out=undefined, where=left > 1e-12)

    return statistic


def spearman_of_rows(x: NDArray[np.float64], y: NDArray[np.float64], fewest: int) -> NDArray[np.float64]:
    """Spearman's rank correlation of each row of x with that of y, over the columns where neither is NaN.

    Args:
        x: (R, n), may be infinite.
        y: likewise.
        fewest: columns that a row must have.

    Returns:
        (R,); NaN where there are fewer columns, or one of the two does not vary.
    """
    from scipy.stats import rankdata

    known = ~np.isnan(x) & ~np.isnan(y)
    a, b = (np.nan_to_num(rankdata(np.where(known, values, np.nan), axis=1, nan_policy="omit")) for values in (x, y))
    found = _pearson(a, b, known.astype(np.float64))
    return np.where(known.sum(axis=1) >= fewest, found, np.nan)


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correlation of two numbers per row, weighted: (R,); NaN where one of them does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    total = np.where(total > 0, total, np.nan)
    a = a - (weights * a).sum(axis=1, keepdims=True) / total
    b = b - (weights * b).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    undefined: NDArray[np.float64] = np.full(len(weights), np.nan)
    varies = np.nan_to_num(spread) > 1e-9 * np.nan_to_num(total[:, 0]) ** 3
    return np.asarray(np.divide((weights * a * b).sum(axis=1), spread, out=undefined, where=varies))
