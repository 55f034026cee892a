"""Distances to a clip's own classes and to the others, with k clipped for classes that hold fewer clips."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.density.choices import Choices
from avrobust_geometry.inputs import Array, Ints
from avrobust_geometry.knn import NearestByClass, nearest_by_class


def class_pairs(
    points: Array,
    labels: NDArray[Any],
    k: int,
    choices: Choices,
    *,
    reference: Array | None,
    reference_labels: NDArray[Any] | None,
    own: Ints | None,
) -> NearestByClass:
    """The k-th neighbours inside and outside the classes of each clip.

    Where a side of a pair holds fewer than k clips, k is clipped to what it holds, on both sides, so that both radii
    are still of the same number of clips. Where a side holds none, k is 0 and there is no distance.

    Args:
        points: (N, D).
        labels: (N,) int64, or (N, K) bool.
        k: neighbours.
        choices: how to search.
        reference: (M, D); None for the points.
        reference_labels: as `labels`; None for the points'.
        own: (N,) the row of the reference that is the clip itself, -1 for none; None for none at all, or where the
            points are the reference.
    """
    search = partial(
        nearest_by_class, most=choices.affordable, seed=choices.seed, device=choices.device, shares=choices.shares
    )
    found = search(points, labels, k, reference=reference, reference_labels=reference_labels, exclude=own)
    held = np.minimum(np.minimum(found.n_same, found.n_other), k)
    found.same[held == 0] = found.other[held == 0] = np.nan
    for fewer in np.unique(held[(held > 0) & (held < k)]):
        pairs = np.flatnonzero(held == fewer)
        clips, place = np.unique(found.clip[pairs], return_inverse=True)
        few = labels[clips]
        if labels.ndim == 2:
            few = np.zeros_like(few)
            few[place, found.cls[pairs]] = True
        again = search(
            points[torch.from_numpy(clips).to(points.device) if isinstance(points, Tensor) else clips],
            few,
            int(fewer),
            reference=points if reference is None else reference,
            reference_labels=labels if reference is None else reference_labels,
            exclude=clips if reference is None else None if own is None else own[clips],
        )
        for name in ("same", "other", "n_same", "n_other"):
            getattr(found, name)[pairs] = getattr(again, name)
    return replace(found, k=held)
