"""Cells that other processes carry out: what is put together of them is what one process finds, failures and all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from avrobust_core.errors import RunError
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study import predicting, runner
from avrobust_core.study.completing import Completing
from avrobust_core.study.jobs import Job, State

SETTINGS = (
    "seed=[0, 1]",
    "training={standard: {epochs: 0}, other: {epochs: 0, weight_decay: 0}}",
    "compare=[{training: [standard, other]}]",
    "attacks.pgd={use: pgd, with: {steps: 2}}",
    "correlate=[pgd/audio]",
    "metrics=[accuracy, {use: naughty, with: {how: error}}]",
)


class HereQueue:
    """Jobs that are done at once, in this process."""

    where = "local"
    called = "process"
    at_once: int | None = 1
    pause = 0.0
    patience = 0.0
    outlives = False

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, name: str, command: Sequence[str], folder: Path) -> Job:
        spec, out, cell = command[-5], command[-3], command[-1]
        registry = Registry.discover()
        runner.carry_out_cell(load_spec(spec, registry), registry, cell, out=Path(out), silent=True)
        self.sent.append(cell)
        return Job(cell, folder / "log")

    def states(self, ids: Iterable[str]) -> Mapping[str, State]:
        return {job: State(lives=False, words="ended") for job in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        raise AssertionError(ids)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> HereQueue:
    made = HereQueue()
    monkeypatch.setattr(runner, "queue_of", lambda engine: made)
    return made


def comparable(result: Any) -> Any:
    """A result without what differs between equal runs: times and places."""
    if isinstance(result, dict):
        kept = {name: value for name, value in result.items() if name != "run" and not name.endswith("seconds")}
        return {name: value if name == "traceback" else comparable(value) for name, value in kept.items()}
    return [comparable(item) for item in result] if isinstance(result, list | tuple) else result


def without_tracebacks(result: Any) -> str:
    def strip(data: Any) -> Any:
        if isinstance(data, dict):
            return {name: strip(value) for name, value in data.items() if name != "traceback"}
        return [strip(item) for item in data] if isinstance(data, list) else data

    return json.dumps(strip(comparable(result)), indent=1)


def test_failures_notes_seeds_comparisons_and_correlations_are_those_of_one_process(
    study, queue: HereQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = predicting.evaluating.evaluate_batch

    def fails_once(victim, batch, run):
        if run is not None and run.name == "fgsm" and victim.seed == 1:
            raise ValueError("out of luck")
        return attack(victim, batch, run)

    monkeypatch.setattr(predicting.evaluating, "evaluate_batch", fails_once)
    alone = study(*SETTINGS, out=tmp_path / "alone")
    found = study(*SETTINGS, "engine.cells=local")
    assert len(queue.sent) == len(set(queue.sent)) == 4
    assert alone["failed"] == 4
    assert alone["correlations"]
    assert without_tracebacks(found) == without_tracebacks(alone)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "out" / "lock.json").exists()

    mended = [each if not each.startswith("metrics") else "metrics=[accuracy]" for each in SETTINGS]
    monkeypatch.setattr(predicting.evaluating, "evaluate_batch", attack)
    queue.sent.clear()
    study(*mended, "engine.cells=local")
    assert len(queue.sent) == 2, "the cells of which an attack had failed"
    again = study(*mended, "engine.cells=local")
    assert again["reused"] == len(again["cells"]) == 4
    assert len(queue.sent) == 2


def test_a_cell_that_fails_as_a_whole_is_the_same_failure(
    study, queue: HereQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Completing._result

    def broken(self: Completing, cell: Any, label: str) -> dict[str, Any]:
        if cell.training == "other":
            raise ZeroDivisionError("no such thing")
        return result(self, cell, label)

    monkeypatch.setattr(Completing, "_result", broken)
    settings = SETTINGS[1:3]
    alone = study(*settings, out=tmp_path / "alone")
    found = study(*settings, "engine.cells=local")
    assert "ZeroDivisionError: no such thing" in found["cells"][1]["error"]["message"]
    assert without_tracebacks(found) == without_tracebacks(alone)


def test_a_cell_that_a_study_does_not_have_is_refused(study, tmp_path: Path) -> None:
    study(out=tmp_path / "out")
    registry = Registry.discover()
    loaded = load_spec(tmp_path / "out" / "resolved.yaml", registry)
    with pytest.raises(RunError, match=r"no cell 'abc': `avrobust plan` shows"):
        runner.carry_out_cell(loaded, registry, "abc", out=tmp_path / "out")
