"""A fit by several processes; test_torchrun.py has all else that they do."""

from pathlib import Path

import pytest

REDUCED = (
    *("--set", "models={concat: {encoders: [audio, video], fusion: concat}}"),
    *("--set", "evaluation.clips=23", "--set", "metrics=[accuracy]"),
)
TWO = ("--set", "engine.accelerator=cpu", "--set", "engine.devices=2")


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_evenly_is_learned_from_whole(
    tiny: Path, tmp_path: Path, run_command, last_json
) -> None:
    settings = ("--set", "training.standard.batch_size=15", "--set", "training.standard.accumulate=3")
    ran = run_command("run", tiny, "--out", tmp_path / "out", "--json", *REDUCED, *TWO, *settings)
    assert ran.returncode == 0, ran.stderr
    fit = last_json(ran.stdout)["cells"][0]["fit"]
    assert fit["clip_backwards"] == 2 * 45
