"""Attributes that hold something of each clip, cut down to the clips that are still worked on."""

from collections.abc import Collection

from torch import Tensor

from avrobust_core import select_inputs


def select_held(holder: object, kept: Tensor, *, but: Collection[str] = ()) -> None:
    """Cut every attribute that is a tensor (b, ...), or a dict of them, down to the clips at `kept`.

    Args:
        holder: whose attributes.
        kept: int64 positions among the b clips.
        but: names of those that hold something else.
    """
    for name, value in vars(holder).items():
        if name in but:
            continue
        if isinstance(value, Tensor):
            setattr(holder, name, value.index_select(0, kept))
        elif isinstance(value, dict) and all(isinstance(each, Tensor) for each in value.values()):
            setattr(holder, name, select_inputs(value, kept))
