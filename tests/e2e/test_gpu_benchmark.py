"""`benchmarks/gpu.py`: a part that fails takes no other along, and all of it is rehearsed with small sizes."""

import importlib.util
import json
import os
import time
from pathlib import Path

import pytest
import torch

from avrobust_core import Registry
from benchmarks import gpu
from benchmarks.gpu_attacks import PEERS
from benchmarks.gpu_subject import SMALL, Bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench() -> Bench:
    return Bench(SMALL, torch.device("cpu"), Registry.discover(), until=time.monotonic() + 100)


def test_a_part_that_fails_is_named_and_the_others_go_on(bench: Bench, monkeypatch, capsys, tmp_path: Path) -> None:
    def broken(_: Bench) -> dict[str, object]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(gpu, "parts", lambda: {"broken": broken, "sound": lambda _: {"over_bare": 0.5}})
    monkeypatch.setattr("sys.argv", ["gpu.py", "--small", "--out", str(tmp_path / "found.json")])
    monkeypatch.setattr(gpu, "quieten", lambda: None)
    gpu.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["missing"] == {"broken": "ZeroDivisionError: planted"}
    assert found["answers"] == {"sound": {"over_bare": 0.5}}
    assert json.loads((tmp_path / "found.json").read_text()) == found


def test_a_part_does_not_begin_when_time_is_over(bench: Bench) -> None:
    bench.until = time.monotonic() - 1
    assert "no time" in gpu.carried_out(bench, "late", lambda _: {})["not_run"]


@pytest.mark.slow
def test_all_of_it_is_rehearsed(tmp_path: Path, run_command, last_json) -> None:
    command = ("--small", "--device", "cpu", "--out", tmp_path / "found.json")
    done = run_command(
        *command,
        script=ROOT / "benchmarks" / "gpu.py",
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])},
    )
    assert done.returncode == 0, done.stderr
    found = last_json(done.stdout)
    assert set(found["missing"]) == {"waits"}  # of which torch knows on a GPU only
    assert set(found["parts"]) == set(gpu.parts())
    assert found["parts"]["joint-tf32"]["robust_clips"] == dict.fromkeys(
        found["parts"]["joint-tf32"]["clips_per_second"], SMALL.batch
    )
    answered = {"neighbours", "queries", *gpu.gpu_training.REGIMES, "guided"}
    if any(importlib.util.find_spec(peer) for peer in PEERS):  # of the extra `bench`
        answered.add("robust-tf32")
    for name in answered:
        assert found["answers"][name]
    assert found["parts"]["neighbours"]["largest_difference"] < 1e-3
