import numpy as np
import pytest
from scipy.stats import spearmanr

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.study.correlating import MARGIN, Evidence, Predictor, Robustness, correlate

INTERVALS = Intervals(confidence=0.95, resamples=300, seed=0)
GOOD, NOISE, MISSING = Predictor("density", "good"), Predictor("density", "noise"), Predictor("density", "missing")


def _evidence(model="m", n=300, classes=8, seed=0, minimal=True, quality=0.0, ids=None) -> Evidence:
    generator = np.random.default_rng(seed)
    label = generator.integers(classes, size=n)
    own = label[:, None] == np.arange(classes)
    difficulty = generator.normal(size=classes)[label]
    strength = difficulty + generator.normal(size=n) + quality
    correct = generator.random(n) < 0.8
    factor = np.where(correct, np.exp(strength), 0.0)
    factor[factor > 3] = np.inf
    missing = strength.copy()
    missing[::2] = np.nan
    return Evidence(
        names={"model": model, "training": "t", "seed": 0},
        ids=ids or tuple(f"c{i}" for i in range(n)),
        own=own,
        correct=correct,
        per_clip={
            MARGIN: strength + generator.normal(size=n),
            GOOD: strength + 0.3 * generator.normal(size=n),
            NOISE: generator.normal(size=n),
            MISSING: missing,
        },
        per_class={Predictor("convexity", "fixed"): generator.normal(size=classes)},
        whole={Predictor("convexity", "whole"): quality},
        robustness={"fmn/both": Robustness(factor, minimal)},
    )


def _find(found, level, predictor):
    (entry,) = [
        e for e in found if (e["level"], e["predictor"], e["metric"]) == (level, predictor.name, predictor.metric)
    ]
    return entry


def test_over_clips_it_is_scipys_correlation_of_the_correct_clips() -> None:
    cell = _evidence()
    found = correlate([cell], INTERVALS)
    entry = _find(found, "clip", GOOD)
    kept = cell.correct
    expected = spearmanr(cell.per_clip[GOOD][kept], cell.robustness["fmn/both"].factor[kept]).statistic
    assert entry["value"] == pytest.approx(expected)
    assert entry["low"] < entry["value"] < entry["high"]
    assert entry["n"] == kept.sum()
    noise = _find(found, "clip", NOISE)
    assert noise["low"] < 0 < noise["high"]
    assert _find(found, "clip", MISSING)["n"] == (kept & ~np.isnan(cell.per_clip[MISSING])).sum()


def test_what_goes_beyond_the_margin_is_told_apart() -> None:
    found = correlate([_evidence()], INTERVALS)
    assert "beyond_margin" not in _find(found, "clip", MARGIN)
    assert _find(found, "clip", GOOD)["beyond_margin"]["low"] > 0.5
    beyond = _find(found, "clip", NOISE)["beyond_margin"]
    assert beyond["low"] < 0 < beyond["high"]


@pytest.mark.parametrize("minimal", [True, False])
def test_over_classes_means_of_clips_meet_the_classs_robustness(minimal: bool) -> None:
    cell = _evidence(minimal=minimal)
    entry = _find(correlate([cell], INTERVALS), "class", GOOD)
    factor = cell.robustness["fmn/both"].factor
    means = [cell.per_clip[GOOD][members].mean() for members in cell.own.T]
    if minimal:
        outcome = [np.sort(factor[members])[(members.sum() - 1) // 2] for members in cell.own.T]
    else:
        outcome = [(factor[members] > 1).mean() for members in cell.own.T]
    assert entry["value"] == pytest.approx(spearmanr(means, outcome).statistic)
    assert entry["n"] == 8
    fixed = _find(correlate([cell], INTERVALS), "class", Predictor("convexity", "fixed"))
    assert fixed["value"] == pytest.approx(
        spearmanr(cell.per_class[Predictor("convexity", "fixed")], outcome).statistic
    )


def test_over_models_the_same_clips_are_resampled_together() -> None:
    cells = [_evidence(model=f"m{i}", quality=0.3 * i - 0.9) for i in range(5)]
    found = correlate(cells, INTERVALS)
    whole = _find(found, "model", Predictor("convexity", "whole"))
    assert whole["value"] == pytest.approx(1.0)
    assert "model" not in whole
    assert _find(found, "model", GOOD)["value"] > 0.5


@pytest.mark.parametrize(
    "cells",
    [
        [_evidence(model=f"m{i}") for i in range(3)],
        [_evidence(model=f"m{i}", ids=tuple(f"{i}-{j}" for j in range(300))) for i in range(5)],
    ],
    ids=["too few", "other clips"],
)
def test_models_that_cannot_be_compared_are_not(cells) -> None:
    assert not [entry for entry in correlate(cells, INTERVALS) if entry["level"] == "model"]


def test_too_few_clips_or_classes_give_nothing_rather_than_a_number() -> None:
    found = correlate([_evidence(n=3, classes=2)], INTERVALS)
    assert found == []
