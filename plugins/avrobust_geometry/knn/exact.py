"""Exact nearest neighbours: products in float32, ranked again in float64, and searched anew where those may err."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Shares
from avrobust_geometry.inputs import Floats, Ints
from avrobust_geometry.knn.rows import Rows
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.settling import candidates_for, doubtful, rerank
from avrobust_geometry.knn.tiles import Offer, scan


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest neighbours of N points.

    Attributes:
        indices: (N, k) rows of the reference, nearest first; of equally distant ones, the lower row first.
        distances: (N, k) Euclidean, ascending; exactly 0 for a duplicate.
        report: JSON data: how and why; see `nearest`.
    """

    indices: Ints
    distances: Floats
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """P lines, each of which asks for the neighbours of a point.

    Attributes:
        points: N rows.
        reference: M rows where neighbours are looked for; `points` itself where each is left out by its row.
        own: (N,) int64 row of the reference that is the point itself, -1 for none; None if there are none at all.
        owner: (P,) the point's row, ascending.
        k: neighbours.
        device: where products are computed.
        shares: the processes that search together: each scores a part of the tiles and ranks a part of the lines.
    """

    points: Rows
    reference: Rows
    own: Tensor | None
    owner: Tensor
    k: int
    device: torch.device
    shares: Shares

    def offer(self, bests: Sequence[Best]) -> Offer:
        """Take in the tiles of a scan: for all lines alike."""
        return bests[0].offer

    def alone(self, chosen: Tensor) -> Self:
        """The lines at `chosen`, (Q,), each with a point of its own."""
        owner = self.owner[chosen]
        own = owner if self.points is self.reference else None if self.own is None else self.own[owner]
        return replace(self, points=self.points.taken(owner), owner=torch.arange(len(chosen)), own=own)

    def search(self, answers: int = 1, kept: slice = slice(None)) -> tuple[list[tuple[Ints, Floats]], int, int]:
        """Find the neighbours: by products in float32, in float64 for doubtful lines, and by differences for the rest.

        Args:
            answers: how many `offer` fills.
            kept: of the k neighbours.

        Returns:
            for each answer the rows (P, kept) of the reference, -1 for none, and their distances, infinite for none;
            how many lines were searched a second time; and how many of these a third time.
        """
        asked, lines = self, np.arange(len(self.owner))
        found: list[tuple[Ints, Floats]] = []
        again: list[int] = []
        for dtype in (torch.float32, torch.float64, None):
            keep = min(candidates_for(self.k), self.reference.n)
            bests = [Best(len(lines), keep, self.device, dtype or torch.float64) for _ in range(answers)]
            part = self.shares.rank, self.shares.world
            far = scan(asked.points, asked.reference, self.device, dtype, asked.offer(bests), asked.own, part)
            doubt = np.zeros(len(lines), dtype=bool)
            for place, best in enumerate(bests):
                rows, distances, doubts = asked.ranked(best.take(), far=far, certain=dtype is None)
                doubt |= doubts
                if asked is self:
                    found.append((rows[:, kept].copy(), distances[:, kept].copy()))
                else:
                    found[place][0][lines], found[place][1][lines] = rows[:, kept], distances[:, kept]
            lines = lines[doubt]
            again.append(len(lines))
            if not len(lines):
                break
            asked = self.alone(torch.from_numpy(lines))
        return found, again[0], sum(again[1:])

    def ranked(
        self, candidates: tuple[Tensor, Tensor], *, far: bool, certain: bool
    ) -> tuple[Ints, Floats, NDArray[np.bool_]]:
        """Rank the candidates that all processes have found by their true distances.

        Args:
            candidates: that this one has found, as `Best.take` gives them.
            far: whether it has left rows unscored that lie too far away.
            certain: whether no better candidate can have been missed.

        Returns:
            the rows (P, k) and distances (P, k) of the neighbours, and which lines (P,) are not certain.
        """
        shares = self.shares
        mine = shares.slice_of(len(self.owner))
        if shares.world > 1:
            found = shares.gather((candidates[0].cpu(), candidates[1].int().cpu(), far))
            keep = candidates[0].shape[1]
            scores, places = torch.cat([theirs[mine] for theirs, _, _ in found], dim=1).topk(keep, dim=1)
            columns = torch.cat([theirs[mine] for _, theirs, _ in found], dim=1).gather(1, places).long()
            far = any(theirs for _, _, theirs in found)
        else:
            scores, columns = candidates
        owner = self.owner[mine]
        columns = F.pad(columns, (0, max(0, self.k - columns.shape[1])), value=-1)
        rows, distances = rerank(self.points, self.reference, columns, self.k, owner)
        doubt = np.zeros(len(owner), dtype=bool)
        if not certain:
            doubt = doubtful(self.points, self.reference.frame, distances[:, -1], scores[:, -1], owner, far=far)
        if shares.world == 1:
            return rows, distances, doubt
        rows, distances, doubt = map(np.concatenate, zip(*shares.gather((rows, distances, doubt)), strict=True))
        return rows, distances, doubt


def exact_neighbours(
    points: Rows, reference: Rows, k: int, own: Tensor | None, device: torch.device, shares: Shares | None = None
) -> Nearest:
    """The k nearest reference rows of each point; the report has `searched_again` and `by_differences`.

    Args:
        points: N rows.
        reference: M rows; the same object for one set with itself: each point's own row is then left out.
        k: at most as many as there are for every point.
        own: (N,) int64 row of the reference that is the point itself, -1 for none; None if there are none at all.
        device: where products are computed.
        shares: the processes that search together; None for this one alone.
    """
    question = Question(points, reference, own, torch.arange(points.n), k, device, shares or Shares())
    [(indices, distances)], again, apart = question.search()
    return Nearest(indices, distances, {"searched_again": again, "by_differences": apart})
