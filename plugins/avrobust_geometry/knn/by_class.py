"""`nearest_by_class`: how far each point's k-th neighbour is among those of its class, and among the others."""

import time
from dataclasses import dataclass
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
class _Pairs:
    """Pairs of a point and one of its classes, ordered by point.

    Attributes:
        owner: (P,) the point's row.
        cls: (P,) the class.
    """

    owner: Tensor
    cls: Tensor


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
    frame, whole = among.frame, among.n
    limit = whole if exact is True else max(1, (MOST if most is None else most) // asked.n)
    if limit < whole:
        kept = np.sort(np.random.default_rng(seed).choice(whole, limit, replace=False))
        own = _moved(own if asked is not among else torch.arange(asked.n), kept, whole)
        among, known = among.taken(torch.from_numpy(kept)), known[kept]
    with full_precision(threads) as jobs:
        pairs, asked, among, member, own, order = _arranged(asked, has, among, known, own, where)
        same, other, again, apart = _search(asked, among, frame, pairs, member, k, own, where)
        n_same = member.counts(pairs.cls)
        n_other = among.n - n_same
        if own is not None or asked is among:
            # A point's own row has the class only if the reference's labels say so, too.
            own_row = torch.arange(asked.n) if own is None else own
            own_same = _has_class(known if order is None else known[order[1]], own_row[pairs.owner], pairs.cls)
            n_same = n_same - (own_same == 1).long()
            n_other = n_other - (own_same == 0).long()
    clip = pairs.owner if order is None else torch.from_numpy(order[0])[pairs.owner]
    back = torch.argsort(clip, stable=True).numpy()
    report: dict[str, Any] = {
        "k": k,
        "points": asked.n,
        "reference": among.n,
        "subsampled": whole if limit < whole else None,
        "random_state": seed,
        "searched_again": again,
        "by_differences": apart,
        "duplicates": int((same == 0).sum()),
        "short_same": int(np.isnan(same).sum()),
        "short_other": int(np.isnan(other).sum()),
        "n_jobs": jobs,
        "seconds": round(time.perf_counter() - began, 3),
    }
    return ClassNeighbours(
        clip.numpy()[back],
        pairs.cls.numpy()[back],
        same[back],
        other[back],
        n_same.numpy()[back],
        n_other.numpy()[back],
        report,
    )


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


def _moved(own: Tensor | None, kept: NDArray[np.int64], whole: int) -> Tensor | None:
    """Where each point's own row is in a subsample; -1 where it is not."""
    if own is None:
        return None
    place = torch.full((whole + 1,), -1, dtype=torch.int64)  # the last for -1
    place[torch.from_numpy(kept)] = torch.arange(len(kept))
    return place[own]


def _arranged(
    points: Rows,
    has: NDArray[Any],
    reference: Rows,
    known: NDArray[Any],
    own: Tensor | None,
    device: torch.device,
) -> tuple[_Pairs, Rows, Rows, Membership, Tensor | None, tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
    """Everything in the order of the search: with one label per row, by label; `order` then leads back."""
    if has.ndim == 2:
        owner, cls = (torch.from_numpy(np.ascontiguousarray(part)) for part in np.nonzero(has))
        return _Pairs(owner, cls), points, reference, MultiLabel(torch.from_numpy(known), device), own, None
    ahead, behind = np.argsort(has, kind="stable"), np.argsort(known, kind="stable")
    ordered = points.taken(torch.from_numpy(ahead))
    among = ordered if points is reference else reference.taken(torch.from_numpy(behind))
    if own is not None:
        place = torch.full((reference.n + 1,), -1, dtype=torch.int64)
        place[torch.from_numpy(behind)] = torch.arange(reference.n)
        own = place[own[torch.from_numpy(ahead)]]
    pairs = _Pairs(torch.arange(points.n), torch.from_numpy(has[ahead]))
    return pairs, ordered, among, SingleLabel(torch.from_numpy(known[behind]), device), own, (ahead, behind)


def _has_class(known: NDArray[Any], rows: Tensor, cls: Tensor) -> Tensor:
    """Whether reference rows have classes: 1 yes, 0 no, -1 for no row; (P,)."""
    at = rows.clamp(min=0).numpy()
    found = known[at, cls.numpy()] if known.ndim == 2 else known[at] == cls.numpy()
    return torch.where(rows < 0, -1, torch.from_numpy(found).long())


def _search(
    points: Rows,
    reference: Rows,
    frame: Frame,
    pairs: _Pairs,
    member: Membership,
    k: int,
    own: Tensor | None,
    device: torch.device,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """r_k in the class and outside, (P,) each, NaN for none; how many pairs were searched twice, and three times."""
    bests, far = _scan(points, reference, frame, pairs, member, k, own, device, torch.float32)
    found, doubt = [], np.zeros(len(pairs.owner), dtype=bool)
    for best in bests:
        scores, columns = best.take()
        _, distances = rerank(points, reference, _wide(columns, k), k, pairs.owner)
        found.append(distances[:, -1])
        doubt |= doubtful(points, frame, distances[:, -1], scores[:, -1], pairs.owner, far=far)
    counts = []
    for products in (True, False):
        chosen = np.flatnonzero(doubt)
        counts.append(len(chosen))
        if not len(chosen):
            continue
        # Each doubtful pair becomes a point of its own.
        again = torch.from_numpy(chosen)
        owner = pairs.owner[again]
        few, alone = points.taken(owner), owner if points is reference else None if own is None else own[owner]
        single = _Pairs(torch.arange(len(again)), pairs.cls[again])
        dtype = torch.float64 if products else None
        bests, _ = _scan(few, reference, frame, single, member, k, alone, device, dtype)
        doubt[chosen] = False
        for distance, best in zip(found, bests, strict=True):
            scores, columns = best.take()
            distance[chosen] = rerank(few, reference, _wide(columns, k), k)[1][:, -1]
            if products:
                doubt[chosen] |= doubtful(few, frame, distance[chosen], scores[:, -1])
    same, other = (np.where(np.isinf(distance), np.nan, distance) for distance in found)
    return same, other, counts[0], counts[1]


def _scan(
    points: Rows,
    reference: Rows,
    frame: Frame,
    pairs: _Pairs,
    member: Membership,
    k: int,
    own: Tensor | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[tuple[Best, Best], bool]:
    """The candidates of each pair in its class, and those outside; whether rows were too far away to be scored.

    Scores are of products in `dtype`, or of differences in float64 where that is None.
    """
    keep = min(candidates_for(k), reference.n)
    same, other = (Best(len(pairs.owner), keep, device, dtype or torch.float64) for _ in range(2))
    first = torch.searchsorted(pairs.owner, torch.arange(points.n + 1)).tolist()
    alone = len(pairs.owner) == points.n and bool((pairs.owner == torch.arange(points.n)).all())

    def offer(scores: Tensor, row: int, column: int) -> None:
        for low in range(first[row], first[row + len(scores)], PAIRS):
            high = min(low + PAIRS, first[row + len(scores)])
            lines = pairs.owner[low:high].to(scores.device) - row
            part = scores if alone and high - low == len(scores) else scores[lines]
            mask = member.same(pairs.cls[low:high], column, column + scores.shape[1])
            if mask is not False:
                same.offer(part if mask is True else part.masked_fill(~mask, -torch.inf), low, column)
            if mask is not True:
                other.offer(part if mask is False else part.masked_fill(mask, -torch.inf), low, column)

    if dtype is None:
        scan_apart(points, reference, device, offer, own)
        return (same, other), False
    right = Prepared(reference, frame, device, dtype)
    left = right if points is reference else Prepared(points, frame, device, dtype)
    scan(left, right, offer, own)
    return (same, other), left.far or right.far


def _wide(columns: Tensor, k: int) -> Tensor:
    """Candidates of at least k columns, filled up with -1."""
    return torch.nn.functional.pad(columns, (0, max(0, k - columns.shape[1])), value=-1)
