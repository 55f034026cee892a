"""`benchmarks/masking.py` attacks fitted networks in other ways, and says what the ensemble missed."""

from pathlib import Path

import pytest
import torch

from avrobust_core import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.runner import carry_out
from benchmarks.masking import summary

ROOT = Path(__file__).parents[2]

SMALL = (
    "data.with.train=32",
    "data.with.test=16",
    "training.standard.epochs=1",
    "training.mixup.epochs=1",
    "include=[{training: standard}, {training: mixup}]",
    "audit=off",
)


def test_what_any_other_attack_breaks_is_missed() -> None:
    left = {
        "ensemble": torch.tensor([True, True, True, True, False]),
        "longer": torch.tensor([True, True, True, True, False]),
        "square": torch.tensor([False, True, True, True, True]),
        "far": torch.tensor([False] * 5),
    }
    by_rival = {
        "standard": torch.tensor([True, True, True, True, True]),
        "adversarial": torch.tensor([True, False, True, True, True]),
    }
    found = summary(left, by_rival)
    assert found["left"] == {"ensemble": 0.8, "longer": 0.8, "square": 0.8, "far": 0.0, "transfer": 0.8}
    assert found["best_transfer"] == "adversarial"
    assert found["missed"]["value"] == pytest.approx(0.4)  # not far: that is another threat


def test_without_a_rival_nothing_is_transferred() -> None:
    left = dict.fromkeys(("ensemble", "longer", "square"), torch.tensor([True, False]))
    found = summary(left, {})
    assert found["left"]["transfer"] == 1
    assert found["best_transfer"] is None


@pytest.mark.slow
def test_it_attacks_the_networks_of_a_study(tmp_path: Path, run_command, last_json) -> None:
    path = ROOT / "examples" / "vertex_mixup.yaml"
    registry = Registry.discover()
    loaded = load_spec(path, registry, [*SMALL, "attacks={}", "seed=0"])
    carry_out(loaded, registry, out=tmp_path / loaded.spec.name, silent=True)
    asked = ("--runs", tmp_path, "--clips", "8", "--queries", "10", "--threads", "1", "--set", *SMALL)
    done = run_command(*asked, script=ROOT / "benchmarks" / "masking.py", env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = last_json(done.stdout)["toy-av"]
    assert set(found) == {"standard", "mixup"}
    assert found["standard"]["best_transfer"] == "mixup"
    for line in found.values():
        assert line["left"]["longer"] <= 1
        assert line["missed"]["n"] == 8
