"""Approximate nearest neighbours of one set within itself, by pynndescent, audited against exact ones."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.knn.exact import Nearest, exact_neighbours
from avrobust_geometry.knn.rows import Rows
from avrobust_geometry.knn.settling import candidates_for, rerank

AUDITED = 500
"""Rows whose neighbours are also found exactly."""

LEAST = 256
"""Fewer points than this are always searched exactly: they fill one leaf of pynndescent's trees."""

_compiled = False


def compiled() -> bool:
    """True if this process has compiled pynndescent."""
    return _compiled


def neighbours_asked(k: int, n: int) -> int:
    """The number of neighbours that pynndescent is asked for, itself among them: asking for k alone costs recall."""
    return min(max(2 * k + 1, 51), n)


def approximate_neighbours(rows: Rows, k: int, asked: int, seed: int, threads: int) -> Nearest:
    """The k nearest rows of each row, itself left out, audited.

    Args:
        rows: N rows.
        k: neighbours.
        asked: neighbours that pynndescent looks for, the row itself among them.
        seed: of pynndescent and of the rows that are audited.
        threads: pynndescent's n_jobs: another number gives another graph.

    Returns:
        the neighbours. The report has `unfinished`: rows for which pynndescent found fewer than k, and which were
        searched exactly; and `audit`: `rows` that were also searched exactly; `recall`, the share of their exact k
        neighbours that are there (or others exactly as near); `radius_change`, the mean of r_k over the exact one,
        less 1; `radius_change_max`.
    """
    data, whole = rows.centred(rows.frame)
    # Data that the copy may have rounded are read where they lie; else the copy of a file serves: it lies in memory.
    copied = rows.mapped and whole and not rows.double
    source = Rows(data, "centred points") if copied else rows
    candidates = _drop_self(_graph(data, asked, seed, threads))[:, : candidates_for(k)]
    indices, distances = rerank(source, source, candidates, k, torch.arange(rows.n))
    if copied:
        distances /= rows.frame.scale
    unfinished = np.flatnonzero((indices < 0).any(axis=1))
    if len(unfinished):
        again = torch.from_numpy(unfinished)
        found = exact_neighbours(rows.taken(again), rows, k, again, torch.device("cpu"))
        indices[unfinished], distances[unfinished] = found.indices, found.distances
    return Nearest(indices, distances, {"unfinished": len(unfinished), "audit": _audit(rows, distances, seed)})


def _graph(data: NDArray[np.float32], asked: int, seed: int, threads: int) -> NDArray[np.int32]:
    """Pynndescent's graph, (N, asked); -1 where it found fewer."""
    global _compiled
    from pynndescent import NNDescent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of rows that it could not fill, which are searched exactly
        index = NNDescent(data, metric="euclidean", n_neighbors=asked, random_state=seed, n_jobs=threads)
        graph: NDArray[np.int32] = index.neighbor_graph[0]
    _compiled = True
    return graph


def _drop_self(graph: NDArray[np.int32]) -> Tensor:
    """The graph (N, K - 1) without each row itself, int64; where duplicates have displaced it, without the last one."""
    own = graph == np.arange(len(graph), dtype=graph.dtype)[:, None]
    own[~own.any(axis=1), -1] = True
    return torch.from_numpy(graph[~own].reshape(len(graph), -1).astype(np.int64))


def _audit(rows: Rows, distances: NDArray[np.float64], seed: int) -> dict[str, Any]:
    k = distances.shape[1]
    chosen = np.sort(np.random.default_rng(seed).choice(rows.n, min(rows.n, AUDITED), replace=False))
    own = torch.from_numpy(chosen)
    truth = exact_neighbours(rows.taken(own), rows, k, own, torch.device("cpu")).distances
    radius, found = truth[:, -1], distances[chosen]
    # A neighbour counts if it is as near as the exact k-th: of equally near ones either may be listed.
    recall = float((found <= radius[:, None] * (1 + 1e-6)).mean())
    change = found[radius > 0, -1] / radius[radius > 0] - 1
    return {
        "rows": len(chosen),
        "recall": round(recall, 5),
        "radius_change": float(f"{change.mean():.3g}") if len(change) else 0.0,
        "radius_change_max": float(f"{change.max():.3g}") if len(change) else 0.0,
    }
