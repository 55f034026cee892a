"""Intervals of means over pairs that share clips: coverage by simulation, and the edges where nothing varies."""

import numpy as np
import pytest
from avrobust_geometry.convexity.intervals import mean_over_pairs
from avrobust_geometry.convexity.pairs import Segments
from scipy.special import expit


def pairwise(first, second, value, cls=None):
    cls = np.zeros(len(value), dtype=np.int64) if cls is None else np.asarray(cls)
    values = np.asarray(value, dtype=np.float64)
    return Segments(np.asarray(first), np.asarray(second), cls, np.full(len(values), 0.5)), values


def some_pairs(n, most, rng):
    first, second = np.triu_indices(n, 1)
    chosen = rng.permutation(len(first))[:most]
    return first[chosen], second[chosen]


def coverage(truth, draw, runs, *, share=True, macro=False):
    """The share of intervals that hold the truth, and their mean width."""
    found = [mean_over_pairs(*draw(np.random.default_rng(seed)), macro=macro, share=share) for seed in range(runs)]
    return np.mean([each.low <= truth <= each.high for each in found]), np.mean([x.high - x.low for x in found])


def logistic(n, middle, spread, most=1000):
    """Pairs hold with a chance that depends on both clips' own effects."""
    clips = np.random.default_rng(99).normal(size=(2, 1_000_000))
    truth = expit(middle + spread * clips.sum(axis=0)).mean()

    def draw(rng):
        first, second = some_pairs(n, most, rng)
        effect = rng.normal(size=n)
        chance = expit(middle + spread * (effect[first] + effect[second]))
        return pairwise(first, second, rng.random(len(first)) < chance)

    return truth, draw


def by_classes(classes, n):
    """Classes of different shares, each of n clips with effects of their own; the mean over classes is meant."""
    middles = np.linspace(0, 2.5, classes)
    clips = np.random.default_rng(98).normal(size=(2, 200_000))
    truth = np.mean([expit(middle + clips.sum(axis=0)).mean() for middle in middles])

    def draw(rng):
        parts = []
        for c, middle in enumerate(middles):
            first, second = some_pairs(n, 300, rng)
            effect = rng.normal(size=n)
            holds = rng.random(len(first)) < expit(middle + effect[first] + effect[second])
            parts.append((first + c * n, second + c * n, holds, np.full(len(first), c)))
        return pairwise(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return truth, draw


MODELS = [(0, 0), (0, 0.5), (0, 1.5), (2, 0), (2, 1), (3, 1)]


@pytest.mark.parametrize(("middle", "spread"), [(0, 0), (0, 1.5), (2, 1)])
@pytest.mark.parametrize("n", [20, 60])
def test_intervals_cover_what_they_should(n, middle, spread):
    covered, _ = coverage(*logistic(n, middle, spread), runs=400)
    assert 0.92 <= covered <= 0.985  # 400 runs: a standard error of 0.011


@pytest.mark.slow
@pytest.mark.parametrize(("middle", "spread"), MODELS)
@pytest.mark.parametrize("n", [20, 50, 100, 200])
def test_intervals_cover_93_to_98_percent(n, middle, spread):
    covered, width = coverage(*logistic(n, middle, spread), runs=4000)
    print(f"clips {n}, middle {middle}, spread {spread}: coverage {covered:.4f}, width {width:.3f}")
    assert 0.93 - 0.004 <= covered <= 0.98 + 0.002  # 4,000 runs: a standard error of 0.002 to 0.004


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "n"), [(10, 20), (30, 8), (60, 4)])
def test_means_over_classes_are_covered(classes, n):
    covered, width = coverage(*by_classes(classes, n), runs=2000, macro=True)
    print(f"{classes} classes of {n} clips: coverage {covered:.4f}, width {width:.3f}")
    assert 0.93 - 0.005 <= covered <= 0.98 + 0.003


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("own", [0.0, 3.0])
def test_means_of_real_numbers_are_covered(n, own):
    def draw(rng):
        first, second = some_pairs(n, 1000, rng)
        effect = rng.normal(size=n)
        return pairwise(first, second, 5 + effect[first] + effect[second] + own * rng.normal(size=len(first)))

    covered, _ = coverage(5, draw, runs=2000, share=False)
    print(f"clips {n}, spread of pairs {own}: coverage {covered:.4f}")
    assert 0.93 - 0.005 <= covered <= 0.98 + 0.003


def test_real_numbers_have_the_interval_of_their_variance():
    """A sum of clip effects: the mean over all pairs is twice the effects' mean, whose interval is Student's."""
    rng = np.random.default_rng(0)
    effect = rng.normal(size=60)
    first, second = np.triu_indices(60, 1)
    found = mean_over_pairs(*pairwise(first, second, effect[first] + effect[second]), macro=False, share=False)
    assert found.value == pytest.approx(2 * effect.mean())
    half = 2.0 * 2.001 * effect.std(ddof=1) / 60**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.04)
    assert (found.high - found.low) / 2 >= half


def test_more_pairs_of_the_same_clips_do_not_make_certain_what_depends_on_the_clips():
    rng = np.random.default_rng(1)
    bad = np.arange(30) < 6
    widths = []
    for most in (60, 435):
        first, second = some_pairs(30, most, rng)
        found = mean_over_pairs(*pairwise(first, second, ~(bad[first] | bad[second])), macro=False, share=True)
        widths.append(found.high - found.low)
    assert widths[1] > 0.6 * widths[0]  # Wilson's over pairs would shrink it to 0.37


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_agree_the_interval_is_that_of_the_disjoint_pairs(value):
    first, second = np.triu_indices(30, 1)
    found = mean_over_pairs(*pairwise(first, second, np.full(len(first), value)), macro=True, share=True)
    assert found.value == value
    assert value in (found.low, found.high)
    z = 2.0452  # Student's, 29 degrees of freedom
    assert found.high - found.low == pytest.approx(z**2 / (15 + z**2), rel=1e-3)
    assert found.n == 30


def test_one_pair_and_none():
    one = mean_over_pairs(*pairwise([0], [1], [0.5]), macro=True, share=True)
    assert one.value == 0.5
    assert (one.low, one.high) == pytest.approx((0.0, 1.0), abs=0.01)
    real = mean_over_pairs(*pairwise([0], [1], [3.0]), macro=True, share=False)
    assert real.value == 3.0
    assert np.isnan([real.low, real.high]).all()
    none = mean_over_pairs(*pairwise([], [], []), macro=True, share=True)
    assert np.isnan([none.value, none.low, none.high]).all()
    assert none.n == 0
    infinite = mean_over_pairs(*pairwise([0, 1], [1, 2], [1.0, np.inf]), macro=True, share=False)
    assert infinite.value == np.inf
    assert np.isnan([infinite.low, infinite.high]).all()


def test_the_same_pair_for_two_classes_is_one_observation():
    """Values that agree for both classes say nothing more: the interval is as for one class."""
    rng = np.random.default_rng(2)
    first, second = some_pairs(40, 300, rng)
    value = rng.random(300) < 0.7
    one = mean_over_pairs(*pairwise(first, second, value), macro=True, share=True)
    twice = pairwise(np.tile(first, 2), np.tile(second, 2), np.tile(value, 2), cls=np.repeat([0, 1], 300))
    for macro in (True, False):
        both = mean_over_pairs(*twice, macro=macro, share=True)
        assert (both.value, both.low, both.high) == pytest.approx((one.value, one.low, one.high), abs=2e-4)


def test_classes_count_the_same_in_the_one_mean_and_pairs_in_the_other():
    found = pairwise([0, 0, 1, 3], [1, 2, 2, 4], [1, 1, 1, 0], cls=[0, 0, 0, 5])
    assert mean_over_pairs(*found, macro=True, share=True).value == 0.5
    assert mean_over_pairs(*found, macro=False, share=True).value == 0.75


def test_what_tells_classes_apart_is_no_uncertainty():
    rng = np.random.default_rng(4)
    first, second = some_pairs(40, 300, rng)
    cls, effect = np.repeat([0, 1], 150), rng.normal(size=40)
    value = effect[first] + effect[second]
    for macro in (True, False):
        plain = mean_over_pairs(*pairwise(first, second, value, cls), macro=macro, share=False)
        apart = mean_over_pairs(*pairwise(first, second, value + 10 * cls, cls), macro=macro, share=False)
        assert apart.value == pytest.approx(plain.value + 5)
        assert (apart.low, apart.high) == pytest.approx((plain.low + 5, plain.high + 5))


def test_order_of_pairs_and_of_their_ends_changes_nothing():
    rng = np.random.default_rng(3)
    first, second = some_pairs(25, 200, rng)
    value, cls = rng.random(200), first % 3
    plain = mean_over_pairs(*pairwise(first, second, value, cls), macro=True, share=True)
    order = rng.permutation(200)
    moved = mean_over_pairs(*pairwise(second[order], first[order], value[order], cls[order]), macro=True, share=True)
    assert (plain.value, plain.low, plain.high) == pytest.approx((moved.value, moved.low, moved.high))


def test_groups_of_one_clip_each_are_clips_by_themselves():
    _, draw = logistic(30, 0.5, 1.0)
    found = draw(np.random.default_rng(0))
    alone = mean_over_pairs(*found, macro=False, share=True)
    named = mean_over_pairs(*found, macro=False, share=True, groups=[f"g{i}" for i in range(30)])
    assert (named.low, named.high) == pytest.approx((alone.low, alone.high))
    assert (alone.groups, named.groups, named.n) == (None, 30, alone.n)


def test_one_group_has_no_interval_and_where_all_pairs_hold_groups_stand_for_clips():
    first, second = np.triu_indices(40, 1)
    holds = pairwise(first, second, np.ones(len(first)))
    one = mean_over_pairs(*holds, macro=False, share=True, groups=["a"] * 40)
    assert np.isnan(one.low)
    grouped = mean_over_pairs(*holds, macro=False, share=True, groups=[i // 4 for i in range(40)])
    ten = pairwise(*np.triu_indices(10, 1), np.ones(45))
    assert grouped.low == pytest.approx(mean_over_pairs(*ten, macro=False, share=True).low)


def test_pairs_over_groups_cover_where_clips_of_a_group_are_alike():
    """Ten clips of each of 20 speakers hold together or not; over clips the intervals are far too narrow."""
    truth = expit(0.5 + 1.2 * np.random.default_rng(97).normal(size=(2, 1_000_000)).sum(axis=0)).mean()
    groups = np.arange(200) // 10
    hits = np.zeros(2)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        first, second = some_pairs(200, 600, rng)
        effect = rng.normal(size=20)[groups]
        chance = expit(0.5 + 1.2 * (effect[first] + effect[second]))
        found = pairwise(first, second, rng.random(len(first)) < chance)
        for i, own in enumerate((None, groups)):
            each = mean_over_pairs(*found, macro=False, share=True, groups=own)
            hits[i] += each.low <= truth <= each.high
    assert hits[0] / 150 < 0.7
    assert hits[1] / 150 >= 0.91
