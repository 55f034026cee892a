"""Rank correlation under many weightings of the same clips at once, for the bootstrap; free of torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From weights (R, n), each row whole numbers of copies of n clips, to a value for each row, or each clip in it."""


def _ranking(values: NDArray[np.float64]) -> Weighted:
    """The rank of each clip among the copies that weights make; equal values share their mean rank: (R, n).

    Args:
        values: (n,), may be infinite, but not NaN.
    """
    order = np.argsort(values, kind="stable")
    new = np.append(True, values[order][1:] != values[order][:-1])
    starts = np.flatnonzero(new)  # of each group of equal values, in `order`
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.cumsum(new) - 1

    def ranks(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sizes = np.add.reduceat(weights[:, order], starts, axis=1)
        below = np.cumsum(sizes, axis=1) - sizes
        return np.asarray((below + (sizes + 1) / 2)[:, group])

    return ranks


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> Weighted:
    """Spearman's rank correlation of two numbers per clip, as a statistic for `bootstrap`.

    NaN where either has only one value under the weights.

    Args:
        x: (n,), may be infinite, but not NaN.
        y: likewise.
    """
    first, second = _ranking(x), _ranking(y)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _pearson(first(weights), second(weights), weights)

    return statistic


def partial_spearman(x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64]) -> Weighted:
    """The part of the rank correlation of x and y that a third number does not account for (partial rank correlation).

    Args:
        x: (n,), may be infinite, but not NaN.
        y: likewise.
        given: likewise.
    """
    rankings = [_ranking(values) for values in (x, y, given)]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = (ranking(weights) for ranking in rankings)
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
