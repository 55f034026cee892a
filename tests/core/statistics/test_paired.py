"""Paired differences: intervals in closed form and by simulation, exact tests against SciPy, Holm by hand; groups."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from avrobust_core.statistics.intervals import Estimate, holm, mean_shares, paired_differences, sign_flip_p


def paired(only_first: int, only_second: int, clips: int) -> np.ndarray:
    same = clips - only_first - only_second
    return np.repeat([1.0, -1.0, 0.0], [only_first, only_second, same])


def one(differences: np.ndarray, **options: Any) -> Estimate:
    (found,) = paired_differences(differences[:, None], **options)
    return found


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_with_one_seed_the_p_value_is_mcnemars_exact_one(only_first: int, only_second: int) -> None:
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert sign_flip_p(paired(only_first, only_second, 100)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), max_size=9))
@settings(max_examples=60, deadline=None)
def test_with_several_seeds_the_p_value_counts_every_flip(differences: list[int]) -> None:
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert sign_flip_p(differences) == pytest.approx(expected, rel=1e-9)


def test_the_p_value_of_many_clips_is_that_of_the_normal_approximation_and_quick() -> None:
    differences = np.repeat([3, -3, 2, -2, 1, -1], [4000, 3900, 3000, 3050, 5000, 4900])
    z = abs(differences.sum()) / math.sqrt((differences.astype(float) ** 2).sum())
    assert sign_flip_p(differences) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert sign_flip_p(np.ones(20_000, dtype=int)) < 1e-300


def test_holm_is_that_of_a_hand_computed_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.02, 0.5]) == pytest.approx([1.0, 0.06, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize(("only_first", "only_second", "clips"), [(0, 0, 50), (4, 0, 50), (50, 0, 50), (120, 60, 1000)])
def test_the_interval_is_agresti_and_mins(only_first: int, only_second: int, clips: int) -> None:
    found = one(paired(only_first, only_second, clips))
    # Agresti and Min (2005): half a clip more in each of the four cells, then Wald's interval.
    b, c, n = only_first + 0.5, only_second + 0.5, clips + 2
    half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (found.method, found.n) == ("agresti-min", clips)
    assert found.value == pytest.approx((only_first - only_second) / clips)
    assert found.low == pytest.approx(max(-1, (b - c) / n - half), rel=1e-6)
    assert found.high == pytest.approx(max(found.value, min(1, (b - c) / n + half)), rel=1e-6)
    assert found.low < found.high


def test_the_same_accuracies_on_other_clips_are_less_certain() -> None:
    """Pairing is what the interval is for: it is narrow where the two agree on most clips."""
    agreeing, apart = one(paired(30, 10, 500)), one(paired(180, 160, 500))
    assert agreeing.value == apart.value
    assert agreeing.high - agreeing.low < 0.5 * (apart.high - apart.low)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_swapping_the_sides_changes_the_sign_of_all(only_first: int, only_second: int, seeds: int) -> None:
    differences = paired(only_first, only_second, 61) / seeds
    there, back = one(differences), one(-differences)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)
    assert sign_flip_p(differences * seeds) == sign_flip_p(-differences * seeds)


def test_no_column_depends_on_the_others() -> None:
    generator = np.random.default_rng(0)
    columns = np.stack([generator.integers(-1, 2, 300), np.zeros(300), generator.integers(-1, 2, 300)], axis=1)
    assert paired_differences(columns) == [one(column) for column in columns.T]


def test_without_clips_there_is_nothing_to_measure() -> None:
    for (found,) in (mean_shares(np.zeros((0, 1))), paired_differences(np.zeros((0, 1)))):
        assert (found.n, found.method) == (0, "none")
        assert math.isnan(found.value)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("clips", "first", "second"), [(24, 0.05, 0.05), (100, 0.02, 0.01), (200, 0.1, 0.02), (400, 0.2, 0.15)]
)
def test_the_interval_covers_as_often_as_it_says(clips: int, first: float, second: float, seeds: int) -> None:
    generator = np.random.default_rng(clips + seeds)
    simulations, hits = 800, 0
    for _ in range(simulations):
        drawn = generator.choice([1, -1, 0], p=[first, second, 1 - first - second], size=(clips, seeds))
        if seeds > 1:  # a clip's seeds resemble one another
            drawn = np.where(generator.random((clips, seeds)) < 0.5, drawn[:, :1], drawn)
        found = one(drawn.mean(axis=1))
        hits += found.low <= first - second <= found.high
    assert hits / simulations >= 0.925
    if clips >= 200:
        assert hits / simulations <= 0.975


@pytest.mark.slow
def test_the_p_value_rejects_a_true_hypothesis_no_more_often_than_its_level() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for _ in range(1500):
        shared = generator.random((120, 1)) < 0.3  # hard clips, for both sides alike
        first, second = (np.where(shared, generator.random((120, 3)) < 0.4, True) for _ in range(2))
        rejected += sign_flip_p(first.sum(axis=1) - second.sum(axis=1)) < 0.05
    assert 0.02 <= rejected / 1500 <= 0.065


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 6)), max_size=14))
@settings(max_examples=60, deadline=None)
def test_with_groups_the_p_value_counts_every_flip_of_whole_groups(clips: list[tuple[int, int]]) -> None:
    differences, groups = [d for d, _ in clips], [g for _, g in clips]
    totals = [sum(d for d, g in clips if g == group) for group in set(groups)]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, totals, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(totals))
    ]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert sign_flip_p(differences, groups=groups) == pytest.approx(expected, rel=1e-9)


def test_clips_of_one_group_are_one_piece_of_evidence() -> None:
    differences, groups = np.repeat([1, 1, 1, 1, -1], 40), np.repeat(np.arange(5), 40)
    assert sign_flip_p(differences) < 1e-12
    assert sign_flip_p(differences, groups=groups) == pytest.approx(12 / 32)
    clips, grouped = one(differences), one(differences, groups=groups)
    assert (clips.groups, grouped.groups) == (None, 5)
    assert clips.low > 0.45
    assert grouped.low < 0 < grouped.high


def test_groups_that_agree_within_are_worth_one_clip_each() -> None:
    of_groups = paired(9, 4, 40)
    found = one(np.repeat(of_groups, 5), groups=np.repeat(np.arange(40), 5))
    alone = one(of_groups)
    assert found.high - found.low < 1.1 * (alone.high - alone.low)
    assert found.low < alone.low < alone.high < found.high, "Student's quantile, and one degree less"


RUNS = 4000
"""So many that a coverage of 94 %, which is what small samples have, is told from 93."""


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 8, 50])
def test_differences_over_groups_cover_and_their_test_holds_its_level(size: int) -> None:
    """A group's clips prefer the same side: in all but a tenth of the clips, or in none."""
    generator = np.random.default_rng(size)
    of_clip = np.arange(20 * size) // size
    covered = rejected = 0
    for _ in range(RUNS):
        side = generator.choice([1, -1, 0], p=[0.3, 0.3, 0.4], size=20)
        differences = np.where(generator.random(20 * size) < 0.1, 0, np.repeat(side, size))
        found = one(differences.astype(float), groups=of_clip)
        covered += found.low <= 0 <= found.high
        rejected += sign_flip_p(differences, groups=of_clip) < 0.05
    assert covered / RUNS >= 0.93
    assert rejected / RUNS <= 0.065
