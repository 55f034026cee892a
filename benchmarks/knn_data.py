"""Generated embeddings for benchmarks/knn.py: clusters on a curved manifold of about 20 dimensions, and the truth."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INTRINSIC = 20
CLUSTERS = 200
BLOCK = 20_000
NOISE = 0.05
"""Standard deviation of what leaves the manifold; a coordinate's own is about 0.8."""

TRUE_ROWS = 500
"""Rows whose neighbours are computed in float64 to measure recall."""


def blocks(n: int, width: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """The rows of a set, in blocks of their own seeds; a smaller set is the beginning of a larger one.

    Args:
        n: rows.
        width: features.
        seed: of the set.
    """
    shape = np.random.default_rng([seed, width])
    centres = 2 * shape.normal(size=(CLUSTERS, INTRINSIC)).astype(np.float32)
    mixing = shape.normal(size=(INTRINSIC, width)).astype(np.float32) / np.float32(INTRINSIC**0.5)
    for number, start in enumerate(range(0, n, BLOCK)):
        draw = np.random.default_rng([seed, width, number])
        cluster = draw.integers(CLUSTERS, size=BLOCK)
        inner = centres[cluster] + draw.standard_normal((BLOCK, INTRINSIC), dtype=np.float32)
        outer = np.tanh(inner @ mixing) + np.float32(NOISE) * draw.standard_normal((BLOCK, width), dtype=np.float32)
        yield outer[: n - start]


def write(path: Path, n: int, width: int, seed: int = 0) -> None:
    """Write a set to a .npy file; no more than a block of it is in memory."""
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, width))
    start = 0
    for block in blocks(n, width, seed):
        target[start : start + len(block)] = block
        start += len(block)
    target.flush()


class Truth:
    """The distances to the nearest neighbours of some rows, by products and differences in float64.

    Args:
        data: (N, D).
        k: neighbours; each row itself is left out.
    """

    def __init__(self, data: NDArray[np.float32], k: int) -> None:
        self.rows = np.sort(np.random.default_rng(0).choice(len(data), min(TRUE_ROWS, len(data)), replace=False))
        middle = data.mean(axis=0, dtype=np.float64)
        points = data[self.rows] - middle
        squares = np.empty((len(self.rows), len(data)))
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK] - middle
            part = (points**2).sum(axis=1)[:, None] + (block**2).sum(axis=1) - 2 * points @ block.T
            squares[:, start : start + BLOCK] = part
        squares[np.arange(len(self.rows)), self.rows] = np.inf
        near = np.argpartition(squares, k + 5, axis=1)[:, : k + 5]
        differences = data[near].astype(np.float64) - data[self.rows, None]
        self.radius = np.sort(np.linalg.norm(differences, axis=2), axis=1)[:, k - 1]
        self._data = data

    def recall(self, indices: NDArray[np.integer]) -> float:
        """The share of the k that are as near as the true k-th, with true distances of what was found.

        Args:
            indices: (N, k).
        """
        found = indices[self.rows]
        differences = self._data[found].astype(np.float64) - self._data[self.rows, None]
        distances = np.linalg.norm(differences, axis=2)
        right = (distances <= self.radius[:, None] * (1 + 1e-6)) & (found != self.rows[:, None])
        return float(right.mean())
