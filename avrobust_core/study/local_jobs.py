"""Jobs on this machine: processes that share its cores and GPUs, and that do not outlive the command."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

import torch

from avrobust_core.spec.model import EngineSection
from avrobust_core.study.jobs import Job, State

SENDER = "AVROBUST_SENDER"
"""The environment variable with the number of the process that sent a job."""

GPUS = "CUDA_VISIBLE_DEVICES"

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""The environment variables that say how many threads libraries use: by default as many as there are cores."""

_GRACE = 10.0
"""Seconds that a process has to tidy up before it is killed."""


class LocalQueue:
    """Processes here, each with its share of the cores and, where there are GPUs, its own of them.

    Args:
        engine: what a spec says of it; with `cells`.
    """

    where = "local"
    called = "process"
    pause = 0.2
    patience = 0.0
    outlives = False

    def __init__(self, engine: EngineSection) -> None:
        asked = engine.cells
        threads = torch.get_num_threads()  # those that one process would use here
        gpus = [] if engine.accelerator in ("cpu", "mps") else _gpus()
        each = engine.devices if isinstance(engine.devices, int) else 1
        if asked is not None and asked.gpus is not None:
            each = asked.gpus
        by_default = max(1, len(gpus) // max(each, 1)) if gpus else max(2, threads // 2)
        self.at_once: int | None = (None if asked is None else asked.at_once) or by_default
        self._shares = shares(gpus, each, self.at_once)
        processes = engine.devices if isinstance(engine.devices, int) else 1
        self._threads = max(1, threads // (self.at_once * processes))
        self._processes: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def send(self, name: str, command: Sequence[str], folder: Path) -> Job:
        """Start a process."""
        taken = {slot for process, slot in self._processes.values() if process.poll() is None}
        slot = min({*range(len(self._shares))} - taken, default=0)
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(os.environ, self._threads, self._shares[slot]),
                start_new_session=True,  # Ctrl-C in a terminal is for the command, which passes it on
            )
        self._processes[str(process.pid)] = process, slot
        return Job(str(process.pid), log)

    def states(self, ids: Iterable[str]) -> Mapping[str, State]:
        """How the processes are."""
        return {job: _state(self._processes[job][0].poll()) for job in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        """End processes, and wait until they have."""
        processes = [self._processes[job][0] for job in ids]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE
        for process in processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def shares(gpus: Sequence[str], each: int, at_once: int) -> list[Sequence[str] | None]:
    """The GPUs that each of several jobs sees, in turn: of few GPUs several jobs see the same.

    Args:
        gpus: as CUDA_VISIBLE_DEVICES names them.
        each: how many one job sees.
        at_once: the number of jobs.

    Returns:
        For each job its GPUs; None where there are none to choose from.
    """
    if not gpus:
        return [None] * at_once
    return [[gpus[(job * each + k) % len(gpus)] for k in range(min(each, len(gpus)))] for job in range(at_once)]


def environment(given: Mapping[str, str], threads: int, gpus: Sequence[str] | None) -> dict[str, str]:
    """The environment of a job: so many threads, or fewer if the user allows no more, and these GPUs alone."""
    allowed = {name: int(given[name]) for name in THREADS if given.get(name, "").isdigit()}
    limited = {name: str(min(threads, allowed.get(name, threads))) for name in THREADS}
    made = {**given, **limited, SENDER: str(os.getpid())}
    return made if gpus is None else made | {GPUS: ",".join(gpus)}


def end_with_sender(variables: MutableMapping[str, str] = os.environ) -> None:
    """In a job: end when the command that sent it is gone, as after SIGKILL; elsewhere without effect."""
    sender = variables.pop(SENDER, None)  # not for processes of this one
    if sender is not None:
        threading.Thread(target=_watch, args=(int(sender),), daemon=True).start()


def _watch(sender: int) -> None:
    while os.getppid() == sender:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(GPUS)
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(torch.cuda.device_count())]


def _state(status: int | None) -> State:
    if status is None:
        return State()
    if status < 0:
        return State(lives=False, words=f"was killed by {signal.Signals(-status).name}")
    return State(lives=False, words=f"ended with exit status {status}")
