"""Cells sent to jobs: what is sent, what counts as the end of a job, whose jobs go on, and what is said."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avrobust_core.errors import RunError
from avrobust_core.evaluation.failures import Unfinished, recorded
from avrobust_core.files import read_json, write_json
from avrobust_core.registry.registry import Registry
from avrobust_core.study.dispatching import Dispatching
from avrobust_core.study.jobs import ANSWER, SENT, Job, State, folder_of
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.tracking import Tracking

SPEC = {"name": "study", "engine": {"batch_size": 8, "cells": {"where": "slurm"}}, "track": []}
ENDED = State(lives=False, words="ended as FAILED on node1")


class FakeQueue:
    """Jobs that are what a test says, look by look; after the last look they stay as they are."""

    where = "slurm"
    called = "SLURM job"
    at_once: int | None = None
    pause = 0.0
    patience = 0.0
    outlives = True

    def __init__(self, looks: Mapping[str, Sequence[State | None]] = {}) -> None:
        self.looks = {job: list(states) for job, states in looks.items()}
        self.sent: list[str] = []
        self.cancelled: list[str] = []
        self.most = 0
        self.answers: dict[str, Any] = {}

    def send(self, name: str, command: Sequence[str], folder: Path) -> Job:
        assert command[-2] == "--cell"
        assert name.endswith(command[-1])
        job = f"{len(self.sent) + 1}"
        self.sent.append(command[-1])
        (folder / "log").write_text(f"noise\n[1/1] {command[-1]}: fitting\n")
        return Job(job, folder / "log")

    def states(self, ids: Iterable[str]) -> Mapping[str, State] | None:
        asked = list(ids)
        self.most = max(self.most, len(asked))
        found = {job: states.pop(0) if len(states) > 1 else states[0] for job, states in self.looks.items()}
        if None in [found.get(job, ENDED) for job in asked]:
            return None
        return {job: found.get(job) or ENDED for job in asked}

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids


class FakeCompleting:
    """Completes those cells of which all is there, and takes in answers."""

    def __init__(self, root: Path, there: Iterable[str] = ()) -> None:
        self.said: list[str] = []
        self.there = set(there)
        monitor = SimpleNamespace(say=self.said.append, task=self.task, update=lambda done, total: None)
        self.process = SimpleNamespace(
            monitor=monitor,
            tracking=Tracking(),
            builder=SimpleNamespace(registry=Registry([])),
            spec=SimpleNamespace(name="study"),
            skipped=SimpleNamespace(merge=lambda record: None),
            only_reads=False,
        )
        self.problems = SimpleNamespace(take_in=lambda found: None)

    @contextmanager
    def task(self, label: str) -> Iterator[None]:
        yield

    def complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        assert self.process.only_reads, "the command computes nothing itself"
        if cell.id not in self.there:
            raise Unfinished
        return cell.names | {"reused": True, "failures": []}

    def failed(self, cell: PlannedCell, label: str, failure: Mapping[str, Any]) -> dict[str, Any]:
        self.said.append(f"{label}: failed: {failure['message']}")
        return cell.names | {"error": failure, "failures": [], "reused": False}

    def take_in(self, cell: PlannedCell, label: str, result: dict[str, Any]) -> dict[str, Any]:
        return result


def planned(root: Path, name: str) -> PlannedCell:
    """A cell that is not done, with its name for an id."""
    folder = root / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    return PlannedCell(name, "standard", 0, False, ("audio",), name, {}, folder, ())


def answer(cell: PlannedCell, **more: Any) -> None:
    """Leave what the job of a cell would leave."""
    result = cell.names | {"reused": False, "failures": []} | more
    found = {"cells": [result], "problems": [], "notes": [], "device": "cuda:0", "processes": 2}
    write_json(folder_of(cell.folder.parents[1], cell.id) / ANSWER, found)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "resolved.yaml").write_text("version: 1\n")
    return tmp_path


def finish(root: Path, queue: FakeQueue, completing: FakeCompleting, names: str) -> list[dict[str, Any]]:
    dispatching = Dispatching(completing, root, queue, SPEC)  # type: ignore[arg-type]
    cells = [(planned(root, name), f"[{name}]") for name in names]
    with dispatching.begun(cells):
        for cell, _ in cells:
            if cell.id in queue.answers:
                answer(cell, **queue.answers[cell.id])
        return [dispatching.complete(cell, label) for cell, label in cells]


def test_only_what_is_not_there_is_sent_and_all_come_in_the_order_of_the_spec(root: Path) -> None:
    (root / "cells" / "b").mkdir(parents=True)
    (root / "cells" / "b" / "fit.json").write_text("{}")  # fitted, no evaluations: done, as far as a plan can tell
    queue, completing = FakeQueue(), FakeCompleting(root, there="b")
    queue.answers = {"a": {}, "c": {}}
    results = finish(root, queue, completing, "abc")
    assert queue.sent == ["a", "c"]
    assert [(result["model"], result["reused"]) for result in results] == [("a", False), ("b", True), ("c", False)]
    assert queue.cancelled == []
    assert "[1/1] a: fitting" in completing.said
    assert "noise" not in completing.said


def test_what_seems_done_but_lacks_something_is_sent_after_all(root: Path) -> None:
    (root / "cells" / "b").mkdir(parents=True)
    (root / "cells" / "b" / "fit.json").write_text("{}")
    queue = FakeQueue()
    queue.answers = {"b": {}}
    finish(root, queue, FakeCompleting(root), "b")
    assert queue.sent == ["b"]


def test_a_job_without_an_answer_is_its_cells_error_with_job_and_log_and_is_not_tried_again(root: Path) -> None:
    queue, completing = FakeQueue(), FakeCompleting(root)
    queue.answers = {"b": {}}
    failed, done = finish(root, queue, completing, "ab")
    log = root / "jobs" / "a" / "log"
    assert failed["error"]["message"] == f"SLURM job 1 ended as FAILED on node1 before it had a result; its log: {log}"
    assert "[1/1] a: fitting" in failed["error"]["traceback"]
    assert "error" not in done
    assert queue.sent == ["a", "b"]


def test_a_job_that_found_failures_is_named_with_its_log(root: Path) -> None:
    queue, completing = FakeQueue(), FakeCompleting(root)
    queue.answers = {"a": {"failures": [{"message": "x"}]}}
    finish(root, queue, completing, "a")
    log = root / "jobs" / "a" / "log"
    assert f"[a]: what failed stands in the log of SLURM job 1: {log}" in completing.said


def test_a_job_that_slurm_puts_back_into_its_queue_has_not_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, back = State(words="is RUNNING on node1"), State(words="is PENDING")
    failed = State(lives=False, words="ended as NODE_FAIL on node1")
    queue, completing = FakeQueue({"1": [running, failed, back, back, running, ENDED]}), FakeCompleting(root)
    queue.patience = 3600.0
    looked = queue.states

    def states(ids: Iterable[str]) -> Mapping[str, State] | None:
        if len(queue.looks["1"]) == 1:  # the second life ends well
            answer(planned(root, "a"))
        return looked(ids)

    monkeypatch.setattr(queue, "states", states)
    (result,) = finish(root, queue, completing, "a")
    assert "error" not in result
    assert queue.sent == ["a"]
    assert "[a]: SLURM job 1 is PENDING" in completing.said


def test_while_slurm_does_not_answer_nothing_is_taken_to_have_ended(root: Path) -> None:
    queue, completing = FakeQueue({"1": [State(), None, None, ENDED]}), FakeCompleting(root)
    queue.answers = {"a": {}}
    (result,) = finish(root, queue, completing, "a")
    assert "error" not in result
    assert [line for line in completing.said if "does not answer" in line] == [
        "slurm does not answer, and is asked again; jobs go on without it"
    ]


def test_no_more_jobs_than_asked_for_are_at_work(root: Path) -> None:
    queue = FakeQueue()
    queue.at_once = 2
    finish(root, queue, FakeCompleting(root), "abcde")
    assert queue.sent == list("abcde")
    assert queue.most == 2


def left_behind(root: Path, name: str, job: str, spec: str) -> None:
    place = folder_of(root, name)
    write_json(place / SENT, {"where": "slurm", "id": job, "log": "log", "spec": spec})
    (place / "log").write_text("[1/1] old: fitting\n")


def test_jobs_of_a_killed_command_go_on_if_they_carry_out_the_same_spec_and_are_cancelled_if_not(root: Path) -> None:
    queue, completing = (
        FakeQueue({name: [State(), State(), ENDED] for name in ("71", "72", "73")}),
        FakeCompleting(root),
    )
    otherwise_sent = {**SPEC, "engine": {"batch_size": 8, "cells": {"where": "slurm", "at_once": 3}}}
    spec = Dispatching(completing, root, queue, otherwise_sent)._spec  # type: ignore[arg-type]
    left_behind(root, "a", "71", spec)
    left_behind(root, "b", "72", "of another spec")
    left_behind(root, "elsewhere", "73", spec)
    left_behind(root, "c", "74", spec)  # which has ended meanwhile
    queue.answers = {"a": {}, "b": {}, "c": {}}
    results = finish(root, queue, completing, "abc")
    assert sorted(queue.cancelled) == ["72", "73"]
    assert sorted(queue.sent) == ["b", "c"]
    assert not [result for result in results if "error" in result]
    assert "[a]: SLURM job 71 of an earlier command goes on" in completing.said
    assert "[1/1] old: fitting" not in completing.said, "what was said already is not said again"


def test_a_command_that_ends_early_cancels_its_jobs_and_no_later_one_waits_for_them(root: Path) -> None:
    queue, completing = FakeQueue({"1": [State()], "2": [State()]}), FakeCompleting(root)
    dispatching = Dispatching(completing, root, queue, SPEC)  # type: ignore[arg-type]
    cells = [(planned(root, name), name) for name in "ab"]
    sent = []

    def stopped() -> None:
        with dispatching.begun(cells):
            sent.extend(read_json(folder_of(root, cell.id) / SENT)["id"] for cell, _ in cells)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert sent == ["1", "2"]
    assert queue.cancelled == ["1", "2"]
    assert not list(root.rglob(SENT))


def test_a_job_that_cannot_be_sent_ends_the_command_and_the_jobs_before_it(root: Path) -> None:
    queue = FakeQueue({"1": [State()]})
    send = queue.send

    def refusing(name: str, command: Sequence[str], folder: Path) -> Job:
        if queue.sent:
            raise RunError("SLURM does not take a job: Invalid partition")
        return send(name, command, folder)

    queue.send = refusing  # type: ignore[method-assign]
    with pytest.raises(RunError, match="Invalid partition"):
        finish(root, queue, FakeCompleting(root), "ab")
    assert queue.cancelled == ["1"]


def test_that_something_is_still_to_be_computed_is_no_failure() -> None:
    failures: list[Any] = []
    with pytest.raises(Unfinished), recorded(failures.append):
        raise Unfinished
    assert failures == []
