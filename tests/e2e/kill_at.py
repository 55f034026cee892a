"""Run `avrobust` in this process and kill it, for real, at the n-th call of a function.

    python kill_at.py MODULE:FUNCTION N ARGUMENTS...

With N = 0 it is not killed, and the number of calls is printed as the last line.
"""

import importlib
import os
import signal
import sys
from typing import Any


def main() -> int:
    target, nth, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)

    from avrobust_core.cli import main as command
    from avrobust_core.evaluation import shards
    from avrobust_core.training import fit as training

    training.CHECKPOINT_SECONDS = shards.SHARD_SECONDS = -1.0  # as often as can be
    status = command(arguments)
    if nth == 0:
        print(calls)
    return status


if __name__ == "__main__":
    sys.exit(main())
