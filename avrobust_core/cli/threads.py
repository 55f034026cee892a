"""Threads of the command: how many there are, and how they wait, settled before a library that starts them is loaded.

The libraries that compute read the environment once, when they are loaded, so that all of this must stand there before
torch is imported; the processes that a run starts inherit it.

By default a thread of OpenMP that has done its part of an operation spins, for some milliseconds, until the others have
done theirs. On an idle machine that is the fastest way to wait. Where other programs want the same processors, a thread
that waits takes the time that the thread it waits for would need, operation after operation.
"""

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType

from avrobust_core.cgroups import MOUNTED, OWN, groups

LEFT_ALONE = "AVROBUST_LEAVE_THREADS"
"""Set to 1, this variable leaves number and waiting of threads as the libraries have them."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables by which users say how threads of OpenMP wait: of the standard, of GNU's library and of Intel's."""

SETTLED: Mapping[str, str] = MappingProxyType({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4000"})
"""How they wait where users say nothing: asleep; with GNU's library after 4,000 turns (its own default is 300,000), in
which most of the waits of an idle machine are over: alone, a study took 15 % longer with 1,000, and 5 % with 4,000."""

NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables by which users, torchrun and schedulers say how many threads there are to be."""


def settle_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Let threads sleep where they wait, and have no more of them than a container's quota gives processors.

    What the user has said stays. Where torch is loaded already it is too late, and nothing is done.

    Args:
        environment: by default this process's own.
    """
    environment = os.environ if environment is None else environment
    if environment.get(LEFT_ALONE) == "1" or "torch" in sys.modules:
        return
    if not any(name in environment for name in WAITING):
        environment.update(SETTLED)
    given = quota()
    if given is not None and given < affinity() and not any(name in environment for name in NUMBER):
        environment["OMP_NUM_THREADS"] = str(max(1, int(given)))


def affinity() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = MOUNTED, own: Path = OWN) -> float | None:
    """The processors' worth of time that Linux control groups give this process; None where nothing limits it.

    Libraries that start threads look at the affinity alone: in a container with a quota of 2 processors on a machine of
    64 they start 64 threads, which the kernel then stops in turns.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    return min((found for folder in groups("cpu", root, own) for found in _quota_of(folder)), default=None)


def waiting(environment: MutableMapping[str, str] | None = None) -> str:
    """How threads of OpenMP wait, in words, with the variable that says so."""
    environment = os.environ if environment is None else environment
    said = {name: environment[name] for name in WAITING if name in environment}
    told = ", ".join(f"{name}={value}" for name, value in said.items())
    if not said:
        return "threads that wait spin for a while, as OpenMP's own default has it"
    return f"threads that wait soon sleep ({told})" if said == SETTLED else f"threads wait as {told} says"


def _quota_of(folder: Path) -> Iterator[float]:
    """What one group's own files say."""
    try:
        if (folder / "cpu.max").is_file():
            most, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        if most not in ("max", "-1"):
            yield int(most) / int(period)
    except (OSError, ValueError):  # there is no such group here, or what is mounted is none
        return
