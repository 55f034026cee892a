"""Exact nearest neighbours: products in float32, candidates ranked again in float64, doubtful rows searched anew."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.knn.rows import Prepared, Rows
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.settling import candidates_for, doubtful, rerank
from avrobust_geometry.knn.tiles import scan


@dataclass(frozen=True, slots=True)
class Found:
    """Exact neighbours.

    Attributes:
        indices: (N, k) rows of the reference.
        distances: (N, k) float64.
        again: how many points were searched a second time, with products in float64.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    again: int


def exact_neighbours(points: Rows, reference: Rows, k: int, own: Tensor | None, device: torch.device) -> Found:
    """The k nearest reference rows of each point.

    Args:
        points: N rows.
        reference: M rows; the same object for one set with itself: each point's own row is then left out.
        k: at most as many as there are for every point.
        own: (N,) int64 row of the reference that is the point itself, -1 for none; None if there are none at all.
        device: where products are computed.
    """
    candidates, scores = _candidates(points, reference, k, own, device, torch.float32)
    indices, distances = rerank(points, reference, candidates, k)
    doubt = np.flatnonzero(doubtful(points, reference.mean, distances[:, -1], scores))
    if len(doubt):
        rows = torch.from_numpy(doubt)
        few = points.taken(rows)
        alone = rows if points is reference else None if own is None else own[rows]
        candidates, _ = _candidates(few, reference, k, alone, device, torch.float64)
        indices[doubt], distances[doubt] = rerank(few, reference, candidates, k)
    return Found(indices, distances, len(doubt))


def _candidates(
    points: Rows, reference: Rows, k: int, own: Tensor | None, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """More reference rows than wanted (N, K), and the score of the last of them (N,)."""
    right = Prepared(reference, reference.mean, device, dtype)
    left = right if points is reference else Prepared(points, reference.mean, device, dtype)
    best = Best(points.n, min(candidates_for(k), reference.n), device, dtype)
    scan(left, right, best.offer, own)
    scores, columns = best.take()
    return columns, scores[:, -1]
