"""A run killed by SIGKILL at any moment resumes and ends with the same results."""

import json
import signal
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_at.py"

TRAINING_STEP = "torch.optim:AdamW.step"
ATTACKED_BATCH = "avrobust_core.evaluation.predictions:attack_batch"
FILE_WRITTEN = "os:replace"
FILE_SYNCED = "os:fsync"

REDUCED = (
    "--set",
    "threats={both: {audio: {eps: 0.01}, video: {eps: 4/255}}}",
    "--set",
    "attacks={pgd: {use: pgd, with: {steps: 2}}}",
    "--set",
    "models={concat: {encoders: [audio, video], fusion: concat}}",
    "--set",
    "metrics=[accuracy]",
)


def _contents(out: Path) -> dict[str, bytes]:
    (cell,) = (out / "cells").iterdir()
    return {name: (cell / name).read_bytes() for name in ("model.safetensors", "last.safetensors", "samples.parquet")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Where a run that was not killed left its files; made on first use."""
    return tmp_path_factory.mktemp("whole")


def _check(target: str, nth: int, tiny: Path, tmp_path: Path, whole: Path, run_command, comparable) -> None:
    if not (whole / "result.json").exists():
        undisturbed = run_command("run", tiny, "--out", whole, *REDUCED)
        assert undisturbed.returncode == 0, undisturbed.stderr
    out = tmp_path / "out"
    killed = run_command(target, str(nth), "run", tiny, "--out", out, *REDUCED, script=SCRIPT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "result.json").exists()
    resumed = run_command("run", tiny, "--out", out, *REDUCED)
    assert resumed.returncode == 0, resumed.stderr
    results = [comparable(json.loads((folder / "result.json").read_text())) for folder in (out, whole)]
    assert results[0] == results[1]
    assert _contents(out) == _contents(whole)
    leftovers = [path.name for path in out.rglob(".*") if path.name != ".avrobust-run"]
    assert not leftovers


@pytest.mark.parametrize(
    ("target", "nth"),
    [
        pytest.param(ATTACKED_BATCH, 2, marks=pytest.mark.slow),
        pytest.param(TRAINING_STEP, 5, marks=pytest.mark.slow),
        pytest.param(FILE_WRITTEN, 9, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_results(target, nth, tiny, tmp_path, whole, run_command, comparable) -> None:
    _check(target, nth, tiny, tmp_path, whole, run_command, comparable)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "nth"),
    [
        *[(TRAINING_STEP, nth) for nth in (1, 3, 6)],
        *[(ATTACKED_BATCH, nth) for nth in (1, 3)],
        *[(FILE_WRITTEN, nth) for nth in range(1, 32, 2)],
        *[(FILE_SYNCED, nth) for nth in (2, 11, 24, 37)],
    ],
)
def test_a_run_killed_at_any_write_resumes_to_the_same_results(
    target, nth, tiny, tmp_path, whole, run_command, comparable
) -> None:
    _check(target, nth, tiny, tmp_path, whole, run_command, comparable)
