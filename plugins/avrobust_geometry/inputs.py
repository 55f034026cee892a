"""Arguments as callers give them: arrays as numpy, averaged over positions, labels, and the reference's own rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_geometry.configs import Exact

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any] | Tensor
Labels = Ints | NDArray[np.bool_]
"""(N,) classes, or (N, K) for several per clip."""

BLOCK = 1 << 14
"""Clips whose positions are averaged at once."""


def as_array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """The values as a numpy array on the processor."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def averaged(values: ArrayLike | Tensor, name: str) -> Array:
    """Embeddings as (N, D) floats: what has positions (N, L, D) is averaged over them, a block at a time.

    Raises:
        ValueError: for other shapes.
    """
    array = values.detach() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} have shape {tuple(array.shape)}: give (N, D), or (N, L, D) to be averaged over L")
    if isinstance(array, Tensor):
        array = array if array.is_floating_point() else array.double()
        return array if array.ndim == 2 else array.mean(dim=1)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.ndim == 2:
        return array
    pooled = np.empty((len(array), array.shape[2]), dtype=array.dtype)
    for start in range(0, len(array), BLOCK):
        pooled[start : start + BLOCK] = array[start : start + BLOCK].mean(axis=1, dtype=np.float64)
    return pooled


def check_length(name: str, values: Sequence[str] | NDArray[Any], clips: int) -> None:
    """Raise a ValueError unless there is one value for each clip."""
    if len(values) != clips:
        raise ValueError(f"{name} are {len(values)}, but the clips are {clips}: give one for each")


def own_rows(ids: Sequence[str], reference_ids: Sequence[str]) -> Ints | None:
    """The row of the reference that has each clip's id: (N,), -1 for none; None if no clip is in the reference.

    Raises:
        ValueError: if an id occurs twice in the reference, where it would leave out one of both only.
    """
    place = {name: row for row, name in enumerate(reference_ids)}
    if len(place) < len(reference_ids):
        twice = next(name for row, name in enumerate(reference_ids) if place[name] != row)
        raise ValueError(f"the id {twice!r} occurs twice in the reference: give each clip an id of its own")
    own = np.fromiter((place.get(name, -1) for name in ids), dtype=np.int64, count=len(ids))
    return own if (own >= 0).any() else None


def check_exact(exact: Exact) -> None:
    """Raise a ValueError unless `exact` is "auto" or a truth value."""
    if exact != "auto" and not isinstance(exact, bool):
        raise ValueError(f"exact is {exact!r}: give 'auto', True or False")


def with_classes(
    given: Sequence[NDArray[Any]], classes: Sequence[str] | None
) -> tuple[list[NDArray[Any]], tuple[str, ...]]:
    """Labels as (N,) places among the classes or (N, K) bool, and the classes' names.

    Args:
        given: labels of one or more sets, all (N,) or all (N, K).
        classes: K names; None for the labels that occur, or the columns' numbers.

    Raises:
        ValueError: if columns are not zeros and ones, one for each class, or labels are no places among the classes.
    """
    if given[0].ndim == 2:
        columns = given[0].shape[1]
        if not all(np.isin(each, (0, 1)).all() for each in given):
            raise ValueError("labels of shape (N, K) must be zeros and ones")
        names = tuple(map(str, range(columns))) if classes is None else tuple(classes)
        if len(names) != columns:
            raise ValueError(f"labels have {columns} columns, but there are {len(names)} classes")
        return [each.astype(np.bool_) for each in given], names
    if classes is None:
        values, places = np.unique(np.concatenate(given), return_inverse=True)
        ends = np.cumsum([len(each) for each in given])[:-1]
        return np.split(places.astype(np.int64), ends), tuple(map(str, values.tolist()))
    for each in given:
        if each.dtype.kind not in "iu" or (len(each) and not 0 <= each.min() <= each.max() < len(classes)):
            raise ValueError(f"labels must be whole numbers from 0 to {len(classes) - 1}, the places of the classes")
    return [each.astype(np.int64) for each in given], tuple(classes)
