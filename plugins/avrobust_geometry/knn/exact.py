"""Exact nearest neighbours: products in float32, ranked again in float64, and searched anew where those may err."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.knn.rows import Prepared, Rows
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.settling import candidates_for, doubtful, rerank
from avrobust_geometry.knn.tiles import scan, scan_apart


@dataclass(frozen=True, slots=True)
class Found:
    """Exact neighbours.

    Attributes:
        indices: (N, k) rows of the reference.
        distances: (N, k) float64.
        again: how many points were searched a second time, with products in float64.
        apart: how many of these a third time, by differences.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    again: int
    apart: int


def exact_neighbours(points: Rows, reference: Rows, k: int, own: Tensor | None, device: torch.device) -> Found:
    """The k nearest reference rows of each point.

    Args:
        points: N rows.
        reference: M rows; the same object for one set with itself: each point's own row is then left out.
        k: at most as many as there are for every point.
        own: (N,) int64 row of the reference that is the point itself, -1 for none; None if there are none at all.
        device: where products are computed.
    """
    candidates, scores, far = _candidates(points, reference, k, own, device, torch.float32)
    indices, distances = rerank(points, reference, candidates, k)
    doubt = np.flatnonzero(doubtful(points, reference.frame, distances[:, -1], scores, far=far))
    apart = doubt[:0]
    if len(doubt):
        few, alone = _some(points, reference, own, doubt)
        candidates, scores, _ = _candidates(few, reference, k, alone, device, torch.float64)
        indices[doubt], distances[doubt] = rerank(few, reference, candidates, k)
        apart = doubt[doubtful(few, reference.frame, distances[doubt, -1], scores)]
    if len(apart):
        few, alone = _some(points, reference, own, apart)
        best = Best(few.n, min(candidates_for(k), reference.n), device, torch.float64)
        scan_apart(few, reference, device, best.offer, alone)
        indices[apart], distances[apart] = rerank(few, reference, best.take()[1], k)
    return Found(indices, distances, len(doubt), len(apart))


def _some(points: Rows, reference: Rows, own: Tensor | None, chosen: NDArray[np.int64]) -> tuple[Rows, Tensor | None]:
    """Some of the points, and the rows of the reference that are these points themselves."""
    rows = torch.from_numpy(chosen)
    return points.taken(rows), rows if points is reference else None if own is None else own[rows]


def _candidates(
    points: Rows, reference: Rows, k: int, own: Tensor | None, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, bool]:
    """More reference rows than wanted (N, K), the score of the last of them (N,), and whether rows were too far."""
    right = Prepared(reference, reference.frame, device, dtype)
    left = right if points is reference else Prepared(points, reference.frame, device, dtype)
    best = Best(points.n, min(candidates_for(k), reference.n), device, dtype)
    scan(left, right, best.offer, own)
    scores, columns = best.take()
    return columns, scores[:, -1], left.far or right.far
