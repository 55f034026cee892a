"""Jobs: the command that carries one cell out in another process, where its files lie, and what queues can do."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avrobust_core.registry.registry import Registry

JOBS = "jobs"
"""The folder in a run's that has one for each cell that was sent."""

ANSWER = "answer.json"
"""The file in which a job leaves what it has found."""

SENT = "sent.json"
"""The file that says where a cell was sent last, so that a later command can find the job."""


@dataclass(frozen=True, slots=True)
class State:
    """How a job is.

    Attributes:
        lives: False once it has ended.
        words: more of it, for a message: "is RUNNING on node7", "ended with exit status 1".
    """

    lives: bool = True
    words: str = "runs"


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was sent.

    Attributes:
        id: by which its queue knows it.
        log: the file that has all it printed.
    """

    id: str
    log: Path


class Queue(Protocol):
    """Where jobs are sent.

    Attributes:
        where: its name in a spec.
        called: a job of it in words: "process", "SLURM job".
        at_once: most jobs at one time; None for no limit.
        pause: seconds between two looks at the jobs.
        patience: seconds for which a job may have ended and its answer not yet be seen: files travel, too.
        outlives: True if its jobs go on without the command that sent them.
    """

    where: str
    called: str
    at_once: int | None
    pause: float
    patience: float
    outlives: bool

    def send(self, name: str, command: Sequence[str], folder: Path) -> Job:
        """Send a command.

        Args:
            name: of the job, where people see it.
            command: program and arguments.
            folder: for its log, and whatever else the queue keeps of it.

        Raises:
            RunError: if it is not taken; says why.
        """
        ...

    def states(self, ids: Iterable[str]) -> Mapping[str, State] | None:
        """How jobs are; None if that cannot be found out now."""
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs, so that they can tidy up."""
        ...


def folder_of(root: Path, cell_id: str) -> Path:
    """The folder of a cell's jobs in a run's folder: not the cell's own, which who works on it clears of leftovers."""
    return root / JOBS / cell_id


def command_of(registry: Registry, root: Path, cell_id: str) -> list[str]:
    """The command that carries one cell of a run out: what the run's resolved.yaml says, in the run's folder.

    Args:
        registry: without the plugins that the command is to do without.
        root: the run's folder.
        cell_id: of the cell.
    """
    here = {"", os.getcwd()}.isdisjoint(sys.path)
    left_out = (f"--no-plugin={plugin.full_name}" for plugin in registry.plugins if plugin.status == "disabled")
    program = [sys.executable, *(["-P"] if here else []), "-m", "avrobust_core"]
    return [*program, *left_out, "run", str(root / "resolved.yaml"), "--out", str(root), "--cell", cell_id]
