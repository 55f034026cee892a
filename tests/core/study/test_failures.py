"""What fails is recorded where it failed; the rest of the cell, and the other cells, are computed and reported."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from avrobust_core import files as store
from avrobust_core.cli.run import _closing_lines
from avrobust_core.errors import ComponentError, DatasetFailure
from avrobust_core.report.tables import print_tables

ATTACK = "attacks.bad={{use: naughty, with: {{how: {}}}}}"
METRIC = "metrics=[accuracy, {{use: naughty, with: {{how: {}}}}}]"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("error", "ValueError: [/x] is broken"),
        ("data", "there are no such clips"),
        ("exit", "SystemExit: 0"),
        ("generator", "GeneratorExit"),
    ],
)
def test_an_attack_that_fails_leaves_the_cells_other_results(
    study, tmp_path: Path, capsys, how: str, said: str
) -> None:
    result = study(ATTACK.format(how))
    (cell,) = result["cells"]
    assert set(cell["robust_accuracy"]) == {"fgsm", "noise"}
    assert cell["clean_accuracy"]["n"] == 12
    assert {entry["attack"] for entry in cell["metrics"]} == {None, "fgsm", "noise"}
    (failure,) = cell["failures"]
    assert (failure["attack"], failure["threat"], failure["metric"]) == ("bad", "audio", None)
    assert said in failure["message"]
    assert "misbehave" in failure["traceback"]
    assert cell["worst_case"] == {}, "the worst case over fewer attacks than asked for is no worst case"
    assert result["failed"] == 1
    assert result["reused"] == 0
    on_disk = json.loads((tmp_path / "out" / "result.json").read_text())
    assert on_disk["cells"][0]["failures"] == json.loads(json.dumps(cell["failures"]))

    capsys.readouterr()
    print_tables(result)
    shown = capsys.readouterr().out
    assert "failed" in next(line for line in shown.splitlines() if "audio-only" in line and "standard" in line)
    assert f"audio-only/standard, bad/audio failed: {said}" in shown
    assert "\x1b[31m" not in shown
    assert any("failed in part" in line for line in _closing_lines(result))


def test_what_has_failed_is_tried_again_and_the_rest_reused(study) -> None:
    study(ATTACK.format("error"))
    again = study(ATTACK.format("error"))
    assert again["failed"] == 1
    mended = study("attacks.bad={use: fgsm, with: {}}")
    assert mended["failed"] == 0
    assert "audio" in mended["cells"][0]["worst_case"]
    assert study()["reused"] == 1


@pytest.mark.parametrize("how", ["error", "data", "exit"])
def test_a_metric_that_fails_leaves_the_cells_other_results(study, capsys, how: str) -> None:
    result = study(METRIC.format(how))
    (cell,) = result["cells"]
    assert set(cell["robust_accuracy"]) == {"fgsm", "noise"}
    assert {entry["metric"] for entry in cell["metrics"]} == {"accuracy"}
    assert {failure["metric"] for failure in cell["failures"]} == {"naughty"}
    assert len(cell["failures"]) == (1 if how == "error" else 3), "one for each evaluation that it measures"
    assert "audio" in cell["worst_case"]
    assert result["failed"] == 1
    capsys.readouterr()
    print_tables(result)
    shown = capsys.readouterr().out
    assert any("naughty" in line and "failed" in line and "│" in line for line in shown.splitlines())


def test_a_component_that_ends_the_program_while_it_is_built_is_named(study) -> None:
    with pytest.raises(ComponentError, match=r"building attack naughty:naughty.*SystemExit: 0"):
        study(ATTACK.format("build"))


@pytest.mark.parametrize("how", ["hang", "swallow"])
def test_an_attack_that_hangs_is_interrupted_and_named_with_its_clips(study, how: str) -> None:
    study()
    result = study(ATTACK.format(how), "engine.batch_timeout=0.3")
    (failure,) = result["cells"][0]["failures"]
    assert failure["message"].startswith("bad/audio: batch 1 of 1 (clips ")
    assert "and 7 more) took longer than the 0.3 s of engine.batch_timeout" in failure["message"]
    assert "naughty_plugin.py:" in failure["message"]
    assert set(result["cells"][0]["robust_accuracy"]) == {"fgsm", "noise"}
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_data_sets_own_failure_ends_the_run(study, monkeypatch) -> None:
    from avrobust_data.toy import ToyAV

    def unreadable(self, split, index):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ToyAV, "read", unreadable)
    with pytest.raises(DatasetFailure, match="cannot be read"):
        study()


def test_a_clip_is_not_called_unreadable_where_the_system_fails(study, monkeypatch) -> None:
    from avrobust_data.toy import ToyAV

    def too_many_files(self, split, index):
        raise OSError(errno.EMFILE, "Too many open files", "clip.mp4")

    monkeypatch.setattr(ToyAV, "read", too_many_files)
    (cell,) = study()["cells"]
    assert "clip.mp4: Too many open files; raise the limit on open files" in cell["error"]["message"]


def test_a_clip_whose_reader_ends_the_program_is_an_unreadable_clip(study, monkeypatch) -> None:
    from avrobust_data.toy import ToyAV

    read = ToyAV.read
    monkeypatch.setattr(ToyAV, "max_unreadable", 0.5)
    monkeypatch.setattr(
        ToyAV, "read", lambda self, split, index: os.sys.exit(0) if index == 3 else read(self, split, index)
    )
    result = study()
    ((_, reason),) = result["skipped"]["test"].items()
    assert "SystemExit: 0" in reason
    assert result["cells"][0]["clips"] == 11


def test_a_worker_that_is_killed_names_the_clip_that_it_read(blobs, monkeypatch) -> None:
    from avrobust_core.data.loader import Loader
    from avrobust_core.data.loading import Skipped
    from avrobust_core.errors import RunError

    read = blobs.read

    def deadly(self, split, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, split, index)

    monkeypatch.setattr(blobs, "read", deadly)
    dataset = blobs()
    handler = signal.getsignal(signal.SIGCHLD)
    batches = Loader(dataset, workers=1).batches("test", [[0, 1, 2], [3, 4, 5]], Skipped(dataset))
    with pytest.raises(RunError, match=r"reads split 'test' died at clip test-5 .*lower engine.workers"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_run_reads_with_the_same_processes_whatever_fails_in_it(study, tmp_path: Path, monkeypatch) -> None:
    from avrobust_core.data import loader

    started: list[int] = []

    class Counted(loader._Workers):
        def __init__(self, reader, number) -> None:
            started.append(number)
            super().__init__(reader, number)

    monkeypatch.setattr(loader, "_Workers", Counted)
    changes = [
        "training={standard: {epochs: 2, batch_size: 4}}",
        "attacks={bad: {use: naughty, with: {how: error}}, fgsm: fgsm}",
        "engine.batch_size=4",
    ]
    result = study(*changes, "engine.workers=1")
    assert result["failed"] == 1
    assert started == [1], "for two epochs, validation, clean clips, an attack that fails, another, and the audit"
    assert not multiprocessing.active_children()
    (cell,), (alone,) = result["cells"], study(*changes, out=tmp_path / "alone")["cells"]
    assert not alone["reused"]
    assert cell["files"] == alone["files"]


def test_a_full_disk_in_the_handling_of_an_error_does_not_stop_the_later_cells(study, tmp_path, monkeypatch) -> None:
    full: list[str] = []
    write = store._write_atomically

    def disk(path: Path, content) -> None:
        if "standard" in full and "cells" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    from avrobust_core.study.completing import Completing

    complete = Completing._result

    def first_fails(self, cell, label):
        full[:] = [cell.training]
        return complete(self, cell, label)

    monkeypatch.setattr(store, "_write_atomically", disk)
    monkeypatch.setattr(Completing, "_result", first_fails)
    result = study("training={standard: {epochs: 0}, other: {epochs: 0, weight_decay: 0}}")
    first, second = result["cells"]
    assert "No space left on device; free some space" in first["error"]["message"]
    assert str(tmp_path / "out") in first["error"]["message"]
    assert second["clean_accuracy"]["n"] == 12
    assert any("error.json" in problem["message"] for problem in result["problems"])


def test_a_step_over_all_cells_that_fails_leaves_the_cells_results(study, monkeypatch) -> None:
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("avrobust_core.study.runner.pool", broken)
    result = study("seed=[0, 1]")
    assert [problem["step"] for problem in result["problems"]] == ["pooled"]
    assert result["pooled"] == []
    assert all("clean_accuracy" in cell for cell in result["cells"])


def test_seeds_of_which_an_attack_failed_are_pooled_and_compared_without_it(study, monkeypatch) -> None:
    from avrobust_core.study import predicting

    attack = predicting.evaluating.evaluate_batch

    def fails_once(victim, batch, run):
        if run is not None and run.name == "fgsm" and victim.seed == 1:
            raise ValueError("out of luck")
        return attack(victim, batch, run)

    monkeypatch.setattr(predicting.evaluating, "evaluate_batch", fails_once)
    result = study(
        "seed=[0, 1]",
        "training={standard: {epochs: 0}, other: {epochs: 0, weight_decay: 0}}",
        "compare=[{training: [standard, other]}]",
        "attacks.pgd={use: pgd, with: {steps: 2}}",
        "correlate=[fgsm/audio]",
    )
    assert [bool(cell["failures"]) for cell in result["cells"]] == [cell["seed"] == 1 for cell in result["cells"]]
    assert not result["problems"]
    for entry in result["pooled"]:
        assert entry["seeds"] == [0, 1]
        assert entry["robust_accuracy"]["fgsm"] == {}
        assert "audio" in entry["robust_accuracy"]["pgd"]
        assert entry["worst_case"] == {}
        assert [failure["message"] for failure in entry["failures"]] == ["seed 1: ValueError: out of luck"]
    left_out = {
        (item["attack"], item["threat"]): item["left_out"] for item in result["comparisons"] if "left_out" in item
    }
    assert left_out == {
        ("fgsm", "audio"): "the attack failed for one of the two",
        ("worst_case", "audio"): "fgsm, which belongs to it, failed for one of the two",
    }
    assert {item["attack"] for item in result["comparisons"] if "difference" in item} == {None, "noise", "pgd"}
    print_tables(result)


def test_a_limit_costs_little_where_nothing_hangs() -> None:
    from avrobust_core.deadline import limited

    with limited(100, lambda: "x"):
        began = time.monotonic()
    assert time.monotonic() - began < 5, "leaving it waits for none of its threads"


def test_what_is_found_is_reported_even_if_it_cannot_be_written(study, monkeypatch) -> None:
    def full(path, *arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("avrobust_core.study.completing.write_samples", full)
    result = study("seed=[0, 1]")
    assert result["failed"] == 0
    assert all(cell["robust_accuracy"]["fgsm"]["audio"]["n"] == 12 for cell in result["cells"])
    assert [problem["step"] for problem in result["problems"]] == ["writing", "writing"]
    assert result["pooled"][0]["seeds"] == [0, 1]
    assert "samples.parquet: No space left" in result["problems"][0]["message"]


@pytest.fixture
def attacked(monkeypatch) -> list[tuple[str, ...]]:
    """The clips of each batch that an attack has been run on, or has been shown beforehand."""
    from avrobust_core import Victim

    seen: list[tuple[str, ...]] = []
    bind = Victim.bind

    def counted(self, batch, threat, goal=None):
        seen.append(batch.ids)
        return bind(self, batch, threat, goal)

    monkeypatch.setattr(Victim, "bind", counted)
    return seen


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("first", [0, 9])
def test_clips_that_are_read_otherwise_are_found_before_they_are_attacked(
    study, attacked, monkeypatch, first: int, prepared: bool
) -> None:
    from avrobust_data.toy import ToyAV

    read, known = ToyAV.read, set()

    def cropping(self, split, index):
        clip = read(self, split, index)
        if split == "test" and index >= first:
            if index in known:
                clip.inputs["audio"] = clip.inputs["audio"].roll(1, -1)
            known.add(index)
        return clip

    monkeypatch.setattr(ToyAV, "read", cropping)
    attack = "{use: universal, with: {epochs: 1, batch_size: 4}}" if prepared else "fgsm"
    (cell,) = study(f"attacks={{tried: {attack}}}", "engine.batch_size=4", "audit=off")["cells"]
    (failure,) = cell["failures"]
    assert f"clip test-{first:06} was read with other audio than for the clean predictions" in failure["message"]
    assert len(attacked) == first // 4, "the batches before the one that differs"


@pytest.mark.parametrize("gone", [False, True])
def test_a_clip_that_can_be_read_at_one_time_only_is_found_before_its_batch_is_attacked(
    study, attacked, monkeypatch, gone: bool
) -> None:
    from avrobust_data.toy import ToyAV

    from avrobust_core import ClipError

    read, readings = ToyAV.read, []

    def failing(self, split, index):
        clip = read(self, split, index)
        if split == "test" and index == 5:
            readings.append(index)
            if gone == (len(readings) > 1):
                raise ClipError(clip.id, "made to fail")
        return clip

    monkeypatch.setattr(ToyAV, "read", failing)
    monkeypatch.setattr(ToyAV, "max_unreadable", 0.5)
    (cell,) = study("attacks={fgsm: fgsm}", "engine.batch_size=4", "audit=off")["cells"]
    (failure,) = cell["failures"]
    assert (
        f"clip test-000005 could {'be read' if gone else 'not be read'} for the clean predictions" in failure["message"]
    )
    assert len(attacked) == 1
