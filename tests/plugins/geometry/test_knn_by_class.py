"""Distances by class are those of a brute force over the class and over the rest, for one label or several."""

import numpy as np
import pytest
import torch
from avrobust_geometry.knn import nearest_by_class, tiles
from hypothesis import given, settings
from hypothesis import strategies as st


def brute(points, labels, k, reference, known, own):
    """Pairs, r_k inside, r_k outside, and both counts."""
    pairs = np.argwhere(labels) if labels.ndim == 2 else np.stack([np.arange(len(labels)), labels], axis=1)
    lines = []
    for point, cls in pairs:
        line = np.sqrt(((reference.astype(np.float64) - points[point]) ** 2).sum(axis=1))
        has = known[:, cls] if known.ndim == 2 else known == cls
        there = np.arange(len(reference)) != own[point]
        inside, outside = np.sort(line[has & there]), np.sort(line[~has & there])
        radii = [part[k - 1] if len(part) >= k else np.nan for part in (inside, outside)]
        lines.append([*radii, len(inside), len(outside)])
    return pairs, np.array(lines).reshape(-1, 4)


def agree(found, expected):
    pairs, lines = expected
    np.testing.assert_array_equal(np.stack([found.clip, found.cls], axis=1), pairs.reshape(-1, 2))
    np.testing.assert_allclose(found.same, lines[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found.other, lines[:, 1], rtol=1e-12)
    np.testing.assert_array_equal(found.n_same, lines[:, 2])
    np.testing.assert_array_equal(found.n_other, lines[:, 3])


@settings(max_examples=80)
@given(
    n=st.integers(2, 80),
    m=st.integers(1, 80) | st.none(),
    several=st.booleans(),
    classes=st.integers(1, 6),
    k=st.integers(1, 12),
    lattice=st.booleans(),
    far=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_set_agrees_with_brute_force(n, m, several, classes, k, lattice, far, seed):
    rng = np.random.default_rng(seed)

    def draw(size):
        points = rng.integers(3, size=(size, 3)) if lattice else rng.normal(size=(size, 3))
        # Two heaps so far apart that float32 products see no distances within them.
        offset = 1e5 * rng.integers(2, size=(size, 1)) if far else 0
        labels = rng.random((size, classes)) < 0.4 if several else rng.integers(-1, classes, size=size)
        return (points + offset).astype(np.float32), labels

    points, labels = draw(n)
    reference, known = (points, labels) if m is None else draw(m)
    own = np.arange(n) if m is None else rng.integers(-1, m, size=n)
    apart = {} if m is None else {"reference": reference, "reference_labels": known, "exclude": own}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", 12)
        patch.setattr("avrobust_geometry.knn.by_class.PAIRS", 7)
        found = nearest_by_class(points, labels, k, **apart)
    agree(found, brute(points, labels, k, reference, known, own))
    assert found.report["short_same"] == np.isnan(found.same).sum()
    assert found.report["duplicates"] == (found.same == 0).sum()


def test_one_label_per_point_is_several_labels_of_which_each_point_has_one():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(200, 5)), rng.integers(4, size=200)
    one = nearest_by_class(torch.from_numpy(points), labels, 5)
    several = nearest_by_class(points, labels[:, None] == np.arange(4), 5)
    for name in ("clip", "cls", "same", "other", "n_same", "n_other"):
        np.testing.assert_array_equal(getattr(one, name), getattr(several, name))


def test_the_numbers_of_classes_mean_nothing():
    rng = np.random.default_rng(1)
    points, labels = rng.normal(size=(150, 4)), rng.integers(3, size=150)
    plain = nearest_by_class(points, labels, 3)
    renamed = nearest_by_class(points, np.array([700, -5, 12])[labels], 3)
    np.testing.assert_array_equal(plain.same, renamed.same)
    np.testing.assert_array_equal(plain.other, renamed.other)


def test_a_point_whose_own_row_has_other_labels_is_left_out_of_the_others_count():
    points = np.arange(4.0)[:, None]
    found = nearest_by_class(
        points[:1], np.array([0]), 1, reference=points, reference_labels=np.array([1, 0, 1, 1]), exclude=[0]
    )
    assert (found.n_same[0], found.n_other[0]) == (1, 2)
    assert (found.same[0], found.other[0]) == (1, 2)


def test_points_without_labels_are_in_no_pair():
    points = np.random.default_rng(2).normal(size=(6, 2))
    labels = np.zeros((6, 3), dtype=bool)
    assert len(nearest_by_class(points, labels, 1).clip) == 0
    labels[4, 1] = True
    found = nearest_by_class(points, labels, 1)
    assert (found.clip.tolist(), found.cls.tolist(), found.n_same.tolist(), found.n_other.tolist()) == (
        [4],
        [1],
        [0],
        [5],
    )
    assert np.isnan(found.same[0])


@pytest.mark.parametrize("several", [False, True])
def test_beyond_what_is_affordable_a_subsample_stands_in_and_counts_are_its_own(several):
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=2000)
    points = rng.normal(size=(2000, 3)) + labels[:, None]
    given_labels = labels[:, None] == np.arange(2) if several else labels
    whole = nearest_by_class(points, given_labels, 10)
    part = nearest_by_class(points, given_labels, 10, most=2000 * 500, seed=1)
    assert whole.report["subsampled"] is None
    assert (part.report["reference"], part.report["subsampled"]) == (500, 2000)
    # 500 rows, less the point itself where it is among them.
    assert set((part.n_same + part.n_other).tolist()) == {499, 500}
    # Every fourth row is there, so that the k-th of them is about the 4 k-th of all, by class as in the whole.
    ratio = np.log(part.n_other / part.n_same) - np.log(whole.n_other / whole.n_same)
    assert abs(ratio).max() < 0.25
    dimension = 3
    change = dimension * (np.log(part.same / whole.same))
    assert abs(np.median(change) - np.log(4)) < 0.2
    again = nearest_by_class(points, given_labels, 10, most=2000 * 500, seed=1)
    np.testing.assert_array_equal(part.same, again.same)
    assert (nearest_by_class(points, given_labels, 10, most=2000 * 500, seed=2).same != part.same).any()


def test_more_neighbours_than_there_are_rows_take_no_memory():
    points = np.random.default_rng(0).normal(size=(60, 3))
    labels = np.arange(60) % 2
    found = nearest_by_class(points, labels, 10**9)
    assert np.isnan(found.same).all()
    assert np.isnan(found.other).all()
    assert found.report["k"] == 10**9
    assert found.report["short_same"] == found.report["short_other"] == 60
