"""`benchmarks/mixup.py` carries the ablation out, and ends with one JSON object."""

from pathlib import Path

import numpy as np
import pytest
from avrobust_geometry.guided.mixup import GuidedMixup

from avrobust_core import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder
from benchmarks import epoch_times

ROOT = Path(__file__).parents[2]

SMALL = (
    "data.with.train=32",
    "data.with.test=16",
    "attacks={pgd: {use: pgd, with: {steps: 2}, threats: [both]}}",
    "include=[{training: standard}, {training: mixup}, {training: guided-mixup}, {training: guided-permuted}]",
    "evaluation.resamples=100",
)


def test_the_epochs_that_are_timed_are_those_that_are_guided() -> None:
    registry = Registry.discover()
    spec = load_spec(ROOT / "examples" / "mixup_ablation.yaml", registry).spec
    regime = spec.training["guided-mixup"]
    (augmentation,) = Builder(spec, registry).augmentations(regime)
    assert isinstance(augmentation, GuidedMixup)
    assert not augmentation.as_it_is(regime.epochs // 2)


def test_fits_that_are_timed_take_turns_step_by_step(monkeypatch) -> None:
    steps = []

    def fit(builder, dataset, name: str, ring: epoch_times.Ring, number: int) -> np.ndarray:
        for _ in range(3):
            steps.append(name)
            ring.hand_on(number)
            ring.wait(number)
        return np.full(2, number + 1.0)

    monkeypatch.setattr(epoch_times, "_fit", fit)
    found = epoch_times.epoch_seconds(None, None, ["a", "b", "c"])
    assert "".join(steps) == "abcabcabc"
    assert epoch_times.ratio(found["b"], found["a"]).to_json() | {"n": 2} == {
        "value": 2.0,
        "low": 2.0,
        "high": 2.0,
        "n": 2,
        "method": "bootstrap",
        "groups": None,
    }


def test_a_fit_that_fails_ends_the_timing_with_its_error(monkeypatch) -> None:
    def fit(builder, dataset, name: str, ring: epoch_times.Ring, number: int) -> np.ndarray:
        if name == "b":
            raise ValueError("b is broken")
        ring.hand_on(number)
        ring.wait(number)
        return np.ones(1)

    monkeypatch.setattr(epoch_times, "_fit", fit)
    with pytest.raises(ValueError, match="b is broken"):
        epoch_times.epoch_seconds(None, None, ["a", "b", "c"])


@pytest.mark.slow
def test_the_ablation_ends_with_protection_cost_and_differences(tmp_path: Path, run_command, last_json) -> None:
    asked = (
        "--study",
        "mixup_ablation",
        "--seeds",
        "0",
        "1",
        "--turns",
        "1",
        "--threads",
        "1",
        "--out",
        tmp_path,
        "--set",
        *SMALL,
    )
    done = run_command(*asked, script=ROOT / "benchmarks" / "mixup.py", env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = last_json(done.stdout)["toy-av"]
    assert set(found["regimes"]) == {"standard", "mixup", "guided-mixup", "guided-permuted"}
    for regime in found["regimes"].values():
        assert regime["forwards"] == regime["backwards"] == 2 * 12 * 32
        assert 0 <= regime["robust"]["pgd"]["both"]["low"] <= regime["robust"]["pgd"]["both"]["high"] <= 1
    assert set(found["epoch_time_ratio"]) == {"mixup", "guided-mixup"}
    assert all(0 < ratio["low"] <= ratio["high"] for ratio in found["epoch_time_ratio"].values())
    pairs = found["differences"]
    assert "guided-mixup - mixup" in pairs
    assert "guided-mixup - guided-permuted" in pairs
    assert all({"difference", "p", "p_holm"} <= set(item) for item in pairs["guided-mixup - mixup"])
