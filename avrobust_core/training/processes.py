"""The parts of a batch, by process and one after another; and sums and objects over all processes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from avrobust_core.data.batches import Batch


def share_of(batch: Sequence[int], rank: int, world: int) -> Sequence[int]:
    """One process's clips of a batch: neighbours, as many as each other process has, or nearly so.

    The first and the second clip of a batch may belong together, the third and the fourth, and so on: such pairs stay
    whole where there is one for each process.
    """
    unit = 2 if len(batch) % 2 == 0 and len(batch) >= 2 * world else 1
    first, end = (unit * (edge * (len(batch) // unit) // world) for edge in (rank, rank + 1))
    return batch[first:end]


def in_parts(batch: Batch, parts: int, asked: int) -> list[Batch]:
    """A process's clips of a batch in parts of neighbours, as equal as can be, which share the batch's memory.

    There may be fewer parts: none has a single clip, from which batch normalisation cannot learn, unless there were to
    be as many parts as clips.

    Args:
        batch: one clip at least.
        parts: that were asked for.
        asked: clips that were to be read.
    """
    least = 1 if asked <= parts else 2
    number = max(1, min(parts, len(batch) // least))
    if number == 1:
        return [batch]
    edges = [len(batch) * i // number for i in range(number + 1)]
    return [batch.between(*ends) for ends in pairwise(edges)]


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
