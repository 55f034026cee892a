"""Drawing segments: every pair once and equally likely, the same whatever order the clips come in."""

import numpy as np
import pytest
from avrobust_geometry.convexity.pairs import Identities, draw_segments, unrank_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest


def identities(n, seed=0):
    return Identities([f"clip-{i}" for i in range(n)], seed)


@pytest.mark.parametrize("n", [2, 3, 7, 60])
def test_numbers_of_pairs_are_the_pairs_in_order(n):
    first, second = unrank_pairs(np.arange(n * (n - 1) // 2), n)
    assert np.array_equal(np.stack([first, second]), np.stack(np.triu_indices(n, 1)))


@settings(max_examples=100)
@given(data=st.data(), n=st.one_of(st.integers(2, 2**27), st.just(2**27)))
def test_numbers_of_pairs_are_exact_for_very_many_things(data, n):
    row = data.draw(st.integers(0, n - 2))
    begins, ends = (r * n - r * (r + 1) // 2 for r in (row, row + 1))  # rounding would show at the borders of rows
    number = data.draw(st.one_of(st.just(begins), st.just(ends - 1), st.integers(begins, ends - 1)))
    (i,), (j,) = unrank_pairs(np.array([number]), n)
    i, j = int(i), int(j)
    assert 0 <= i < j < n
    assert i * n - i * (i + 1) // 2 + (j - i - 1) == number


def test_all_pairs_are_given_where_there_are_no_more_than_asked_for():
    members = [np.array([4, 0, 2]), np.array([1]), np.array([], dtype=np.int64), np.arange(5, 10)]
    found = draw_segments(members, "abcd", identities(10), 10)
    pairs = [tuple(sorted(pair)) for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)]
    assert sorted(pairs[:3]) == [(0, 2), (0, 4), (2, 4)]
    assert len(set(pairs)) == len(found) == 3 + 10
    assert found.cls.tolist() == [0] * 3 + [3] * 10


def test_pairs_are_drawn_uniformly_from_all_and_without_replacement():
    counts = np.zeros((12, 12))
    for seed in range(400):
        found = draw_segments([np.arange(12)], "a", identities(12, seed), 20)
        assert len(np.unique(np.stack([found.first, found.second]), axis=1).T) == 20
        counts[np.minimum(found.first, found.second), np.maximum(found.first, found.second)] += 1
    assert chisquare(counts[np.triu_indices(12, 1)]).pvalue > 0.001


def test_ratios_are_uniform_and_independent_of_the_end():
    found = draw_segments([np.arange(300)], "a", identities(300), 20_000)
    assert kstest(found.ratio, "uniform").pvalue > 0.001
    for end in (found.first, found.second):
        assert abs(np.corrcoef(end, found.ratio)[0, 1]) < 0.03
    assert found.ratio.min() > 0
    assert found.ratio.max() < 1
    other = draw_segments([np.arange(300)], "b", identities(300), 20_000)
    assert abs(np.corrcoef(found.ratio[:5000], other.ratio[:5000])[0, 1]) < 0.1


@pytest.mark.parametrize("truncated", [False, True])
def test_what_is_drawn_depends_on_the_ids_and_not_on_their_order(truncated):
    names = [f"clip-{i}" for i in range(40)]
    order = np.random.default_rng(0).permutation(40)
    moved = [names[i] for i in order]
    plain = draw_segments([np.arange(40)], "a", Identities(names, 5), 100, truncated=truncated)
    again = draw_segments([np.arange(40)], "a", Identities(moved, 5), 100, truncated=truncated)
    assert np.array_equal(plain.first, order[again.first])
    assert np.array_equal(plain.second, order[again.second])
    assert np.array_equal(plain.ratio, again.ratio)


def test_a_pair_has_the_same_ratio_whichever_other_clips_are_there():
    everyone = draw_segments([np.arange(30)], "a", identities(30), 1000)
    some = draw_segments([np.arange(3, 20)], "a", identities(30), 1000)
    ratios = dict(zip(zip(everyone.first, everyone.second, strict=True), everyone.ratio, strict=True))
    assert all(ratios[pair] == r for pair, r in zip(zip(some.first, some.second, strict=True), some.ratio, strict=True))


def test_truncated_pairs_are_ordered_and_begin_at_the_first_clips():
    who = Identities([f"{i:02d}" for i in range(10)], 0)
    found = draw_segments([np.arange(10)], "a", who, 14, truncated=True)
    expected = [(a, b) for a in range(10) for b in range(10) if a != b]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected[:14]
    assert len(draw_segments([np.arange(10)], "a", who, 2000, truncated=True)) == 90
