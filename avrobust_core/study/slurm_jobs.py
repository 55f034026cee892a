"""Jobs of SLURM: sent through submitit, watched with squeue, which needs no accounting; they outlive the command."""

import math
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from avrobust_core.errors import RunError
from avrobust_core.spec.jobs import JobsSection
from avrobust_core.spec.model import EngineSection
from avrobust_core.study.jobs import Job, State

NEEDED = ("sbatch", "srun", "squeue", "scancel")

_ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
    | {"PREEMPTED", "REVOKED", "TIMEOUT"}
)
"""The states of a job that is over (squeue(1), job state codes); one that is COMPLETING may yet be put back."""

_USUAL = frozenset({"", "None", "Priority", "Resources", "BeginTime"})
"""The reasons for which jobs wait where nothing is wrong."""

_WARNING = 120
"""Seconds before its time is up at which a job is told to stop: time for one step, and for a checkpoint."""


class SlurmQueue:
    """SLURM, as the commands on this machine speak to it.

    Args:
        engine: what a spec says of it; with `cells`.

    Raises:
        RunError: if SLURM's commands, or submitit, are not here, or `devices` cannot be asked of SLURM.
    """

    where = "slurm"
    called = "SLURM job"
    pause = 5.0
    patience = 15.0
    outlives = True

    def __init__(self, engine: EngineSection) -> None:
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            raise RunError(
                f"engine.cells sends jobs to SLURM, whose commands are not here ({', '.join(missing)}): run this where "
                "jobs can be sent from, or set engine.cells to local or null"
            )
        try:
            from submitit.slurm.slurm import SlurmExecutor
        except ImportError as error:
            raise RunError(
                f"engine.cells sends jobs to SLURM through submitit, which cannot be imported ({error}): "
                "pip install 'avrobust[slurm]'"
            ) from error
        self._executor = SlurmExecutor
        self._parameters = parameters(engine)
        self.at_once = None if engine.cells is None else engine.cells.at_once

    def send(self, name: str, command: Sequence[str], folder: Path) -> Job:
        """Send a batch job that becomes the command."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = self._executor(folder=folder.absolute())
        executor.update_parameters(job_name=name, **self._parameters)
        try:
            job = executor.submit(os.execv, command[0], list(command))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise RunError(f"SLURM does not take a job: {' '.join(str(error).split())}") from error
        return Job(job.job_id, folder / f"{job.job_id}_0_log.out")

    def states(self, ids: Iterable[str]) -> Mapping[str, State] | None:
        """How the jobs are; those that SLURM no longer knows have ended. None if it does not answer."""
        asked = [*ids]
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%N|%r"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        known = dict(map(_told, filter(None, said.splitlines())))
        return {job: known.get(job, State(lives=False, words="is no longer in the queue")) for job in asked}

    def cancel(self, ids: Sequence[str]) -> None:
        """Have SLURM end jobs, those that wait as those that run; where it does not answer, they go on."""
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", *ids], capture_output=True, check=False, timeout=60)


def parameters(engine: EngineSection) -> dict[str, Any]:
    """The parameters of submitit for a spec's jobs.

    Raises:
        RunError: if `devices` lists numbers: SLURM gives each job devices of its own.
    """
    asked = engine.cells or JobsSection(where="slurm")
    if isinstance(engine.devices, list):
        raise RunError("engine.devices lists numbers, but SLURM gives each job devices of its own: give how many")
    devices = engine.devices if isinstance(engine.devices, int) else None
    gpus = (devices or 0) if engine.accelerator == "cuda" else 0
    if asked.gpus is not None:
        gpus = asked.gpus
    tasks = devices or max(gpus, 1)
    found: dict[str, Any] = {
        "nodes": 1,
        "ntasks_per_node": tasks,
        "time": None if asked.hours is None else math.ceil(asked.hours * 60),
        "partition": asked.partition,
        "mem": None if asked.memory_gib is None else f"{math.ceil(asked.memory_gib * 1024)}M",
        "cpus_per_task": asked.cpus,
        "gpus_per_node": gpus or None,
        "signal_delay_s": _WARNING,
        "wckey": None,
        "stderr_to_stdout": True,
        "additional_parameters": {name.replace("_", "-"): value for name, value in asked.sbatch.items()},
        # What is said of threads here is of this machine; and a process may see cores that are not its own.
        "setup": [
            f"export OMP_NUM_THREADS=$(((SLURM_CPUS_ON_NODE + {tasks} - 1) / {tasks}))",
            "export MKL_NUM_THREADS=$OMP_NUM_THREADS NUMBA_NUM_THREADS=$OMP_NUM_THREADS",
        ],
    }
    if asked.cpus is not None:  # since SLURM 22.05, srun does not take it over from sbatch
        found["srun_args"] = [f"--cpus-per-task={asked.cpus}"]
    return found


def stop_in_time() -> None:
    """In a job of SLURM: stop, as after SIGTERM, at the signal that comes before its time is up."""
    on_main = threading.current_thread() is threading.main_thread()
    if "SLURM_JOB_ID" in os.environ and on_main and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def _told(line: str) -> tuple[str, State]:
    """A job and its state from a line of squeue."""
    job, state, nodes, reason = (line.split("|") + [""] * 4)[:4]
    if state in _ENDED:
        return job, State(lives=False, words=f"ended as {state}" + (f" on {nodes}" if nodes else ""))
    if nodes:
        return job, State(words=f"is {state} on {nodes}")
    return job, State(words=f"is {state}" + ("" if reason in _USUAL else f" ({reason})"))
