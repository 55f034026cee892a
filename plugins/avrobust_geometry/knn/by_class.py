"""`nearest_by_class`: how far each point's k-th neighbour is among those of its class, and among the others."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from avrobust_core import Shares
from avrobust_geometry.inputs import Array, Floats, Ints, Labels
from avrobust_geometry.knn.exact import Question
from avrobust_geometry.knn.membership import MultiLabel, SingleLabel
from avrobust_geometry.knn.rows import Rows, read_sets
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.tiles import Offer, full_precision

PAIRS = 4096
"""Pairs of a tile that are looked at together, which bounds the memory of points with many labels."""


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

    clip: Ints
    cls: Ints
    same: Floats
    other: Floats
    n_same: Ints
    n_other: Ints
    k: Ints
    report: Mapping[str, Any]


@dataclass(frozen=True)
class _ByClass(Question):
    """Pairs of a point and one of its classes, ordered by point: two answers each, inside the class and outside.

    Attributes:
        cls: (P,) the class.
        member: which rows of the reference have a class.
        order: (N,) the rows of the points as they were given, in the order of the search.
    """

    cls: Tensor
    member: SingleLabel | MultiLabel
    order: Tensor

    def alone(self, chosen: Tensor) -> Self:
        return replace(super().alone(chosen), cls=self.cls[chosen])

    def counts(self) -> tuple[Tensor, Tensor]:
        """Numbers of reference rows with each pair's class and without it, the point's own left out: (P,) each."""
        same = self.member.counts(self.cls)
        other = self.reference.n - same
        if self.own is not None or self.points is self.reference:
            # A point's own row has the class only if the reference's labels say so, too.
            rows = self.owner if self.own is None else self.own[self.owner]
            has = self.member.has(rows.clamp(min=0), self.cls)
            same, other = same - (has & (rows >= 0)).long(), other - (~has & (rows >= 0)).long()
        return same, other

    def offer(self, bests: Sequence[Best]) -> Offer:
        """Take in the tiles of a scan: the first answer is inside the pair's class, the second outside."""
        same, other = bests
        owner, n = self.owner, self.points.n
        first = torch.searchsorted(owner, torch.arange(n + 1)).tolist()
        single = len(owner) == n and bool((owner == torch.arange(n)).all())

        def take(scores: Tensor, row: int, column: int) -> None:
            for low in range(first[row], first[row + len(scores)], PAIRS):
                high = min(low + PAIRS, first[row + len(scores)])
                lines = owner[low:high].to(scores.device) - row
                part = scores if single and high - low == len(scores) else scores[lines]
                mask = self.member.same(self.cls[low:high], column, column + scores.shape[1])
                if mask is not False:
                    same.offer(part if mask is True else part.masked_fill(~mask, -torch.inf), low, column)
                if mask is not True:
                    other.offer(part if mask is False else part.masked_fill(mask, -torch.inf), low, column)

        return take


def nearest_by_class(
    points: Array,
    labels: Labels,
    k: int,
    *,
    reference: Array | None = None,
    reference_labels: Labels | None = None,
    exclude: Ints | None = None,
    most: float = inf,
    seed: int = 0,
    device: str | torch.device = "cpu",
    shares: Shares | None = None,
) -> NearestByClass:
    """The distance to the k-th neighbour inside and outside each of the classes that a point has.

    All distances are exact. Where there are too many, a uniform subsample of the reference stands in, and the counts
    are the subsample's: log(n_other / n_same) - m log r_k, with r_k and the counts from one set, stays comparable.

    Args:
        points: (N, D) of floats: a numpy array, perhaps memory-mapped, or a torch tensor.
        labels: (N,) int64, or (N, K) bool for several per point; a point without any is in no pair.
        k: neighbours.
        reference: (M, D) where neighbours are looked for; None for the points, each of which is then left out by its
            row.
        reference_labels: (M,) or (M, K), as `labels`; None for the points'.
        exclude: (N,) the row of the reference that is the point itself, -1 for none.
        most: how many distances, N times M, are affordable.
        seed: of the subsample.
        device: where products are computed.
        shares: the processes that search together, each of which must call this with the same; None for this one alone.

    Returns:
        the distances. The report has `k`, `points`, `reference`: rows that were looked at; `subsampled`: those of
        the whole reference, None if all were looked at; `random_state`; `searched_again`: pairs that needed products in
        float64; `by_differences`: pairs of these for which products were not enough; `duplicates`: pairs with r_k = 0
        in their class; `short_same`, `short_other`: pairs with fewer than k; `n_jobs`, `seconds`.

    Raises:
        ValueError: for points or a reference of wrong shapes, widths or types, and values that are not finite.
    """
    began = time.perf_counter()
    asked, among, own = read_sets(points, reference, exclude, torch.device(device))
    known, whole = labels if reference_labels is None else reference_labels, among.n
    if most < asked.n * whole:
        among, known, own = _sampled(asked, among, known, own, max(1, int(most) // asked.n), seed)
    with full_precision(None) as jobs:
        # No set holds more than all rows: a larger k finds the same nothing, and candidates for each would fill memory.
        question = _arranged(
            asked, labels, among, known, own, min(k, among.n + 1), torch.device(device), shares or Shares()
        )
        answers, again, apart = question.search(2, slice(-1, None))
        counts = question.counts()
    clip, cls = question.order[question.owner].numpy(), question.cls.numpy()
    back = np.argsort(clip, kind="stable")
    same, other = (np.where(np.isinf(radius), np.nan, radius)[back, 0] for _, radius in answers)
    n_same, n_other = (count.numpy()[back] for count in counts)
    report: dict[str, Any] = {
        "k": k,
        "points": asked.n,
        "reference": among.n,
        "subsampled": whole if among.n < whole else None,
        "random_state": seed,
        "searched_again": again,
        "by_differences": apart,
        "duplicates": int((same == 0).sum()),
        "short_same": int(np.isnan(same).sum()),
        "short_other": int(np.isnan(other).sum()),
        "n_jobs": jobs,
        "seconds": round(time.perf_counter() - began, 3),
    }
    return NearestByClass(clip[back], cls[back], same, other, n_same, n_other, np.full(len(back), k), report)


def _sampled(
    points: Rows, reference: Rows, known: Labels, own: Tensor | None, count: int, seed: int
) -> tuple[Rows, Labels, Tensor | None]:
    """The reference, its labels and each point's own row there, of a uniform subsample of so many rows."""
    kept = np.sort(np.random.default_rng(seed).choice(reference.n, count, replace=False))
    own = torch.arange(points.n) if points is reference else own
    rows = torch.from_numpy(kept)
    return reference.taken(rows), known[kept], None if own is None else _places(rows, reference.n)[own]


def _places(rows: Tensor, whole: int) -> Tensor:
    """The place of each of `whole` rows among `rows`, -1 for none; the last of all is for -1: (whole + 1,)."""
    place = torch.full((whole + 1,), -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    return place


def _arranged(
    points: Rows,
    has: Labels,
    reference: Rows,
    known: Labels,
    own: Tensor | None,
    k: int,
    device: torch.device,
    shares: Shares,
) -> _ByClass:
    """Everything in the order of the search: with one label per row, by label."""
    if has.ndim == 2:
        owner, cls = (torch.from_numpy(np.ascontiguousarray(part)) for part in np.nonzero(has))
        several = MultiLabel(torch.from_numpy(known), device)
        return _ByClass(points, reference, own, owner, k, device, shares, cls, several, torch.arange(points.n))
    ahead, behind = (torch.from_numpy(np.argsort(labels, kind="stable")) for labels in (has, known))
    ordered = points.taken(ahead)
    among = ordered if points is reference else reference.taken(behind)
    own = None if own is None else _places(behind, reference.n)[own[ahead]]
    single = SingleLabel(torch.from_numpy(known[behind.numpy()]), device)
    cls = torch.from_numpy(has[ahead.numpy()])  # a copy: what a run reads back is not writable
    return _ByClass(ordered, among, own, torch.arange(points.n), k, device, shares, cls, single, ahead)
