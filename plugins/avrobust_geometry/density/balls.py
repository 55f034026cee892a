"""The clips that lie in the balls that reach from reference clips to their k-th neighbours: density and coverage."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import Estimate, bootstrap
from avrobust_geometry.inputs import Array, Floats, Ints
from avrobust_geometry.knn.rows import Frame, Rows, read_sets
from avrobust_geometry.knn.tiles import full_precision, scan

KEPT = 16
"""Clips that are remembered of those in a ball: a resample leaves them all out once in ten million times."""

TIE = 1e-12
"""Squared distances that differ by less, as a share, are equal: a ball does not hold the neighbour on its rim."""

ROUNDING = 6 * 2.0**-53
"""The error that a product in float64 may have, in units of the root of its terms and the size of the square."""

CHUNK = 1 << 22
"""Coordinates whose differences are computed at once, and entries of resamples that are looked at together."""


class Balls:
    """Counts the balls around reference clips that each clip lies in, strictly inside.

    Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", with the reference
    as the real samples and the clips that are measured as the fake ones.

    Args:
        points: (N, D) floats.
        reference: (M, D); None for the points, each of which is then in no ball of its own.
        radii: (M,) of the balls.
        own: (N,) the row of the reference that is the point itself, whose ball does not count; -1 for none.
        device: where products are computed.

    Attributes:
        counts: (N,) balls that each point lies in.
        inside: (M, KEPT) some of the points in each ball, -1 where there are fewer.
    """

    def __init__(
        self,
        points: Array,
        radii: Floats,
        *,
        reference: Array | None = None,
        own: Ints | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._points, self._reference, own_rows = read_sets(points, reference, own, torch.device(device))
        self.counts = np.zeros(self._points.n, dtype=np.int64)
        self.inside = np.full((self._reference.n, KEPT), -1, dtype=np.int64)
        self._filled = np.zeros(self._reference.n, dtype=np.int64)
        frame = self._reference.frame
        self._scale = frame.scale
        self._squares = torch.from_numpy((radii * self._scale) ** 2)
        self._unit = ROUNDING * (self._reference.width + 2) ** 0.5
        self._sizes = [_sizes(self._points, frame), _sizes(self._reference, frame)]
        with full_precision(None):
            scan(self._points, self._reference, torch.device(device), torch.float64, self._offer, own_rows)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(M,) whether there is a point in each ball."""
        return np.asarray(self.inside[:, 0] >= 0)

    def coverage(self, **interval: Any) -> Estimate:
        """The share of balls with a point in them, with an interval by bootstrap over the points, or groups of them.

        A resample holds fewer different points, and covers less: its percentiles are moved by the bootstrap's own
        estimate of that bias.

        Args:
            interval: how it is made, for `bootstrap`: confidence, resamples, seed, groups.
        """

        def share(weights: Floats) -> Floats:
            # One column more, always absent, for places that hold nobody.
            there = np.pad(weights > 0, ((0, 0), (0, 1))).T
            total = np.zeros(len(weights))
            step = max(1, CHUNK // len(weights))
            for start in range(0, len(self.inside), step):
                block = self.inside[start : start + step]
                hit = np.zeros((len(block), len(weights)), dtype=np.bool_)
                for column in range(KEPT):
                    used = block[:, column] >= 0
                    if not used.any():
                        break
                    hit[used] |= there[block[used, column]]
                total += hit.sum(axis=0)
            return total / len(self.inside)

        return bootstrap(share, self._points.n, value=float(self.covered.mean()), recentred=True, **interval)

    def _offer(self, scores: Tensor, row: int, column: int) -> None:
        """Take in a tile of minus half of squared distances."""
        rows, columns = scores.shape
        squares = self._squares[column : column + columns].to(scores.device)
        near = self._sizes[0][row : row + rows].to(scores.device)
        far = self._sizes[1][column : column + columns].to(scores.device)
        excess = scores * -2 - squares
        slack = self._unit * (near[:, None] + far) ** 2
        sure = excess < -slack - TIE * squares
        doubtful = (excess.abs() <= slack + TIE * squares) & torch.isfinite(scores)
        points, balls = (found.cpu().numpy() for found in sure.nonzero(as_tuple=True))
        maybe = [found.cpu() for found in doubtful.nonzero(as_tuple=True)]
        if len(maybe[0]):
            held = self._settled(maybe[0] + row, maybe[1] + column)
            points = np.concatenate([points, maybe[0].numpy()[held]])
            balls = np.concatenate([balls, maybe[1].numpy()[held]])
        self.counts[row : row + rows] += np.bincount(points, minlength=rows)
        self._keep(points + row, balls + column)

    def _settled(self, points: Tensor, balls: Tensor) -> NDArray[np.bool_]:
        """Decide by differences in float64 which of some pairs are inside."""
        held = []
        step = max(1, CHUNK // self._reference.width)
        for start in range(0, len(points), step):
            left, right = points[start : start + step], balls[start : start + step]
            ends = self._reference.gather(right).double().cpu()
            apart = ends - self._points.gather(left).double().cpu()
            apart = (apart * self._scale).square().sum(dim=1)
            held.append((apart < self._squares[right] * (1 - TIE)).numpy())
        return np.concatenate(held)

    def _keep(self, points: Ints, balls: Ints) -> None:
        open_ = self._filled[balls] < KEPT
        points, balls = points[open_], balls[open_]
        order = np.argsort(balls, kind="stable")
        points, balls = points[order], balls[order]
        first = np.searchsorted(balls, balls)
        place = self._filled[balls] + np.arange(len(balls)) - first
        room = place < KEPT
        self.inside[balls[room], place[room]] = points[room]
        np.add.at(self._filled, balls[room], 1)


def _sizes(rows: Rows, frame: Frame) -> Tensor:
    """The norm of each row in a frame, (N,) float64."""
    return torch.cat([frame.norms(block) for _, block in rows.blocks()])
