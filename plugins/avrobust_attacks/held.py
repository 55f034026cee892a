"""Attributes and tensors that hold something of each clip: cut down to clips still worked on, and written for some."""

from collections.abc import Collection

import torch
from torch import Tensor

from avrobust_core import Inputs, per_clip, select_inputs


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


def put(into: Inputs, positions: Tensor, x: Inputs, where: Tensor) -> None:
    """Write `x` (b, ...), by modality, over the clips at `positions` (b,) int64, where `where` (b,) is true."""
    for name, whole in into.items():
        if len(positions) == len(whole):
            torch.where(per_clip(where, whole), x[name].detach(), whole, out=whole)
        else:
            old = whole.index_select(0, positions)
            whole.index_copy_(0, positions, torch.where(per_clip(where, old), x[name].detach(), old))
