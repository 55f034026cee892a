"""Jobs that processes and devices share: a line of JSON for each as it is done; what is there is not done again."""

import argparse
import json
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Job = Mapping[str, Any]
"""What a job is about, as JSON data; stands in its line beside what was found."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What one process works with.

    Attributes:
        options: of the command line.
        fitting: the accelerator on which it fits: cuda or cpu.
        attacking: the accelerator on which it attacks.
        folder: of its own, deleted at its end.
    """

    options: argparse.Namespace
    fitting: str
    attacking: str
    folder: Path


Prepare = Callable[[Desk], Callable[[Job], Mapping[str, Any]]]
"""Called once in each process, with what it needs; gives the function that does a job. A function of a module, as it
goes to other processes."""


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options of sharing to a command line.

    Args:
        parser: of the benchmark.
        out: the default file of lines.
    """
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0 does nothing new")
    parser.add_argument("--cuda-fits", type=int, default=0, help="of these, those that fit on a GPU")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no job is begun")
    parser.add_argument("--out", type=Path, default=Path(out), help="the file of lines; one job each")


def share(options: argparse.Namespace, asked: Sequence[Job], prepare: Prepare) -> list[dict[str, Any]]:
    """Do the jobs that are not in the file of lines yet.

    All processes attack on a GPU if there is one, and the first `--cuda-fits` fit there, too. Each has one thread.

    Args:
        options: the command line, with those of `add_options`.
        asked: the jobs, in the order in which they are begun.
        prepare: see `Prepare`.

    Returns:
        All lines of the file.

    Raises:
        RuntimeError: if a process failed; what the others found stands in the file.
    """
    started = time.monotonic()
    _mend(options.out)
    done = lines(options.out)
    left = [job for job in asked if not any(_about(line, job) for line in done)]
    context = multiprocessing.get_context("spawn")
    work: Any = context.Queue()
    for job in left:
        work.put(job)
    lock = context.Lock()
    workers = [
        context.Process(target=_serve, args=(options, number, work, lock, started, prepare))
        for number in range(min(options.jobs, len(left)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    work.cancel_join_thread()  # jobs that no process has taken
    failed = sum(worker.exitcode != 0 for worker in workers)
    if failed:
        raise RuntimeError(f"{failed} of {len(workers)} processes failed; what was found stands in {options.out}")
    return lines(options.out)


def lines(path: Path) -> list[dict[str, Any]]:
    """What has been written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _mend(path: Path) -> None:
    """Take away a last line that a killed process has not written to its end."""
    if path.exists() and (whole := path.read_bytes()) and not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])


def _about(line: Mapping[str, Any], job: Job) -> bool:
    return all(line.get(key) == value for key, value in job.items())


def _serve(options: argparse.Namespace, number: int, work: Any, lock: Any, started: float, prepare: Prepare) -> None:
    """Do what is asked for, until nothing is."""
    torch.set_num_threads(1)
    attacking = "cuda" if torch.cuda.is_available() else "cpu"
    fitting = attacking if number < options.cuda_fits else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        do = prepare(Desk(options, fitting, attacking, Path(folder)))
        while time.monotonic() - started < options.limit:
            try:
                job = work.get(timeout=1)
            except queue.Empty:
                return
            record = do(job)
            with lock, options.out.open("a") as out:
                out.write(json.dumps({**job, **record}) + "\n")
