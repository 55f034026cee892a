"""Intervals: coverage by simulation, Wilson's closed form at the ends, and no dependence on chunks."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core import statistics
from avrobust_core.statistics import Estimate, bootstrap, bootstrap_mean


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_the_bootstrap_covers_as_often_as_it_says(p):
    rng = np.random.default_rng(int(p * 10))
    simulations, n = 800, 200
    hits = 0
    for seed in range(simulations):
        found = bootstrap_mean(rng.random(n) < p, resamples=300, seed=seed)
        hits += found.low <= p <= found.high
    assert 0.93 <= hits / simulations <= 0.97


def test_the_interval_is_as_wide_as_the_normal_approximation():
    outcomes = np.arange(1000) < 300
    found = bootstrap_mean(outcomes, resamples=4000)
    half = 1.959964 * math.sqrt(0.3 * 0.7 / 1000)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.002)
    assert found.high == pytest.approx(0.3 + half, abs=0.002)
    narrow = bootstrap_mean(outcomes, resamples=4000, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674490 * math.sqrt(0.3 * 0.7 / 1000), abs=0.002)


@pytest.mark.parametrize("n", [1, 5, 200])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_where_all_agree_it_is_wilson(n, confidence):
    z = {0.9: 1.6448536, 0.95: 1.9599640}[confidence]
    edge = z * z / (n + z * z)  # Wilson's (1927) bound for 0 of n
    none, every = (bootstrap_mean(np.full(n, value), confidence=confidence) for value in (False, True))
    assert (none.value, none.method, every.method) == (0.0, "wilson", "wilson")
    assert none.low == pytest.approx(0.0, abs=1e-12)
    assert none.high == pytest.approx(edge, rel=1e-6)
    assert every.low == pytest.approx(1 - edge, rel=1e-6)
    assert every.high == pytest.approx(1.0, abs=1e-12)


def test_without_clips_there_is_no_number():
    found = bootstrap_mean([])
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert (found.n, found.method) == (0, "none")


@pytest.mark.parametrize("elements", [1, 50, 130, 10_000])
def test_the_size_of_the_chunks_does_not_matter(monkeypatch, elements):
    outcomes = np.random.default_rng(0).random(40) < 0.4
    whole = bootstrap_mean(outcomes, resamples=101, seed=3)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", elements)
    assert bootstrap_mean(outcomes, resamples=101, seed=3) == whole


def test_the_seed_decides():
    outcomes = np.random.default_rng(0).random(57) < 0.4
    assert bootstrap_mean(outcomes, seed=1) == bootstrap_mean(outcomes, seed=1)
    assert len({bootstrap_mean(outcomes, seed=seed, resamples=50).low for seed in range(5)}) > 1


def test_the_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()
    bootstrap_mean([0, 1, 1])
    assert (np.random.get_state()[1] == before).all()


def test_weights_are_resamples_of_the_clips():
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights[:, 0]

    found = bootstrap(statistic, 30, resamples=500)
    assert found.value == 1  # weights of one
    ones, *drawn = seen
    assert (ones == 1).all()
    drawn = np.concatenate(drawn)
    assert drawn.shape == (500, 30)
    assert (drawn.sum(axis=1) == 30).all()
    assert drawn.mean() == 1
    assert drawn.var() == pytest.approx(1 - 1 / 30, rel=0.05)


def test_rows_that_cannot_be_measured_are_left_out():
    def ratio(weights):
        return np.where(weights[:, 0] > 0, weights[:, 1], np.nan)

    found = bootstrap(ratio, 10, resamples=300)
    assert not math.isnan(found.low)


def test_a_value_from_elsewhere_is_kept():
    assert bootstrap(lambda w: w[:, 0], 5, value=0.25).value == 0.25


@settings(max_examples=40, deadline=None)
@given(outcomes=st.lists(st.booleans(), min_size=1, max_size=60), seed=st.integers(0, 100))
def test_the_interval_lies_in_the_unit_interval_and_holds_the_share(outcomes, seed):
    found = bootstrap_mean(outcomes, resamples=200, seed=seed)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1
    assert found.value == pytest.approx(sum(outcomes) / len(outcomes))
    assert found.low < found.high or len(outcomes) == 1


def test_json_has_no_nan_and_no_infinity():
    found = Estimate(float("inf"), float("nan"), float("-inf"), 3, "bootstrap").to_json()
    assert found == {"value": None, "low": None, "high": None, "n": 3, "method": "bootstrap"}
    assert json.loads(json.dumps(Estimate(0.5, 0.25, 0.75, 8, "bootstrap").to_json(), allow_nan=False))["low"] == 0.25


@pytest.mark.parametrize("n", range(1, 60))
def test_where_all_agree_the_interval_ends_at_the_very_number(n) -> None:
    assert bootstrap_mean([0] * n).low == 0.0
    assert bootstrap_mean([1] * n).high == 1.0


@pytest.mark.filterwarnings("error")
def test_a_statistic_that_no_resample_has_is_no_number() -> None:
    found = bootstrap(lambda weights: np.full(len(weights), np.nan), 10)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.method == "none"
