"""Several processes: every clip evaluated once, with the same results as one process."""

import json
import shutil
from pathlib import Path

import pytest

REDUCED = (
    *("--set", "models={concat: {encoders: [audio, video], fusion: concat}}"),
    *("--set", "evaluation.clips=23", "--set", "metrics=[accuracy]"),
)
TWO = ("--set", "engine.accelerator=cpu", "--set", "engine.devices=2")


@pytest.mark.slow
def test_two_processes_evaluate_each_clip_once_with_the_results_of_one(
    tiny: Path, tmp_path: Path, run_command, comparable
) -> None:
    out = tmp_path / "out"
    one = run_command("run", tiny, "--out", out, *REDUCED)
    assert one.returncode == 0, one.stderr
    result = json.loads((out / "result.json").read_text())
    (cell,) = (out / "cells").iterdir()
    shutil.rmtree(cell / "evaluations")
    shutil.rmtree(cell / "measurements")
    two = run_command("run", tiny, "--out", out, *REDUCED, *TWO)
    assert two.returncode == 0, two.stderr
    again = json.loads((out / "result.json").read_text())
    assert again["cells"][0]["clips"] == 23, "an odd number of clips is neither padded nor cut"
    assert comparable(again) == comparable(result)


@pytest.mark.slow
def test_two_processes_train_together_and_print_one_table(tiny: Path, tmp_path: Path, run_command, last_json) -> None:
    ran = run_command("run", tiny, "--out", tmp_path / "out", "--json", *REDUCED, *TWO)
    assert ran.returncode == 0, ran.stderr
    result = last_json(ran.stdout)
    fit = result["cells"][0]["fit"]
    assert fit["clip_backwards"] == 2 * 48, "each clip is learned from once per epoch, by one process"
    assert ran.stderr.count("0 of 1 cells reused") == 1


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_evenly_is_learned_from_whole(
    tiny: Path, tmp_path: Path, run_command, last_json
) -> None:
    settings = ("--set", "training.standard.batch_size=15", "--set", "training.standard.accumulate=3")
    ran = run_command("run", tiny, "--out", tmp_path / "out", "--json", *REDUCED, *TWO, *settings)
    assert ran.returncode == 0, ran.stderr
    fit = last_json(ran.stdout)["cells"][0]["fit"]
    assert fit["clip_backwards"] == 2 * 45
