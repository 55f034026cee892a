"""From candidates to neighbours: true distances in float64, and whether a better one can have been missed."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.knn.rows import Rows

CHUNK = 1 << 18
"""Coordinates of candidates whose differences are computed at once: 2 MiB of float64, which stay in cache."""

SPREAD = 6.0
"""Standard deviations that rounding errors of a product are trusted to stay within: they grow with the root of the
number of terms (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", theorem 3.1)."""


def candidates_for(k: int) -> int:
    """How many candidates are ranked again for k neighbours: rounding may have mixed up the last of them."""
    return k + max(6, k // 2)


def rerank(
    points: Rows, reference: Rows, candidates: Tensor, k: int, owners: Tensor | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sort candidates by their true distances.

    Args:
        points: the points.
        reference: where candidates come from.
        candidates: (P, K) int64 rows of the reference; -1 for none.
        k: how many are kept.
        owners: (P,) the row of each line's point; by default line i is of point i.

    Returns:
        (P, k) rows of the reference, -1 for none, and (P, k) distances, infinite for none; ascending, and of equal
        distances the lower row first.
    """
    lines = len(candidates)
    candidates = candidates.cpu().sort(dim=1).values
    indices = np.empty((lines, k), dtype=np.int64)
    distances = np.empty((lines, k), dtype=np.float64)
    size = max(1, CHUNK // (candidates.shape[1] * reference.width))
    between: Tensor | None = None  # one for all chunks: to get new memory takes as long as the differences
    for start in range(0, lines, size):
        chosen = candidates[start : start + size]
        rows = torch.arange(start, start + len(chosen)) if owners is None else owners[start : start + size]
        ends = reference.gather(chosen.clamp(min=0).flatten()).view(*chosen.shape, -1)
        if between is None:
            between = torch.empty(size, *ends.shape[1:], dtype=torch.float64, device=ends.device)
        part = between[: len(chosen)].copy_(ends).sub_(points.gather(rows).to(ends.device)[:, None])
        squares = part.square_().sum(dim=2).cpu()
        squares = squares.masked_fill(chosen < 0, torch.inf)
        squares, order = squares.sort(dim=1, stable=True)
        indices[start : start + size] = chosen.gather(1, order[:, :k]).numpy()
        distances[start : start + size] = squares[:, :k].sqrt().numpy()
    return indices, distances


def doubtful(
    points: Rows, mean: Tensor, distances: NDArray[np.float64], scores: Tensor, owners: Tensor | None = None
) -> NDArray[np.bool_]:
    """Lines whose k-th neighbour is not certain: a nearer row may have been scored below the last candidate.

    A row y nearer to x than r has |y| <= |x| + r, so that rounding moves its score by at most
    SPREAD u sqrt(D) (2 |x| + r)^2 / 2, with u = 2^-24. If the last candidate's score is further below -r^2 / 2 than
    that, nothing nearer was left out.

    Args:
        points: the points.
        mean: (D,) what was subtracted before the product.
        distances: (P,) of the k-th neighbours, r; infinite where there are fewer.
        scores: (P,) the last candidate's score, -inf where all rows there are were candidates.
        owners: as in `rerank`.
    """
    lines = len(distances)
    norms = np.empty(lines)
    size = max(1, CHUNK // points.width)
    for start in range(0, lines, size):
        stop = min(start + size, lines)
        rows = torch.arange(start, stop) if owners is None else owners[start:stop]
        part = points.gather(rows).cpu().to(torch.float64) - mean
        norms[start:stop] = torch.linalg.vector_norm(part, dim=1).numpy()
    unit = 2.0**-24
    with np.errstate(invalid="ignore"):
        slack = SPREAD * unit * math.sqrt(points.width + 2) * (2 * norms + distances) ** 2 / 2
        certain = scores.cpu().double().numpy() <= -(distances**2) / 2 - slack
    return np.asarray(~(certain | (distances == 0) | np.isneginf(scores.cpu().numpy())))
