"""Trackers are told all that a run finds, once for all commands; they change none of it, and cannot break it."""

import json
from pathlib import Path

import pytest

from avrobust_core.files import file_hash
from avrobust_core.study.tracking import results_of, scalars_of

NOTEBOOK = '''\
import json
import sys

from avrobust_core import Component, Config, Tracker, hookimpl


class Settings(Config):
    """Where it goes wrong."""

    fails: str = "nowhere"
    """In which method."""
    how: str = "error"
    """How."""


class Notebook(Tracker):
    """Writes a line for each call."""

    def __init__(self, config):
        self.config = config
        self.file = None
        self.note("build")

    def note(self, what, *values):
        if what == self.config.fails:
            if self.config.how == "exit":
                sys.exit(0)
            raise ValueError("no ink")
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps([what, *values]) + "\\n")

    def begin(self, run):
        self.file = run.folder / "notebook.jsonl"
        self.note("begin", run.name, run.spec["name"])

    def cell(self, cell):
        self.note("cell", cell.id, cell.label, cell.settings["training"]["epochs"], sorted(cell.settings["encoders"]))

    def scalars(self, step, values):
        self.note("scalars", step, values)

    def result(self, values):
        self.note("result", {name: [each.value, each.low, each.high] for name, each in values.items()})

    def close(self):
        self.note("close")


@hookimpl
def avrobust_trackers():
    yield Component(name="notebook", summary="Notes all.", config=Settings, build=Notebook)
'''

EPOCHS = "training.standard.epochs=2"
TRACKED = "track=[notebook]"


@pytest.fixture(autouse=True)
def _notebook(fake_distribution) -> None:
    entry = {"avrobust_v1": {"notebook": "notebook_plugin"}}
    fake_distribution("stationery", "1.0", entry, {"notebook_plugin.py": NOTEBOOK}, site="desk")


def notes(folder: Path) -> list[list]:
    return [json.loads(line) for line in (folder / "notebook.jsonl").read_text().splitlines()]


def test_a_tracker_is_told_of_each_epoch_and_result_by_every_command_and_changes_nothing(study, tmp_path: Path) -> None:
    plain = study(EPOCHS, out=tmp_path / "plain")
    result = study(EPOCHS, TRACKED)
    (cell,), (untold,) = result["cells"], plain["cells"]
    assert cell["id"] == untold["id"]
    weights = [tmp_path / folder / "cells" / cell["id"] / "model.safetensors" for folder in ("plain", "out")]
    assert file_hash(weights[0]) == file_hash(weights[1])
    assert cell["robust_accuracy"] == untold["robust_accuracy"]

    history = (tmp_path / "out" / "cells" / cell["id"] / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in history]
    accuracy = cell["robust_accuracy"]["fgsm"]["audio"]
    expected = [
        ["begin", "tiny", "tiny"],
        ["cell", cell["id"], "audio-only/standard, seed 0", 2, ["audio"]],
        *(["scalars", row["epoch"], scalars_of(row)] for row in rows),
        ["result", {name: [each.value, each.low, each.high] for name, each in results_of(cell).items()}],
        ["close"],
    ]
    told = notes(tmp_path / "out")
    assert told == expected
    assert [row["epoch"] for row in rows] == [1, 2]
    assert told[2][2]["training/loss"] == rows[0]["loss"]
    values = told[4][1]
    assert values["robust accuracy/fgsm/audio"] == [accuracy["value"], accuracy["low"], accuracy["high"]]
    assert values["clean accuracy"][0] == cell["clean_accuracy"]["value"]
    assert {
        "worst case/audio",
        "attack success rate/noise/audio",
        "accuracy/top-1",
        "accuracy/top-1/fgsm/audio",
    } <= set(values)
    again = study(EPOCHS, TRACKED)
    assert again["reused"] == 1
    assert notes(tmp_path / "out") == expected * 2


@pytest.mark.parametrize(("fails", "how"), [("build", "error"), ("scalars", "exit")])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(study, tmp_path: Path, capsys, fails, how) -> None:
    result = study(EPOCHS, f"track=[{{use: notebook, with: {{fails: {fails}, how: {how}}}}}, notebook]")
    assert (result["failed"], result["problems"]) == (0, [])
    (note,) = result["notes"]
    who = "tracker stationery:notebook (plugin 'notebook' of stationery)"
    assert note.startswith(f"{who} failed, and is told nothing more: ")
    assert {"error": "ValueError: no ink (", "exit": "SystemExit: 0 ("}[how] in note
    assert "notebook_plugin.py:" in note
    assert capsys.readouterr().err.count("is told nothing more") == 1
    # The sound one, beside it, is told all.
    kinds = [note[0] for note in notes(tmp_path / "out")]
    assert [kind for kind in kinds if kind in ("scalars", "result")] == ["scalars", "scalars", "result"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["notes"] == [note]


def test_a_fit_that_goes_on_tells_of_the_epochs_before_it_stopped(new_fit, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []

    def stop(done: int, total: int) -> None:
        if done > total * 2 / 3:
            raise KeyboardInterrupt

    fit = new_fit(tmp_path, report=stop)
    with pytest.raises(KeyboardInterrupt):
        fit.run()
    fit = new_fit(tmp_path)
    fit.each_epoch = lambda row: told.append((row["epoch"], row["loss"]))
    fit.run()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert told == [(row["epoch"], row["loss"]) for row in rows]
    assert [epoch for epoch, _ in told] == [1, 2, 3]


def test_a_history_that_is_damaged_is_noted_and_the_results_are_told(study, tmp_path: Path) -> None:
    (cell,) = study(EPOCHS)["cells"]
    weights = tmp_path / "out" / "cells" / cell["id"] / "model.safetensors"
    before = file_hash(weights)
    weights.with_name("history.jsonl").write_text('{"epoch": 1, "lo')
    result = study(EPOCHS, TRACKED)
    (note,) = result["notes"]
    assert "history.jsonl" in note
    assert [note[0] for note in notes(tmp_path / "out")] == ["begin", "cell", "result", "close"]
    assert file_hash(weights) == before


def test_a_tracker_that_is_listed_twice_alike_is_refused(study) -> None:
    from avrobust_core.spec.problems import SpecError

    with pytest.raises(SpecError, match="'notebook' is listed twice"):
        study("track=[notebook, notebook]")


def test_a_metric_that_stands_in_a_spec_twice_is_told_under_two_names() -> None:
    number = {"value": 0.5, "low": None, "high": None, "n": 3, "method": "none"}
    entry = {"metric": "density", "attack": None, "threat": None, "values": {"ratio": number}}
    nothing = {"clean_accuracy": number, "robust_accuracy": {}, "attack_success_rate": {}, "worst_case": {}}
    left_out = {"metric": "map", "attack": None, "threat": None, "left_out": "not defined for single-label data"}
    found = results_of(nothing | {"metrics": [entry, entry, left_out]})
    assert list(found) == ["clean accuracy", "density/ratio", "density 2/ratio"]
