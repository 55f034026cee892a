"""Tensors with one number or flag per clip, and what is told of each clip of a batch by itself."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from avrobust_core.naming import first_of

Inputs = Mapping[str, Tensor]
"""The attacked modalities by name, each (B, ...)."""

NORM_BLOCK = 512
"""Samples whose squares are summed in float32."""

PIECE = 2**18
"""Samples worked on at a time on CPU: a few tensors of this size fit into a core's cache."""


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (like.dim() - 1))


def where_clips(flags: Tensor, first: Inputs, second: Inputs) -> dict[str, Tensor]:
    """The clips of `first` whose flag (B,) is true, else of `second`; by the modalities of `second`."""
    return {name: torch.where(per_clip(flags, other), first[name], other) for name, other in second.items()}


def first_flagged(ids: Sequence[str], flags: Tensor) -> str:
    """The first names, for an error, of the clips whose flag (B,) is true."""
    return first_of([clip_id for clip_id, flag in zip(ids, flags.tolist(), strict=True) if flag])


def clip_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each clip, (B,) float64, right to about 3e-7 of itself without a copy in float64.

    One float32 sum over a whole video is wrong by up to several thousandths, which would pass for, or hide, a violation
    of the budget: so the squares are summed in short blocks, and the blocks in float64.
    """
    flat = x.flatten(1)
    whole = flat.shape[1] // NORM_BLOCK * NORM_BLOCK
    blocks = flat[:, :whole].reshape(len(flat), whole // NORM_BLOCK, NORM_BLOCK)
    sums: Tensor = torch.linalg.vector_norm(blocks, dim=2).double().square().sum(dim=1)
    if whole < flat.shape[1]:
        sums = sums + torch.linalg.vector_norm(flat[:, whole:], dim=1).double().square()
    return sums.sqrt()


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each clip, shaped to broadcast; twice as fast as a norm, and without a copy."""
    flat = x.flatten(1)
    return per_clip(torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)), x)


def checksum(x: Tensor) -> Tensor:
    """The sum of each clip's bit patterns, (B,) int64: exact, whatever the order of the sum."""
    flat = x.detach().flatten(1).contiguous()
    if flat.shape[1] * flat.element_size() % 8 == 0:
        return flat.view(torch.int64).sum(dim=1)
    return flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()]).sum(dim=1, dtype=torch.int64)


def pieces(clips: int, samples: int, device: torch.device) -> list[slice]:
    """Slices of a batch of so many clips of so many samples each, to be worked through one by one.

    On CPU each piece stays in the cache through all passes over it; elsewhere the whole batch is one piece.
    """
    step = max(1, PIECE // max(1, samples)) if device.type == "cpu" else max(1, clips)
    return [slice(first, first + step) for first in range(0, clips, step)]


def on_the_way(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host; what is returned waits for the copy, and gives it.

    What the device is asked for meanwhile is not waited for, so that it never stands idle.
    """
    if x.device.type in ("cpu", "mps"):  # the latter has no way to tell when a copy has arrived
        return x.cpu
    here = x.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event() if x.device.type == "cuda" else None  # type: ignore[no-untyped-call]
    if arrived is not None:
        arrived.record()

    def wait() -> Tensor:
        if arrived is not None:
            arrived.synchronize()
        return here

    return wait


def settled(flags: Tensor) -> bool:
    """True if all flags are, where to ask costs nothing: elsewhere than on CPU it would wait for the device."""
    return flags.device.type == "cpu" and bool(flags.all())
