"""The cells of a run sent to jobs, watched in one place, and what the jobs have found taken in."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avrobust_core.errors import AvrobustWarning, RunError
from avrobust_core.evaluation.failures import Unfinished
from avrobust_core.files import digest, read_json, remove_leftovers, write_json
from avrobust_core.spec.model import EngineSection
from avrobust_core.study.completing import Completing
from avrobust_core.study.jobs import ANSWER, JOBS, SENT, Job, Queue, State, command_of, folder_of
from avrobust_core.study.local_jobs import LocalQueue
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.slurm_jobs import SlurmQueue
from avrobust_core.study.tracking import Tracking
from avrobust_core.training.fit import HISTORY

_TAIL = 2000
"""Characters of a job's log that stand in the error of a cell whose job ended without an answer."""


def queue_of(engine: EngineSection) -> Queue:
    """Where a spec sends cells; it has `cells`.

    Raises:
        RunError: if nothing can be sent there from here.
    """
    return SlurmQueue(engine) if engine.cells is not None and engine.cells.where == "slurm" else LocalQueue(engine)


@dataclass(slots=True)
class _Sent:
    """A job under way.

    Attributes:
        cell: the first of those with its id.
        label: of the cell, for messages.
        job: as its queue knows it.
        state: as it was said last.
        read: bytes of its log that were looked through.
        ended: when it was first seen to have ended; None while it lives.
    """

    cell: PlannedCell
    label: str
    job: Job
    state: State = field(default_factory=State)
    read: int = 0
    ended: float | None = None


class Dispatching:
    """Completes cells by jobs, each cell by its own; a cell of which nothing is left to compute needs none.

    A job is the same command for one cell (`run --cell`), in the same folder. Nothing is tried twice: a job that ends
    without an answer is its cell's error.

    Args:
        completing: takes in what is there; its process computes nothing itself.
        root: the run's folder.
        queue: where to send jobs.
        spec: the study's, resolved: by it a later command knows whether a job does what it asks.

    Attributes:
        machine: `device` and `processes` of the jobs' own run, from the last answer.
    """

    def __init__(self, completing: Completing, root: Path, queue: Queue, spec: Mapping[str, Any]) -> None:
        self.completing = completing
        self.process = completing.process
        self.root = root
        self.queue = queue
        self.machine: dict[str, Any] = {}
        engine = {name: value for name, value in spec["engine"].items() if name != "cells"}
        self._spec = digest({**spec, "engine": engine, "track": None})
        self._there: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._waiting: dict[str, tuple[PlannedCell, str]] = {}
        self._sent: dict[str, _Sent] = {}
        self._ended: dict[str, tuple[_Sent, Mapping[str, Any] | None]] = {}
        self._answers = True

    @contextmanager
    def begun(self, cells: Sequence[tuple[PlannedCell, str]]) -> Iterator[None]:
        """Jobs at work on all cells that need one; on the way out those that are left are ended.

        Args:
            cells: each with its label.
        """
        try:
            self._take_over(cells)
            for cell, label in cells:
                if not cell.done:
                    self._wait_for(cell, label)
            self._look()
            for cell, label in cells:
                if not self._is_sent(cell):
                    self._reuse(cell, label)
                    self._look()
            yield
        finally:
            self._cancel([(sent.job.id, cell_id) for cell_id, sent in self._sent.items()])

    def complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        """A cell's result, as `Completing.complete` gives it: waits for its job."""
        result = self._there.get(_key(cell))
        if result is None:
            with self.process.monitor.task("jobs that have ended"):
                while cell.id not in self._ended:
                    time.sleep(self.queue.pause)
                    self._look()
            result = self._taken_in(cell, label)
        if (cell.folder / HISTORY).exists():
            self.process.tracking.history(cell.folder)
        return result

    def _reuse(self, cell: PlannedCell, label: str) -> None:
        """Take up what is there of a cell; if something is lacking, a job is needed after all."""
        process, told = self.process, self.process.tracking
        process.only_reads, process.tracking = True, Tracking()  # trackers are told in the order of the cells
        try:
            self._there[_key(cell)] = self.completing.complete(cell, label)
        except Unfinished:
            self._wait_for(cell, label)
        finally:
            process.only_reads, process.tracking = False, told

    def _is_sent(self, cell: PlannedCell) -> bool:
        return cell.id in self._waiting or cell.id in self._sent or cell.id in self._ended

    def _wait_for(self, cell: PlannedCell, label: str) -> None:
        if not self._is_sent(cell):
            self._waiting[cell.id] = cell, label

    def _take_over(self, cells: Sequence[tuple[PlannedCell, str]]) -> None:
        """Find the jobs that a killed command has left: go on with those of the same spec, end the others."""
        if not self.queue.outlives:
            return
        left: dict[str, Mapping[str, Any]] = {}
        for path in sorted(self.root.glob(f"{JOBS}/*/{SENT}")):
            with suppress(RunError, LookupError, TypeError):  # damaged: whatever was sent waits for its turn
                sent = read_json(path)
                if sent["where"] == self.queue.where:
                    left[str(sent["id"])] = {**sent, "cell": path.parent.name, "log": path.parent / sent["log"]}
        states = self.queue.states(left) if left else {}
        if states is None:
            raise RunError(f"{self.root} may have jobs that are still at work, and SLURM does not say: try again later")
        planned = {cell.id: (cell, label) for cell, label in reversed(cells)}
        others: list[tuple[str, str]] = []
        for job, sent in left.items():
            if not states[job].lives:
                continue
            if sent["spec"] != self._spec or sent["cell"] not in planned:
                others.append((job, sent["cell"]))
                self._say(f"{self.queue.called} {job} of an earlier command was sent for another spec")
                continue
            cell, label = planned[sent["cell"]]
            told = sent["log"].stat().st_size if sent["log"].exists() else 0
            self._sent[cell.id] = _Sent(cell, label, Job(job, sent["log"]), read=told)
            self._say(f"{label}: {self.queue.called} {job} of an earlier command goes on")
        self._cancel(others)

    def _look(self) -> None:
        """See how the jobs are, tell of it, and send further ones where there is room."""
        states = self.queue.states([sent.job.id for sent in self._sent.values()]) if self._sent else {}
        if states is None:
            if self._answers:
                self._say(f"{self.queue.where} does not answer, and is asked again; jobs go on without it")
            self._answers = False
            return
        self._answers = True
        for cell_id, sent in list(self._sent.items()):
            self._tell(sent, states[sent.job.id])
            self._end(cell_id, sent, states[sent.job.id])
        while self._waiting and (self.queue.at_once is None or len(self._sent) < self.queue.at_once):
            self._send(*self._waiting.pop(next(iter(self._waiting))))
        self.process.monitor.update(len(self._ended), len(self._ended) + len(self._sent) + len(self._waiting))

    def _send(self, cell: PlannedCell, label: str) -> None:
        place = folder_of(self.root, cell.id)
        place.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
        (place / ANSWER).unlink(missing_ok=True)
        command = command_of(self.process.builder.registry, self.root, cell.id)
        job = self.queue.send(f"{self.process.spec.name}-{cell.id}", command, place)
        self._sent[cell.id] = _Sent(cell, label, job)  # so that it is ended if the next line fails
        told = {"where": self.queue.where, "id": job.id, "log": job.log.name, "spec": self._spec}
        write_json(place / SENT, told)
        self._say(f"{label}: {self.queue.called} {job.id}, log {job.log}")

    def _tell(self, sent: _Sent, state: State) -> None:
        """Pass on what a job says of its steps, and say how it is if that has changed."""
        for line in _new_lines(sent):
            if line.startswith("["):
                self._say(line)
        if state != sent.state:
            self._say(f"{sent.label}: {self.queue.called} {sent.job.id} {state.words}")
        sent.state = state

    def _end(self, cell_id: str, sent: _Sent, state: State) -> None:
        """Keep the answer of a job that has ended; one that left none has had `patience` for it."""
        if state.lives:
            sent.ended = None  # SLURM puts a job whose node died back into its queue
            return
        sent.ended = sent.ended or time.monotonic()
        answer = None
        path = folder_of(self.root, cell_id) / ANSWER
        if path.exists():
            with suppress(RunError):
                answer = read_json(path)
        elif time.monotonic() - sent.ended < self.queue.patience:
            return
        del self._sent[cell_id]
        self._ended[cell_id] = sent, answer

    def _taken_in(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        """The result that a cell's job has left."""
        sent, answer = self._ended[cell.id]
        job = f"{self.queue.called} {sent.job.id}"
        if answer is None:
            message = f"{job} {sent.state.words} before it had a result; its log: {sent.job.log}"
            return self.completing.failed(cell, label, {"message": message, "traceback": _tail(sent.job.log)})
        found: dict[str, Any] = next(result for result in answer["cells"] if _key_of(result) == _key(cell))
        if "error" in found or found["failures"]:
            self._say(f"{label}: what failed stands in the log of {job}: {sent.job.log}")
        self.machine = {"device": answer["device"], "processes": answer["processes"]}
        self.process.skipped.merge(answer)
        self.completing.problems.take_in(answer["problems"])
        for note in answer["notes"]:
            warnings.warn(note, AvrobustWarning, stacklevel=2)
        return self.completing.take_in(cell, label, found)

    def _cancel(self, jobs: Sequence[tuple[str, str]]) -> None:
        """End jobs, each with its cell's id: no later command is to wait for them."""
        if jobs:
            self._say(f"cancels {self.queue.called} {', '.join(job for job, _ in jobs)}")
            for _, cell_id in jobs:
                (folder_of(self.root, cell_id) / SENT).unlink(missing_ok=True)
            self.queue.cancel([job for job, _ in jobs])

    def _say(self, text: str) -> None:
        self.process.monitor.say(text)


def _key(cell: PlannedCell) -> tuple[str, str, int]:
    return cell.model, cell.training, cell.seed


def _key_of(result: Mapping[str, Any]) -> tuple[str, str, int]:
    return result["model"], result["training"], result["seed"]


def _new_lines(sent: _Sent) -> list[str]:
    """The lines of a job's log that are whole and new."""
    try:
        with sent.job.log.open("rb") as file:
            file.seek(sent.read)
            whole = file.read().rpartition(b"\n")[0]
    except OSError:  # not there yet, or gone with a node
        return []
    if whole:
        sent.read += len(whole) + 1
    return whole.decode(errors="replace").splitlines()


def _tail(log: Path) -> str:
    """The end of a log."""
    try:
        return log.read_bytes()[-_TAIL:].decode(errors="replace")
    except OSError:
        return ""
