"""The processes of a fit: each one's clips of a batch, and sums and objects over all of them."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor


def share_of(batch: Sequence[int], rank: int, world: int) -> Sequence[int]:
    """One process's clips of a batch: neighbours, which may belong together."""
    return batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]


def summed(fabric: Fabric, *values: float) -> tuple[float, ...]:
    """The sum of each value over all processes; every process must call it."""
    if fabric.world_size == 1:
        return values
    together = fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    return tuple(cast(Tensor, together).tolist())


def gathered(fabric: Fabric, mine: Any) -> list[Any]:
    """The objects of all processes, in the order of their ranks; every process must call it."""
    if fabric.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone
