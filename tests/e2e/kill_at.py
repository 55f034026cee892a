"""Run `avrobust` in this process and kill it, for real, at the n-th call of a function.

    python kill_at.py MODULE:FUNCTION N ARGUMENTS...

With N = 0 it is not killed, and the number of calls is printed as the last line. Of several processes, the one that
KILLED_RANK in the environment names is killed.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def owner_of(place: str) -> tuple[Any, str]:
    """What MODULE:PATH is an attribute of, and its name there."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def kill_at(place: str, nth: int) -> Callable[[], int]:
    """Have this process killed at the n-th call of a function; return what tells how many calls there were."""
    owner, name = owner_of(place)
    original, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)
    return lambda: calls


def main() -> int:
    target, nth, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    calls = kill_at(target, nth if rank == os.environ.get("KILLED_RANK", rank) else 0)

    from avrobust_core.cli import main as command
    from avrobust_core.evaluation import shards
    from avrobust_core.training import fit as training

    training.CHECKPOINT_SECONDS = shards.SHARD_SECONDS = -1.0  # as often as can be
    status = command(arguments)
    if nth == 0:
        print(calls())
    return status


if __name__ == "__main__":
    sys.exit(main())
