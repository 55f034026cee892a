"""`nearest_by_class`: how far each point's k-th neighbour is among those of its class, and among the others."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_geometry.knn.answers import ClassNeighbours
from avrobust_geometry.knn.arguments import Exact, check_choices, read_sets, whole_numbers
from avrobust_geometry.knn.membership import Membership, MultiLabel, SingleLabel
from avrobust_geometry.knn.rows import Frame, Prepared, Rows
from avrobust_geometry.knn.selection import Best
from avrobust_geometry.knn.settling import candidates_for, doubtful, rerank
from avrobust_geometry.knn.tiles import full_precision, scan, scan_apart

MOST = 400_000_000_000
"""Distances that are computed at most before a subsample stands in: about an hour at 512 features on two cores."""

PAIRS = 4096
"""Pairs of a tile that are looked at together, which bounds the memory of points with many labels."""


@dataclass(frozen=True, slots=True)
class _Question:
    """Pairs of a point and one of its classes, ordered by point, and the rows among which their neighbours are.

    Attributes:
        points: whose rows the pairs name.
        reference: where neighbours are looked for; `points` itself where each is left out by its row.
        owner: (P,) the point's row.
        cls: (P,) the class.
        known: the labels of the reference's rows.
        member: which of these rows have a class.
        own: (N,) the row of the reference that is the point itself, -1 for none; None where there is none.
        frame: of both.
        k: neighbours.
        device: where products are computed.
        order: (N,) the rows of the points as they were given, in the order of the search; None where that is theirs.
    """

    points: Rows
    reference: Rows
    owner: Tensor
    cls: Tensor
    known: NDArray[Any]
    member: Membership
    own: Tensor | None
    frame: Frame
    k: int
    device: torch.device
    order: Tensor | None = None

    def alone(self, chosen: Tensor) -> "_Question":
        """The pairs at `chosen`, (Q,), each as a point of its own."""
        owner = self.owner[chosen]
        own = owner if self.points is self.reference else None if self.own is None else self.own[owner]
        points = self.points.taken(owner)
        return replace(self, points=points, owner=torch.arange(len(chosen)), cls=self.cls[chosen], own=own)

    @property
    def clip(self) -> Tensor:
        """(P,) the point's row as it was given."""
        return self.owner if self.order is None else self.order[self.owner]

    def counts(self) -> tuple[Tensor, Tensor]:
        """Numbers of reference rows with each pair's class and without it, the point's own left out: (P,) each."""
        same = self.member.counts(self.cls)
        other = self.reference.n - same
        if self.own is not None or self.points is self.reference:
            # A point's own row has the class only if the reference's labels say so, too.
            own_row = torch.arange(self.points.n) if self.own is None else self.own
            own_same = _has_class(self.known, own_row[self.owner], self.cls)
            same, other = same - (own_same == 1).long(), other - (own_same == 0).long()
        return same, other


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
) -> ClassNeighbours:
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
        same, other, again, apart = _search(question)
        counts = question.counts()
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
    clip, cls = question.clip.numpy(), question.cls.numpy()
    n_same, n_other = (count.numpy() for count in counts)
    back = np.argsort(clip, kind="stable")
    return ClassNeighbours(clip[back], cls[back], same[back], other[back], n_same[back], n_other[back], report)


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
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
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
) -> _Question:
    """Everything in the order of the search: with one label per row, by label."""
    frame = reference.frame
    if has.ndim == 2:
        owner, cls = (torch.from_numpy(np.ascontiguousarray(part)) for part in np.nonzero(has))
        several = MultiLabel(torch.from_numpy(known), device)
        return _Question(points, reference, owner, cls, known, several, own, frame, k, device)
    ahead, behind = (torch.from_numpy(np.argsort(labels, kind="stable")) for labels in (has, known))
    ordered = points.taken(ahead)
    among = ordered if points is reference else reference.taken(behind)
    own = None if own is None else _places(behind, reference.n)[own[ahead]]
    owner, cls, known = torch.arange(points.n), torch.from_numpy(has)[ahead], known[behind.numpy()]
    single = SingleLabel(torch.from_numpy(known), device)
    return _Question(ordered, among, owner, cls, known, single, own, frame, k, device, ahead)


def _has_class(known: NDArray[Any], rows: Tensor, cls: Tensor) -> Tensor:
    """1 where a reference row has the class, 0 where it has not, -1 for no row: (P,)."""
    at = rows.clamp(min=0).numpy()
    found = known[at, cls.numpy()] if known.ndim == 2 else known[at] == cls.numpy()
    return torch.where(rows < 0, -1, torch.from_numpy(found).long())


def _search(asked: _Question) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """r_k in the class and outside, (P,) each, NaN for none; how many pairs were searched twice, and three times."""
    k, frame = asked.k, asked.frame
    bests, far = _scan(asked, torch.float32)
    found, doubt = [], np.zeros(len(asked.owner), dtype=bool)
    for best in bests:
        scores, columns = best.take()
        _, distances = rerank(asked.points, asked.reference, _wide(columns, k), k, asked.owner)
        found.append(distances[:, -1])
        doubt |= doubtful(asked.points, frame, distances[:, -1], scores[:, -1], asked.owner, far=far)
    counts = []
    for products in (True, False):
        chosen = np.flatnonzero(doubt)
        counts.append(len(chosen))
        if not len(chosen):
            continue
        again = asked.alone(torch.from_numpy(chosen))
        bests, _ = _scan(again, torch.float64 if products else None)
        doubt[chosen] = False
        for distance, best in zip(found, bests, strict=True):
            scores, columns = best.take()
            distance[chosen] = rerank(again.points, again.reference, _wide(columns, k), k)[1][:, -1]
            if products:
                doubt[chosen] |= doubtful(again.points, frame, distance[chosen], scores[:, -1])
    same, other = (np.where(np.isinf(distance), np.nan, distance) for distance in found)
    return same, other, counts[0], counts[1]


def _scan(asked: _Question, dtype: torch.dtype | None) -> tuple[tuple[Best, Best], bool]:
    """The candidates of each pair in its class, and those outside; whether rows were too far away to be scored.

    Scores are of products in `dtype`, or of differences in float64 where that is None.
    """
    points, reference, owner, device = asked.points, asked.reference, asked.owner, asked.device
    keep = min(candidates_for(asked.k), reference.n)
    same, other = (Best(len(owner), keep, device, dtype or torch.float64) for _ in range(2))
    first = torch.searchsorted(owner, torch.arange(points.n + 1)).tolist()
    alone = len(owner) == points.n and bool((owner == torch.arange(points.n)).all())

    def offer(scores: Tensor, row: int, column: int) -> None:
        for low in range(first[row], first[row + len(scores)], PAIRS):
            high = min(low + PAIRS, first[row + len(scores)])
            lines = owner[low:high].to(scores.device) - row
            part = scores if alone and high - low == len(scores) else scores[lines]
            mask = asked.member.same(asked.cls[low:high], column, column + scores.shape[1])
            if mask is not False:
                same.offer(part if mask is True else part.masked_fill(~mask, -torch.inf), low, column)
            if mask is not True:
                other.offer(part if mask is False else part.masked_fill(mask, -torch.inf), low, column)

    if dtype is None:
        scan_apart(points, reference, device, offer, asked.own)
        return (same, other), False
    right = Prepared(reference, asked.frame, device, dtype)
    left = right if points is reference else Prepared(points, asked.frame, device, dtype)
    scan(left, right, offer, asked.own)
    return (same, other), left.far or right.far


def _wide(columns: Tensor, k: int) -> Tensor:
    """Candidates of at least k columns, filled up with -1."""
    return torch.nn.functional.pad(columns, (0, max(0, k - columns.shape[1])), value=-1)
