"""How many clips are attacked at a time where `engine.batch_size` is auto: what the free memory holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from avrobust_core.attacks.victim import Victim
from avrobust_core.cgroups import MOUNTED, OWN, groups
from avrobust_core.data.batches import Batch, select_inputs
from avrobust_core.study.peak import peak_memory

MEASURED = 4
"""Clips of the larger of the two passes that tell what a clip takes."""

COPIES = 8
"""Times that an attack holds its clips beside what a pass with gradients holds: points, directions, the best so far."""

READ = 3
"""Batches in main memory at one time: one in use, one that is moved, and what is read ahead."""

SHARES = {"cpu": 0.5, "cuda": 0.8}
"""The shares of free memory that are used: of a processor's, other programs want some, too."""

MOST = {"cpu": 32, "cuda": 256}
"""Clips at most: more of them are hardly faster, and a process that is killed loses a batch."""

_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class BatchSize:
    """A number of clips, and why.

    Attributes:
        clips: at a time.
        each: bytes that each of them takes where the model computes.
        free: bytes that are free there; None where the system does not say.
    """

    clips: int
    each: int
    free: int | None


def fitting_batch_size(victim: Victim, batch: Batch, device: torch.device, processes: int) -> BatchSize:
    """How many clips memory holds while they are attacked in all modalities.

    What a clip takes is the difference of two passes with gradients, over one clip and over `MEASURED`.

    Args:
        victim: on its device.
        batch: one or more clips, on that device.
        device: where the model computes.
        processes: that share this machine's memory.
    """
    raw = sum(x[0].numel() * x.element_size() for x in batch.inputs.values())
    free = free_on_host()
    host = None if free is None else int(free * SHARES["cpu"] / processes)
    try:
        one, several = (_held(victim, _clips(batch, count), device) for count in (1, MEASURED))
    except torch.OutOfMemoryError:
        return BatchSize(1, 0, None)
    each = max(0, several - one) // (MEASURED - 1) + COPIES * raw
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        free -= torch.cuda.memory_allocated(device)
        most = min(MOST["cuda"], int(free * SHARES["cuda"]) // max(1, each))
        read = READ * raw
    else:
        most, read = MOST["cpu"], each + READ * raw
    if host is not None:
        most = min(most, host // max(1, read))
    return BatchSize(max(1, most), each, free)


def free_on_host(memory: Path = _MEMORY, root: Path = MOUNTED, own: Path = OWN) -> int | None:
    """Bytes of main memory that this process may still take: the machine's, and its container's; None if unknown.

    Args:
        memory: the file in which the system says what is available.
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    found = [left for folder in groups("memory", root, own) if (left := _left(folder)) is not None]
    try:
        lines = memory.read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:  # not Linux
        return min(found, default=None)
    return min(found, default=None)


def _left(folder: Path) -> int | None:
    """What one group may still take: files that are cached count as taken there, but go where memory is wanted."""
    for most, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (most, used))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:  # there is no such group here, or what is mounted is none
            continue
        if limit == "max":
            return None
        spare = sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
        return max(0, int(limit) - int(taken) + spare)
    return None


def _clips(batch: Batch, count: int) -> Mapping[str, Tensor]:
    """So many clips, the first of them again where there are fewer."""
    positions = torch.arange(count, device=batch.targets.device) % len(batch)
    return select_inputs(batch.inputs, positions)


def _held(victim: Victim, inputs: Mapping[str, Tensor], device: torch.device) -> int:
    """The bytes that a pass with gradients holds at most, beside what is held before."""
    with peak_memory(device) as before:
        pass
    with peak_memory(device) as peak, victim.frozen():
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        with torch.enable_grad(), victim.lowered(device):
            logits = victim.mean_of(lambda: victim.model(dict(leaves)), leaves)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    return peak.device - before.device if device.type == "cuda" else peak.host - before.host
