"""`nearest_by_class`: how far each point's k-th neighbour is among those of its class, and among the others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_geometry.configs import Exact
from avrobust_geometry.inputs import as_array
from avrobust_geometry.knn.answers import NearestByClass
from avrobust_geometry.knn.arguments import check_choices, read_sets, whole_numbers
from avrobust_geometry.knn.exact import Question
from avrobust_geometry.knn.membership import MultiLabel, SingleLabel
from avrobust_geometry.knn.rows import Rows
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.tiles import Offer, full_precision

MOST = 400_000_000_000
"""Distances that are computed at most before a subsample stands in: about an hour at 512 features on two cores."""

PAIRS = 4096
"""Pairs of a tile that are looked at together, which bounds the memory of points with many labels."""


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
    points: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    k: int,
    *,
    reference: ArrayLike | Tensor | None = None,
    reference_labels: ArrayLike | Tensor | None = None,
    exclude: ArrayLike | Tensor | None = None,
    exact: Exact = "auto",
    most: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> NearestByClass:
    """The distance to the k-th neighbour inside and outside each of the classes that a point has.

    All distances are exact. Where there are too many, a uniform subsample of the reference stands in, and the counts
    are the subsample's: log(n_other / n_same) - m log r_k, with r_k and the counts from one set, stays comparable.

    Args:
        points: (N, D) of floats: a numpy array, perhaps memory-mapped, or a torch tensor.
        labels: (N,) whole numbers, or (N, K) bool for several per point; a point without any is in no pair.
        k: neighbours.
        reference: (M, D) where neighbours are looked for; None for the points, each of which is then left out by its
            row.
        reference_labels: (M,) or (M, K), as `labels`.
        exclude: (N,) the row of the reference that is the point itself, -1 for none.
        exact: True takes the whole reference, whatever that costs; "auto" and False take a subsample beyond `most`.
        most: how many distances, N times M, are affordable; by default 4e11.
        seed: of the subsample.
        device: where products are computed.
        threads: of the processor; by default torch's number.

    Returns:
        the distances. The report has `k`, `points`, `reference`: rows that were looked at; `subsampled`: those of
        the whole reference, None if all were looked at; `random_state`; `searched_again`: pairs that needed products in
        float64; `by_differences`: pairs of these for which products were not enough; `duplicates`: pairs with r_k = 0
        in their class; `short_same`, `short_other`: pairs with fewer than k; `n_jobs`, `seconds`.

    Raises:
        ValueError: for wrong shapes, widths, types or k, and values that are not finite.
    """
    began = time.perf_counter()
    where = check_choices(k, exact, device, threads)
    asked, among, own = read_sets(points, reference, exclude)
    has, known = _read_labels(labels, reference_labels, asked, among)
    whole, limit = among.n, MOST if most is None else most
    among, known, own = _sampled(asked, among, known, own, whole if exact is True else max(1, limit // asked.n), seed)
    with full_precision(threads) as jobs:
        question = _arranged(asked, has, among, known, own, k, where)
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


def _read_labels(
    labels: ArrayLike | Tensor, reference_labels: ArrayLike | Tensor | None, points: Rows, reference: Rows
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both sets' labels, each (N,) int64 or (N, K) bool."""
    has = _labels_of(labels, points.n, "labels")
    if points is reference:
        if reference_labels is not None:
            raise ValueError("reference_labels go with a reference: without one the labels are those of the points")
        return has, has
    if reference_labels is None:
        raise ValueError("a reference needs reference_labels")
    known = _labels_of(reference_labels, reference.n, "reference_labels")
    if has.shape[1:] != known.shape[1:]:
        raise ValueError(f"labels have shape {has.shape}, reference_labels {known.shape}: give both in one form")
    return has, known


def _labels_of(values: ArrayLike | Tensor, n: int, name: str) -> NDArray[Any]:
    array = as_array(values)
    if array.ndim == 2 and array.dtype == bool and len(array) == n:
        return array
    if array.ndim == 1 and len(array) == n:
        return whole_numbers(array, name)
    raise ValueError(
        f"{name} of shape {array.shape} and type {array.dtype}: give ({n},) whole numbers, or ({n}, classes) bool"
    )


def _sampled(
    points: Rows, reference: Rows, known: NDArray[Any], own: Tensor | None, limit: int, seed: int
) -> tuple[Rows, NDArray[Any], Tensor | None]:
    """The reference, its labels and each point's own row there, of a uniform subsample of at most so many rows."""
    if limit >= reference.n:
        return reference, known, own
    kept = np.sort(np.random.default_rng(seed).choice(reference.n, limit, replace=False))
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
    has: NDArray[Any],
    reference: Rows,
    known: NDArray[Any],
    own: Tensor | None,
    k: int,
    device: torch.device,
) -> _ByClass:
    """Everything in the order of the search: with one label per row, by label."""
    if has.ndim == 2:
        owner, cls = (torch.from_numpy(np.ascontiguousarray(part)) for part in np.nonzero(has))
        several = MultiLabel(torch.from_numpy(known), device)
        return _ByClass(points, reference, own, owner, k, device, cls, several, torch.arange(points.n))
    ahead, behind = (torch.from_numpy(np.argsort(labels, kind="stable")) for labels in (has, known))
    ordered = points.taken(ahead)
    among = ordered if points is reference else reference.taken(behind)
    own = None if own is None else _places(behind, reference.n)[own[ahead]]
    single = SingleLabel(torch.from_numpy(known[behind.numpy()]), device)
    cls = torch.from_numpy(has)[ahead]
    return _ByClass(ordered, among, own, torch.arange(points.n), k, device, cls, single, ahead)
