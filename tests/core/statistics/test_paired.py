"""Paired differences: intervals in closed form and by simulation, exact tests against SciPy, Holm by hand; groups."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from avrobust_core.statistics.intervals import holm, paired_difference, share, sign_flip_p


def paired(only_first: int, only_second: int, clips: int) -> np.ndarray:
    same = clips - only_first - only_second
    return np.repeat([1.0, -1.0, 0.0], [only_first, only_second, same])


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60)
def test_with_one_seed_the_p_value_is_mcnemars_exact_one(only_first: int, only_second: int) -> None:
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert sign_flip_p(paired(only_first, only_second, 100)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), max_size=9))
@settings(max_examples=60)
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
def test_the_interval_squares_and_adds_wilsons_ends(only_first: int, only_second: int, clips: int) -> None:
    found = paired_difference(paired(only_first, only_second, clips))
    # Newcombe (1998), Zou and Donner (2008): roots of both shares' squared distances, which the table correlates.
    shares = [only_first / clips, only_second / clips]
    ends = [proportion_ends(hits, clips) for hits in (only_first, only_second)]
    down = [share - low for share, (low, _) in zip(shares, ends, strict=True)]
    up = [high - share for share, (_, high) in zip(shares, ends, strict=True)]
    odds = [share / (1 - share) if share < 1 else 0 for share in shares]
    together = 2 * math.sqrt(odds[0] * odds[1])
    value = shares[0] - shares[1]
    assert (found.method, found.n) == ("square-and-add", clips)
    assert found.value == pytest.approx(value)
    low = value - math.sqrt(down[0] ** 2 + up[1] ** 2 + together * down[0] * up[1])
    assert found.low == pytest.approx(max(-1, low), rel=1e-6)
    high = value + math.sqrt(up[0] ** 2 + down[1] ** 2 + together * up[0] * down[1])
    assert found.high == pytest.approx(min(1, high), rel=1e-6)
    assert found.low < found.high


def proportion_ends(hits: int, n: int) -> tuple[float, float]:
    found = binomtest(hits, n).proportion_ci(method="wilson")
    return found.low, found.high


CLIPS_AND_SHARES = [(20, 0.1), (24, 0.1), (100, 0.02), (200, 0.02), (200, 0.05), (1000, 0.01)]


@pytest.mark.parametrize(("clips", "first"), CLIPS_AND_SHARES)
def test_a_difference_to_one_side_only_is_covered(clips: int, first: float) -> None:
    """Exactly, summed over all counts; half a clip in each cell (Agresti and Min) covers .86 for 100 clips at 2 %."""
    found = [paired_difference(paired(hits, 0, clips)) for hits in range(clips + 1)]
    chances = binom.pmf(np.arange(clips + 1), clips, first)
    covered = sum(chance for chance, each in zip(chances, found, strict=True) if each.low <= first <= each.high)
    assert covered >= 0.93


def test_the_same_accuracies_on_other_clips_are_less_certain() -> None:
    """Pairing is what the interval is for: it is narrow where the two agree on most clips."""
    agreeing, apart = paired_difference(paired(30, 10, 500)), paired_difference(paired(180, 160, 500))
    assert agreeing.value == apart.value
    assert agreeing.high - agreeing.low < 0.5 * (apart.high - apart.low)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 3))
@settings(max_examples=30)
def test_swapping_the_sides_changes_the_sign_of_all(only_first: int, only_second: int, seeds: int) -> None:
    differences = paired(only_first, only_second, 61) / seeds
    there, back = paired_difference(differences), paired_difference(-differences)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)
    assert sign_flip_p(differences * seeds) == sign_flip_p(-differences * seeds)


def test_without_clips_there_is_nothing_to_measure() -> None:
    for found in (share(np.zeros(0)), paired_difference(np.zeros(0))):
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
        found = paired_difference(drawn.mean(axis=1))
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
@settings(max_examples=60)
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
    clips, grouped = paired_difference(differences), paired_difference(differences, groups=groups)
    assert (clips.groups, grouped.groups) == (None, 5)
    assert clips.low > 0.45
    assert grouped.low < 0 < grouped.high


def test_groups_that_agree_within_are_worth_one_clip_each() -> None:
    of_groups = paired(9, 4, 40)
    found = paired_difference(np.repeat(of_groups, 5), groups=np.repeat(np.arange(40), 5))
    alone = paired_difference(of_groups)
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
        found = paired_difference(differences.astype(float), groups=of_clip)
        covered += found.low <= 0 <= found.high
        rejected += sign_flip_p(differences, groups=of_clip) < 0.05
    assert covered / RUNS >= 0.93
    assert rejected / RUNS <= 0.065


def clustered_pairs(
    generator: np.random.Generator, first: float, second: float, correlation: float, groups: int, size: int
) -> np.ndarray:
    """(groups * size,) differences; a group's chances are of a Dirichlet distribution."""
    chances = np.tile([first, second, 1 - first - second], (groups, 1))
    if correlation:
        drawn = np.maximum(generator.gamma(chances * (1 / correlation - 1)), 1e-300)
        chances = drawn / drawn.sum(axis=1, keepdims=True)
    bounds = np.repeat(chances[:, :2].cumsum(axis=1), size, axis=0)
    return np.array([1.0, -1.0, 0.0])[(generator.random((groups * size, 1)) > bounds).sum(axis=1)]


def covered_in_groups(
    generator: np.random.Generator, first: float, second: float, correlation: float, groups: int, size: int, runs: int
) -> float:
    of_clip, held = np.arange(groups * size) // size, 0
    for _ in range(runs):
        found = paired_difference(clustered_pairs(generator, first, second, correlation, groups, size), groups=of_clip)
        held += found.low <= first - second + 1e-12 and first - second - 1e-12 <= found.high
    return held / runs


def test_a_rare_difference_in_few_groups_is_covered() -> None:
    """2 % of the clips, all to one side, in 20 groups of 50: Agresti and Min's with a design effect covers .75."""
    assert covered_in_groups(np.random.default_rng(0), 0.02, 0.0, 0.3, 20, 50, runs=300) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 20, 100])
@pytest.mark.parametrize("size", [5, 50])
def test_differences_over_groups_cover_rare_ones_too(groups: int, size: int) -> None:
    generator = np.random.default_rng([groups, size])
    for correlation in (0.0, 0.1, 0.3, 0.7):
        for first, second in ((0.01, 0.01), (0.02, 0.0), (0.05, 0.02), (0.1, 0.0), (0.1, 0.1), (0.3, 0.1)):
            case = (first, second, correlation, groups, size)
            covered = covered_in_groups(generator, *case, runs=200)
            if covered < 0.96:  # of many cases one looks bad by chance
                covered = covered_in_groups(generator, *case, runs=1500)
            assert covered >= 0.93, case


def test_what_all_groups_show_alike_stays_sure_where_one_side_never_wins() -> None:
    """One attack breaks a tenth of each speaker's clips more than another, and none less."""
    differences = np.tile(paired(5, 0, 50), 20)
    found = paired_difference(differences, groups=np.arange(1000) // 50)
    assert 0.05 < found.low < found.high < 0.18
