"""The processes that carry one command out together: how many there are and which this is, as its launcher tells it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from avrobust_core.errors import RunError

_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and every launcher for torch beside it."""

_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NODELIST")
"""What srun sets for each task of a step; a batch script outside of srun lacks the first."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those of a command.

    Attributes:
        rank: its number among all, from 0.
        world: how many there are.
        local: its number among those on its machine, from 0.
        local_world: how many there are on its machine.
        node: the number of its machine, from 0.
        address: where rank 0 can be reached: a name or an IP address.
        port: of the store there by which the processes find one another.
        launcher: what has started them: "torchrun", "srun", "a launcher" or "avrobust"; "" where this one is alone.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    node: int = 0
    address: str = ""
    port: int = 0
    launcher: str = ""


@cache
def ranks() -> Ranks:
    """This process among those that a launcher has started; the environment is read once.

    Raises:
        RunError: if a launcher's variables are not what they should be; names them.
    """
    return ranks_of(os.environ)


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """The same of a given environment: of torchrun's variables, else of srun's, else alone.

    Raises:
        RunError: if a launcher's variables are not what they should be; names them.
    """
    if all(name in environment for name in _TOLD):
        world = _number(environment, "WORLD_SIZE")
        found = Ranks(
            rank=_number(environment, "RANK"),
            world=world,
            local=_number(environment, "LOCAL_RANK"),
            local_world=_number(environment, "LOCAL_WORLD_SIZE", world),
            node=_number(environment, "GROUP_RANK", 0),
            address=environment["MASTER_ADDR"],
            port=_number(environment, "MASTER_PORT"),
            launcher="torchrun" if "TORCHELASTIC_RUN_ID" in environment else "a launcher",
        )
    elif all(name in environment for name in _STEP):
        node = _number(environment, "SLURM_NODEID")
        world = _number(environment, "SLURM_STEP_NUM_TASKS")
        counts = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(world)))
        found = Ranks(
            rank=_number(environment, "SLURM_PROCID"),
            world=world,
            local=_number(environment, "SLURM_LOCALID"),
            local_world=counts[node] if node < len(counts) else world,
            node=node,
            address=environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"]),
            port=_number(environment, "MASTER_PORT", _port_of_step(environment)),
            launcher="srun",
        )
    else:
        return Ranks()
    if not (0 <= found.rank < found.world and 0 <= found.local < found.local_world):
        raise RunError(
            f"{found.launcher} calls this process number {found.rank} of {found.world}, number {found.local} of "
            f"{found.local_world} on its machine, which cannot be: look at the variables that it sets"
        )
    return found if found.world > 1 else Ranks()


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    try:
        return int(environment[name])
    except ValueError:
        raise RunError(
            f"the environment variable {name} is {environment[name]!r}, which is no number: unset it, or let torchrun "
            "or srun set it"
        ) from None


def _tasks_per_node(text: str) -> list[int]:
    """From the "2(x3),1" of srun to [2, 2, 2, 1]."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts


def _first_host(nodes: str) -> str:
    """The first of srun's "a[03-05,9],b" by name: "a03"."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _port_of_step(environment: Mapping[str, str]) -> int:
    """The same for all tasks of a step, and another for a step beside it."""
    job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 15000 + (16 * job + step) % 10000
