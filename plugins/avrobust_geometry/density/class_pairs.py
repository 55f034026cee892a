"""Distances to a clip's own classes and to the others, with k clipped for classes that hold fewer clips."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.configs import Exact
from avrobust_geometry.knn import nearest_by_class

Array = NDArray[Any] | Tensor


@dataclass(frozen=True, slots=True)
class ClassPairs:
    """P pairs of a clip and a class that it has, ordered by clip.

    Attributes:
        clip: (P,) the clip's row.
        cls: (P,) the class.
        same: (P,) distance to the k-th nearest reference clip of the class, itself left out; NaN where k is 0.
        other: (P,) to the k-th that is not of the class.
        n_same: (P,) reference clips of the class, itself left out.
        n_other: (P,) the others.
        k: (P,) the k of this pair, on both sides: what was asked for, or fewer where a side holds fewer.
        report: how the first search went.
    """

    clip: NDArray[np.int64]
    cls: NDArray[np.int64]
    same: NDArray[np.float64]
    other: NDArray[np.float64]
    n_same: NDArray[np.int64]
    n_other: NDArray[np.int64]
    k: NDArray[np.int64]
    report: dict[str, Any]


def class_pairs(
    points: Array,
    labels: NDArray[Any],
    k: int,
    *,
    reference: Array | None,
    reference_labels: NDArray[Any] | None,
    own: NDArray[np.int64] | None,
    exact: Exact,
    most: int,
    seed: int,
    device: str | torch.device,
) -> ClassPairs:
    """The k-th neighbours inside and outside the classes of each clip.

    Where a side of a pair holds fewer than k clips, k is clipped to what it holds, on both sides, so that both radii
    are still of the same number of clips. Where a side holds none there is no distance.

    Args:
        points: (N, D).
        labels: (N,) int64, or (N, K) bool.
        k: neighbours.
        reference: (M, D); None for the points.
        reference_labels: as `labels`; None for the points'.
        own: (N,) the row of the reference that is the clip itself, -1 for none; None for none at all, or where the
            points are the reference.
        exact: as in `nearest_by_class`.
        most: distances, N times M, that are affordable.
        seed: of the subsample beyond them.
        device: where products are computed.
    """
    found = nearest_by_class(
        points,
        labels,
        k,
        reference=reference,
        reference_labels=reference_labels,
        exclude=own,
        exact=exact,
        most=most,
        seed=seed,
        device=device,
    )
    same, other = found.same.copy(), found.other.copy()
    n_same, n_other = found.n_same.copy(), found.n_other.copy()
    held = np.minimum(np.minimum(n_same, n_other), k)
    same[held == 0] = other[held == 0] = np.nan
    for fewer in np.unique(held[(held > 0) & (held < k)]):
        pairs = np.flatnonzero(held == fewer)
        clips, place = np.unique(found.clip[pairs], return_inverse=True)
        if labels.ndim == 2:
            few = np.zeros((len(clips), labels.shape[1]), dtype=np.bool_)
            few[place, found.cls[pairs]] = True
        else:
            few = labels[clips]
        rows = clips if reference is None else None if own is None else own[clips]
        again = nearest_by_class(
            points[torch.from_numpy(clips).to(points.device) if isinstance(points, Tensor) else clips],
            few,
            int(fewer),
            reference=points if reference is None else reference,
            reference_labels=labels if reference is None else reference_labels,
            exclude=rows,
            exact=exact,
            most=most,
            seed=seed,
            device=device,
        )
        same[pairs], other[pairs] = again.same, again.other
        n_same[pairs], n_other[pairs] = again.n_same, again.n_other
    return ClassPairs(found.clip, found.cls, same, other, n_same, n_other, held, dict(found.report))
