"""Arguments of searches, checked."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_geometry.configs import Exact
from avrobust_geometry.inputs import as_array
from avrobust_geometry.knn.rows import Rows


def read_sets(
    points: ArrayLike | Tensor, reference: ArrayLike | Tensor | None, exclude: ArrayLike | Tensor | None
) -> tuple[Rows, Rows, Tensor | None]:
    """The points, the reference (the same object if there is none), and each point's own row of it.

    Raises:
        ValueError: if the sets differ in width, points lie too far from the reference to be squared, or `exclude` has
            another length, is given without a reference, or names rows that are not there.
    """
    asked = Rows(points, "points")
    if reference is None:
        if exclude is not None:
            raise ValueError("exclude goes with a reference: without one each point is left out by its own row")
        return asked, asked, None
    among = Rows(reference, "reference")
    if asked.width != among.width:
        raise ValueError(f"points have {asked.width} features, the reference {among.width}: give both from one layer")
    if asked.double:
        asked.refuse_too_far(among.frame, "points")
    if exclude is None:
        return asked, among, None
    own = whole_numbers(exclude, "exclude")
    if own.shape != (asked.n,):
        raise ValueError(f"exclude has shape {own.shape}: give one row of the reference, or -1, for each of {asked.n}")
    wrong = np.flatnonzero((own < -1) | (own >= among.n))
    if len(wrong):
        raise ValueError(
            f"exclude names row {own[wrong[0]]} for point {wrong[0]}: the reference has rows 0 to {among.n - 1}; "
            "-1 means none"
        )
    return asked, among, torch.from_numpy(own) if (own >= 0).any() else None


def check_choices(k: int, exact: Exact, device: str | torch.device, threads: int | None) -> torch.device:
    """The device.

    Raises:
        ValueError: if k or threads is below 1, or `exact` is neither "auto" nor a truth value.
    """
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least one neighbour")
    if exact != "auto" and not isinstance(exact, bool):
        raise ValueError(f"exact is {exact!r}: give 'auto', True or False")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}: give at least 1, or None for torch's own number")
    return torch.device(device)


def whole_numbers(values: ArrayLike | Tensor, name: str) -> NDArray[np.int64]:
    """An array of whole numbers as int64.

    Raises:
        ValueError: if they are not whole numbers.
    """
    array = as_array(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} is of {array.dtype}: give whole numbers")
    return np.ascontiguousarray(array, dtype=np.int64)
