"""Intervals of shares and of any statistic: closed forms, coverage by exact sums and simulation, groups of clips."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, t

from avrobust_core.errors import ComponentError, DataError
from avrobust_core.statistics import intervals as statistics
from avrobust_core.statistics.draws import Draws
from avrobust_core.statistics.intervals import Estimate, bootstrap, share


def outcomes_of(hits: int, n: int) -> np.ndarray:
    return np.arange(n) < hits


@pytest.mark.parametrize(("n", "p"), [(200, 0.005), (200, 0.01), (24, 0.02), (100, 0.3), (600, 0.9)])
def test_the_interval_of_a_share_covers_at_least_as_often_as_it_says(n: int, p: float) -> None:
    """Exactly: summed over all counts that there can be. Percentiles of a bootstrap cover .63 at 1 in 200."""
    found = [share(outcomes_of(hits, n)) for hits in range(n + 1)]
    chances = binom.pmf(np.arange(n + 1), n, p)
    covered = sum(chance for chance, each in zip(chances, found, strict=True) if each.low <= p <= each.high)
    assert 0.95 <= covered < 0.995


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("hits", "n"), [(1, 200), (3, 10), (60, 200), (199, 200), (1, 1)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(hits: int, n: int, confidence: float) -> None:
    found = share(outcomes_of(hits, n), confidence=confidence)
    tail = (1 - confidence) / 2
    assert (found.value, found.n, found.method) == (pytest.approx(hits / n), n, "clopper-pearson")
    assert found.low == pytest.approx(beta.ppf(tail, hits, n - hits + 1), rel=1e-6)
    assert found.high == pytest.approx(beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0, rel=1e-6)


def test_one_clip_of_200_does_not_leave_0_in_the_interval_nor_199_leave_1() -> None:
    assert share(outcomes_of(1, 200)).low > 1e-4
    assert share(outcomes_of(199, 200)).high < 1 - 1e-4


def test_without_clips_there_is_no_number() -> None:
    found = share([])
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert (found.n, found.method) == (0, "none")


@pytest.mark.parametrize("elements", [1, 50, 130, 10_000])
@pytest.mark.parametrize("groups", [None, np.arange(40) // 4])
def test_the_size_of_the_chunks_does_not_matter(monkeypatch, elements, groups):
    values = np.random.default_rng(0).random(40)

    def median() -> Estimate:
        return bootstrap(statistics.weighted_median(values), 40, resamples=101, seed=3, groups=groups)

    whole = median()
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", elements)
    assert median() == whole


def test_the_seed_decides():
    values = np.random.default_rng(0).random(57)

    def median(seed: int) -> Estimate:
        return bootstrap(statistics.weighted_median(values), 57, seed=seed, resamples=50)

    assert median(1) == median(1)
    assert len({median(seed).low for seed in range(5)}) > 1


def test_the_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()
    bootstrap(lambda w: w[:, 0], 9)
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


@settings(max_examples=60)
@given(outcomes=st.lists(st.booleans(), min_size=1, max_size=60), per_group=st.integers(1, 7))
def test_the_interval_lies_in_the_unit_interval_and_holds_the_share(outcomes, per_group):
    for groups in (None, [i // per_group for i in range(len(outcomes) + per_group)][per_group:]):
        found = share(outcomes, groups=groups)
        assert found.value == pytest.approx(sum(outcomes) / len(outcomes))
        if groups is not None and len(set(groups)) < 2:
            assert math.isnan(found.low)
            assert found.method == "none"
        else:
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high


def test_json_has_no_nan_and_no_infinity():
    found = Estimate(float("inf"), float("nan"), float("-inf"), 3, "bootstrap").to_json()
    assert found == {"value": None, "low": None, "high": None, "n": 3, "method": "bootstrap", "groups": None}
    assert json.loads(json.dumps(Estimate(0.5, 0.25, 0.75, 8, "bootstrap").to_json(), allow_nan=False))["low"] == 0.25


@pytest.mark.parametrize("n", range(1, 60))
def test_where_all_agree_the_interval_ends_at_the_very_number(n) -> None:
    assert share([0] * n).low == 0.0
    assert share([1] * n).high == 1.0


@pytest.mark.filterwarnings("error")
def test_a_statistic_that_no_resample_has_is_no_number() -> None:
    found = bootstrap(lambda weights: np.full(len(weights), np.nan), 10)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.method == "none"


def test_percentiles_lie_as_far_out_as_few_draws_ask_for() -> None:
    """Where the statistic is normal over resamples, the interval is Student's of the mean, not the normal one."""
    values = np.random.default_rng(0).normal(size=12)
    found = bootstrap(lambda w: w @ values / w.sum(axis=1), 12, resamples=200_000)
    half = t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def test_groups_are_resampled_with_all_of_their_clips() -> None:
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights[:, 0]

    found = bootstrap(statistic, 6, resamples=400, groups=["b", "a", "b", "c", "a", "b"])
    drawn = np.concatenate(seen[1:])
    assert (drawn[:, [0, 0, 1]] == drawn[:, [2, 5, 4]]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (found.n, found.groups) == (6, 3)


def test_groups_of_one_clip_each_are_clips_by_themselves() -> None:
    outcomes = np.random.default_rng(0).random(50) < 0.3
    alone, named = share(outcomes), share(outcomes, groups=[f"g{i}" for i in range(50)])
    assert (named.low, named.high) == (alone.low, alone.high)
    assert (alone.groups, named.groups) == (None, 50)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.97])
def test_groups_whose_clips_all_agree_are_worth_one_clip_each(p: float) -> None:
    of_groups = np.random.default_rng(1).random(40) < p
    found = share(np.repeat(of_groups, 7), groups=np.repeat(np.arange(40), 7))
    alone = share(of_groups)
    assert found.n == 280
    assert found.low <= alone.low
    assert found.high >= alone.high
    assert found.high - found.low < 1.5 * (alone.high - alone.low)


def test_where_all_clips_agree_there_are_as_many_outcomes_as_groups() -> None:
    found, alone = share([0] * 200, groups=np.arange(200) // 5), share([0] * 40)
    assert found.high == pytest.approx(alone.high)
    unequal = share([0] * 200, groups=[0] * 100 + list(range(1, 101)))
    assert unequal.high == pytest.approx(share([0] * 4).high, rel=0.02), "Kish: 200^2 / (100^2 + 100)"


def test_one_group_says_nothing_of_others() -> None:
    for found in (share([0, 1, 1], groups=["a"] * 3), bootstrap(lambda w: w[:, 0], 3, groups=["a"] * 3)):
        assert math.isnan(found.low)
        assert (found.method, found.groups) == ("none", 1)


def test_groups_of_another_number_of_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 3 clips, but groups of 2"):
        share([0, 1, 1], groups=["a", "b"])


def test_the_variance_over_groups_is_the_jackknife_and_at_least_that_of_single_clips() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 9, 60)
    values = generator.random(60) + generator.normal(size=9)[groups]
    means = [values[groups != g].mean() for g in range(9)]
    expected = 8 / 9 * sum((mean - values.mean()) ** 2 for mean in means)
    variance, degrees = Draws.of(groups, 60).spread(values)
    assert variance == pytest.approx(expected)
    assert 1 <= degrees < 8
    alike = np.tile([0.0, 1.0], 30)  # each group has as many of both
    assert Draws.of(np.arange(60) // 4, 60).spread(alike)[0] == pytest.approx(0.25 / 60)


def clustered(generator: np.random.Generator, share_: float, correlation: float, sizes: list[int]) -> np.ndarray:
    """(sum of sizes,) outcomes whose correlation within a group is what it should be: beta-binomial."""
    groups = len(sizes)
    if correlation in (0.0, 1.0):
        own = np.full(groups, share_) if correlation == 0 else (generator.random(groups) < share_).astype(float)
    else:
        scale = 1 / correlation - 1
        own = generator.beta(share_ * scale, (1 - share_) * scale, groups)
    return generator.random(sum(sizes)) < np.repeat(own, sizes)


def covered_in_groups(
    generator: np.random.Generator, truth: float, correlation: float, sizes: list[int], *, runs: int
) -> float:
    of_clip, held = np.repeat(np.arange(len(sizes)), sizes), 0
    for _ in range(runs):
        found = share(clustered(generator, truth, correlation, sizes), groups=of_clip)
        held += found.low <= truth <= found.high
    return held / runs


@pytest.mark.parametrize("truth", [0.02, 0.98])
def test_a_rare_outcome_in_few_groups_is_covered(truth: float) -> None:
    """20 groups of 50: Korn and Graubard's rule by itself covers .82, as the jackknife sees no cluster in one clip."""
    assert covered_in_groups(np.random.default_rng(0), truth, 0.3, [50] * 20, runs=300) >= 0.93


def test_a_single_outcome_in_few_groups_says_not_much_more_than_none() -> None:
    groups = np.arange(1000) // 50
    none, single = share(np.zeros(1000), groups=groups), share(np.arange(1000) < 1, groups=groups)
    assert none.high == pytest.approx(0.168, abs=0.001)
    assert single.high > 0.7 * none.high


def test_clips_that_are_there_twice_are_no_evidence() -> None:
    generator = np.random.default_rng(4)
    outcomes, groups = clustered(generator, 0.1, 0.3, [30] * 20), np.arange(600) // 30
    found, doubled = share(outcomes, groups=groups), share(np.repeat(outcomes, 2), groups=np.repeat(groups, 2))
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 20, 100])
@pytest.mark.parametrize("size", [1, 5, 20, 50])
@pytest.mark.parametrize("alike", [True, False])
def test_intervals_over_groups_cover_whatever_clips_of_a_group_have_in_common(
    groups: int, size: int, *, alike: bool
) -> None:
    generator = np.random.default_rng([groups, size, alike])
    spread = np.ones(groups) if alike else generator.gamma(3, 1 / 3, groups)
    sizes = np.maximum(1, np.rint(size * spread)).astype(int).tolist()
    for correlation in (0.0, 0.1, 0.3, 0.7):
        for truth in (0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.98):
            covered = covered_in_groups(generator, truth, correlation, sizes, runs=100)
            if covered < 0.97:  # of many cases one looks bad by chance
                covered = covered_in_groups(generator, truth, correlation, sizes, runs=1000)
            assert covered >= 0.93, (correlation, truth)


def test_intervals_over_clips_do_not_cover_where_groups_do() -> None:
    generator = np.random.default_rng(0)
    of_clip = np.arange(300) // 10
    covered = np.zeros(2)
    for _ in range(200):
        outcomes = clustered(generator, 0.5, 0.6, [10] * 30)
        for i, groups in enumerate((None, of_clip)):
            found = share(outcomes, groups=groups)
            covered[i] += found.low <= 0.5 <= found.high
    assert covered[0] < 130
    assert covered[1] >= 184


def test_clips_that_agree_on_a_share_between_0_and_1_leave_no_certainty() -> None:
    assert share(np.full(40, 0.5)) == share([0, 1] * 20)


def test_recentred_percentiles_are_moved_by_the_bias_and_stay_in_the_unit_interval():
    def drawn(weights):
        return (weights > 0).mean(axis=1)  # of all clips at once; a resample draws about 63 % of them

    plain = bootstrap(drawn, 50)
    moved = bootstrap(drawn, 50, recentred=True)
    assert (plain.value, moved.value, moved.high) == (1, 1, 1)
    assert plain.high < 0.8
    assert moved.low - plain.low == pytest.approx(1 - (1 - (1 - 1 / 50) ** 50), abs=0.01)
    assert np.isnan(bootstrap(drawn, 50, groups=["a"] * 50, recentred=True).high)


@pytest.mark.parametrize(
    ("statistic", "seen"),
    [
        (lambda weights: float(weights.mean()), "returned float, float64 of shape ()"),
        (lambda weights: weights.mean(axis=0), "returned ndarray, float64 of shape (5,)"),
        (lambda weights: [None] * len(weights), "returned list, object of shape (1,)"),
        (lambda weights: weights @ np.ones(7), "failed with ValueError: matmul"),
    ],
)
def test_a_statistic_that_does_not_fit_is_told_what_it_gets_and_what_it_returns(statistic, seen):
    with pytest.raises(ComponentError) as caught:
        bootstrap(statistic, 5)
    for part in (seen, "it is given weights, float64 of shape (1, 5)", "not the clips' values", "shape (1,)"):
        assert part in str(caught.value)


def test_errors_of_a_statistic_that_are_written_for_users_pass_as_they_are():
    def statistic(weights):
        raise DataError("no such clip")

    with pytest.raises(DataError, match=r"^no such clip$"):
        bootstrap(statistic, 5)
