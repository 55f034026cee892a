"""`benchmarks/predictors.py`: what a predictor of known worth is found to be worth, and the whole in small."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import predictors, sharing
from benchmarks.prediction import FEWEST, analysed, calibration, draws, predicted, tables

ROOT = Path(__file__).parents[2]


def models(families: int = 8, each: int = 10, sets=("toy-av",)) -> list[dict]:
    """Made-up models: robust accuracy differs between families and inside them; predictors of known worth."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(families):
        for fit in range(each):
            robust = float(np.clip(generator.normal(0.1 + 0.7 * ((3 * number) % families) / families, 0.1), 0, 1))
            lines.append(
                {
                    "set": sets[fit % len(sets)],
                    "model": f"model {fit % 5}",
                    "regime": f"regime {number}",
                    "robust": robust,
                    "predictors": {
                        "perfect": float(np.exp(3 * robust)),
                        "falling": -robust,
                        "noise": float(generator.normal()),
                        "constant": 1.0,
                        # Tells families apart, and nothing else.
                        "family": float(number),
                        # Tells models of one family apart, but stands elsewhere in each.
                        "inside": robust + 10 * ((5 * number) % families),
                    },
                    "passes": {"noise": 3.0},
                }
            )
    return lines


def test_a_perfect_predictor_has_no_error_and_noise_has_the_floors():
    section = analysed(models(), resamples=200)["all"]["training"]
    assert section["models"] == 80
    assert section["families"] == {f"regime {number}": 10 for number in range(8)}
    assert section["drawn"] == "families and models"
    found = section["predictors"]
    floor = section["floor"]["value"]
    assert floor > 0.15
    for name, rank in (("perfect", 1), ("falling", -1)):
        assert found[name]["error"]["value"] < 0.02
        assert found[name]["error"]["high"] < 0.05
        assert found[name]["rank"] == {"value": rank, "low": rank, "high": rank}
        assert found[name]["over_floor"]["high"] < -0.1
    assert found["noise"]["error"]["value"] == pytest.approx(floor, abs=0.04)
    assert found["noise"]["rank"]["low"] < 0 < found["noise"]["rank"]["high"]
    assert found["constant"]["error"]["value"] == pytest.approx(floor)
    assert found["constant"]["rank"] == {"value": None, "low": None, "high": None}
    assert found["noise"]["passes"] == 3
    assert next(iter(found)) in ("perfect", "falling")


def test_what_orders_models_inside_families_only_predicts_no_unseen_family():
    found = analysed(models(), resamples=200)["all"]["training"]["predictors"]
    assert found["inside"]["rank_within"]["value"] == pytest.approx(1)
    assert abs(found["inside"]["rank"]["value"]) < 0.5
    assert found["inside"]["over_floor"]["high"] > 0
    assert found["family"]["rank_within"]["value"] is None


def test_a_family_is_predicted_without_its_own_models():
    values = np.array([0.0, 1, 2, 3, 10, 11])
    robust = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 1.0])
    families = np.array(["a", "a", "b", "b", "c", "c"])
    found = predicted(values, robust, families)
    np.testing.assert_allclose(found[4:], 0.4)  # level above what was seen, whatever the family's own models are
    robust[4:] = 0.9, 0.95
    np.testing.assert_allclose(predicted(values, robust, families)[4:], 0.4)


def test_an_interval_of_prediction_covers_what_errs_alike_and_not_a_family_that_errs_more():
    generator = np.random.default_rng(0)
    lines = models(sets=("toy-av", "clips"))
    for line in lines:
        line["predictors"] = {"estimate": line["robust"] + 0.05 + generator.uniform(-0.02, 0.02)}
        line["predictors"]["estimate"] += 0.2 * (line["model"] == "model 0")
    found = calibration([*lines, {"predictors": {}}], "estimate")
    assert found["models"] == len(found["errors"]) == 80
    assert found["errors"] == sorted(found["errors"])
    assert -0.28 < found["errors"][0] < -0.25
    assert -0.05 < found["errors"][-1] < -0.02
    assert np.mean(list(found["coverage"]["training"].values())) >= 0.9
    assert found["coverage"]["architecture"].pop("model 0") == 0
    assert min(found["coverage"]["architecture"].values()) >= 0.8
    assert set(found["coverage"]["data"]) == {"toy-av", "clips"}


def test_few_families_are_not_resampled_and_many_are():
    families = np.repeat(["a", "b", "c"], 6)
    few = draws(families, 50, 0)
    assert all((few[:, families == name].sum(axis=1) == 6).all() for name in "abc")
    many = draws(np.repeat([f"{n}" for n in range(FEWEST)], 6), 200, 0)
    counts = np.stack([many[:, 6 * n : 6 * n + 6].sum(axis=1) for n in range(FEWEST)])
    assert set(np.unique(counts)) <= {0, 6, 12, 18, 24}
    assert (counts == 0).any()
    assert (counts.sum(axis=0) == 24).all()


def test_sets_are_a_family_and_each_is_looked_at_alone():
    lines = models(sets=("toy-av", "clips"))
    for line in lines[:30]:
        del line["predictors"]["noise"]  # a metric that failed, or is not there in an older line
    found = analysed(lines, resamples=100)
    assert {scope: set(sections) for scope, sections in found.items()} == {
        "all": {"training", "architecture", "data"},
        "toy-av": {"training", "architecture"},
        "clips": {"training", "architecture"},
    }
    assert found["all"]["data"]["drawn"] == "models"
    assert found["all"]["training"]["predictors"]["noise"]["models"] == 50
    assert found["clips"]["architecture"]["models"] == 40
    shown = tables(json.loads(json.dumps(found, allow_nan=False)))
    assert "all: unseen data; 80 models of 2 families (clips 40, toy-av 40)" in shown


def test_a_limit_leaves_models_of_every_set_and_kind():
    options = argparse.Namespace(seeds=[0], manifest=Path("manifest.csv"), set=[])
    asked = predictors.jobs(options)
    assert len({tuple(job.values()) for job in asked}) == len(asked) >= 80
    some = asked[: len(asked) // 3]
    for key in ("set", "model", "training"):
        assert {job[key] for job in some} == {job[key] for job in asked}


TINY = (
    "data.with.train=32",
    "data.with.test=16",
    "training={standard: {epochs: 1}, mixup: {epochs: 1, augment: [mixup]}}",
    "include=[{model: concat}, {model: hidden}]",
    "attacks.ensemble={use: pgd, with: {steps: 2}}",
    "attacks.pgd={use: pgd, with: {steps: 1}}",
    "evaluation.resamples=100",
)


@pytest.mark.slow
def test_the_whole_fits_measures_attacks_and_ends_with_the_worth_of_each_predictor(
    tmp_path: Path, run_command, last_json
) -> None:
    out = tmp_path / "predictors.jsonl"
    asked = ("--jobs", "1", "--resamples", "50", "--rival-clips", "8", "--out", out, "--set", *TINY)
    script, env = (
        ROOT / "benchmarks" / "predictors.py",
        {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])},
    )
    done = run_command(*asked, script=script, env=env)
    assert done.returncode == 0, done.stderr
    lines = sharing.lines(out)
    assert {(line["model"], line["regime"]) for line in lines} == {
        (model, regime) for model in ("concat", "hidden") for regime in ("standard", "mixup")
    }
    for line in lines:
        assert line["failures"] == []
        assert 0 <= line["robust"] <= line["predictors"]["clean accuracy"] <= 1
        assert line["predictors"]["attack fgsm"] <= 1
        assert line["passes"]["attack fgsm"] > 0
        assert line["rival_clips"] == 8
        told = {name.split()[0] for name in line["predictors"]}
        assert told == {"clean", "margin", "density", "convexity", "attack"}
    found = last_json(done.stdout)
    assert set(found) == {"all"}
    section = found["all"]["training"]
    assert section["families"] == {"mixup": 2, "standard": 2}
    assert {"margin distance/joint", "density trust/fused", "convexity graph/fused"} <= set(section["predictors"])
    again = run_command("--jobs", "0", "--resamples", "50", "--out", out, script=script, env=env)
    assert last_json(again.stdout) == found
