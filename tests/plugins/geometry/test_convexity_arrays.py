"""Convexity of arrays: linear heads, two rings against the integral, and what counts as what."""

import subprocess
import sys

import avrobust_geometry
import numpy as np
import pytest
import torch
from avrobust_geometry import convexity
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from avrobust_core import AvrobustError


def linear(classes, width, seed):
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(width, classes)), rng.normal(size=classes)
    return lambda x: x @ weight + bias


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), width=st.integers(1, 8))
def test_a_linear_head_is_convex_whatever_the_labels_are(seed, classes, width):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(60, width))
    found = convexity(points, rng.integers(classes, size=60), linear(classes, width, seed), pairs=50)
    known = [value for value in found.per_class["conditional"].values() if value == value]
    assert set(known) <= {1.0}
    if known:
        assert found.values["conditional"].value == 1
        assert found.values["conditional-micro"].value == 1


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_so_is_one_with_thresholds(seed):
    rng = np.random.default_rng(seed)
    found = convexity(rng.normal(size=(50, 4)), rng.random((50, 3)) < 0.4, linear(3, 4, seed), pairs=50)
    assert {x for x in found.per_class["conditional"].values() if x == x} <= {1.0}


RINGS = {"inner": 1.0, "boundary": 1.5, "outer": 2.0}


def rings(n, seed):
    """Class 0 in the disc of radius 1, class 1 on the circle of radius 2; told apart by the radius 1.5."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 2 * n)
    radius = np.concatenate([RINGS["inner"] * rng.random(n) ** 0.5, np.full(n, RINGS["outer"])])
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), np.repeat([0, 1], n)


def by_radius(x):
    radius = np.linalg.norm(x, axis=1)
    return np.stack([RINGS["boundary"] - radius, radius - RINGS["boundary"]], axis=1)


def chord_share():
    """How likely a uniform point of a chord between two uniform points of the outer circle is beyond the boundary.

    |r a + (1 - r) b|^2 = R^2 (1 - 2 r (1 - r) (1 - cos t)), t the angle between both: for a given t the ratios r that
    are too deep lie between two roots, sqrt(1 - 2 d / (1 - cos t)) apart, d = 1 - (boundary / R)^2. The mean of
    that over t is 1 - sqrt(d).
    """
    return (1 - (RINGS["boundary"] / RINGS["outer"]) ** 2) ** 0.5


def test_the_share_of_chords_is_what_points_at_random_say():
    t, r = (qmc.Sobol(2, seed=0).random_base2(16) * [np.pi, 1]).T
    beyond = 2 * r * (1 - r) * (1 - np.cos(t)) < 1 - (RINGS["boundary"] / RINGS["outer"]) ** 2
    assert beyond.mean() == pytest.approx(chord_share(), abs=1e-3)


def test_two_rings_have_the_computed_convexity():
    expected = chord_share()
    assert 0.4 < expected < 0.7
    within = []
    for seed in range(20):
        found = convexity(*rings(60, seed), by_radius, pairs=500, seed=seed, resamples=10)
        assert found.per_class["conditional"]["0"] == 1
        outer = found.per_class["conditional"]["1"]
        whole = found.values["conditional"]
        assert whole.value == pytest.approx((1 + outer) / 2)
        within.append(whole.low <= (1 + expected) / 2 <= whole.high)
    assert sum(within) >= 18
    exact = convexity(*rings(2000, 1), by_radius, pairs=40_000)
    assert exact.per_class["conditional"]["1"] == pytest.approx(expected, abs=0.008)


def test_ten_points_of_chords_have_the_computed_mean():
    limit = 1 - (RINGS["boundary"] / RINGS["outer"]) ** 2
    steps = np.arange(1, 11) / 11
    angle = (np.arange(20_000) + 0.5) / 20_000 * np.pi
    expected = (2 * steps[:, None] * (1 - steps[:, None]) * (1 - np.cos(angle)) < limit).mean()
    found = convexity(*rings(2000, 3), by_radius, methods=["euclidean"], euclidean_pairs=10_000)
    assert found.per_class["euclidean"]["1"] == pytest.approx(expected, abs=0.005)
    assert "conditional" not in found.values


def test_failures_are_where_chords_are_deepest():
    where = convexity(*rings(100, 0), by_radius).details["segments"]["failures_by_nearness"]
    shares = np.array(where["failed"]) / where["looked"]
    assert shares[0] < 0.1
    assert (np.diff(shares[:4]) > 0).all()
    assert sum(where["looked"]) == 2000


def test_the_ends_are_those_that_the_model_gets_right():
    points = np.arange(10.0)[:, None]

    def classify(x):  # class 1 beyond 4.5, but for a hole from 6.5 to 7.5
        inside = (x[:, 0] > 4.5) & ~((x[:, 0] > 6.5) & (x[:, 0] < 7.5))
        return np.stack([~inside, inside], axis=1).astype(np.float64)

    found = convexity(points, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), classify, pairs=100_000)
    assert found.per_class["recall"] == {"0": 1.0, "1": 4 / 6}
    assert np.isnan(found.per_clip["conditional"][[4, 7]]).all()
    assert not np.isnan(found.per_clip["conditional"][[5, 6, 8, 9]]).any()
    assert found.details["segments"]["segments"] == 6 + 6
    assert found.values["recall"].value == pytest.approx((1 + 4 / 6) / 2)
    assert found.per_clip["conditional"][:4].tolist() == [1.0] * 4


def test_per_clip_and_per_class_are_means_of_the_same_segments():
    found = convexity(*rings(30, 4), by_radius, pairs=200)
    everyone = convexity(*rings(30, 4), by_radius, pairs=435)
    outer = everyone.per_clip["conditional"][30:]
    assert outer.mean() == pytest.approx(everyone.per_class["conditional"]["1"])  # all clips are in as many segments
    assert 0 < found.per_class["conditional"]["1"] < 1
    assert np.isfinite(found.per_clip["margin"]).all()


def test_the_margin_is_the_smallest_at_the_point_and_both_ends():
    found = convexity(np.array([[1.0], [3.0], [7.0], [-1.0], [-2.0]]), np.array([1, 1, 1, 0, 0]), lambda x: x * [-1, 1])
    # The margin of class 1 is 2 x: along a segment the lower end's.
    assert found.per_class["margin"] == pytest.approx({"0": 2.0, "1": (2 + 2 + 6) / 3})
    assert found.per_clip["margin"].tolist() == pytest.approx([2.0, 4.0, 4.0, 2.0, 2.0])
    bent = convexity(*rings(60, 0), by_radius)
    assert bent.per_class["margin"]["1"] < 0.9 * 2 * (RINGS["outer"] - RINGS["boundary"])


def test_a_tie_is_not_of_the_class():
    found = convexity(
        np.array([[-1.0], [1.0], [-1.5], [1.5]]),
        np.zeros(4, dtype=int),
        lambda x: np.stack([abs(x[:, 0]) > 0.99, 0 * x[:, 0]], 1),
    )
    assert found.per_class["recall"]["0"] == 1
    assert found.per_class["conditional"]["0"] < 1


def test_the_reference_counts_all_positives_from_the_first_clips_at_a_probability_of_a_tenth():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 1)) * 3, np.ones((60, 1), dtype=bool)
    ids = [f"{i:03d}" for i in range(60)]
    found = convexity(points, labels, lambda x: x - 1, methods=["reference"], ids=ids)
    assert found.details["reference"]["segments"] == 2000
    anchors = points[:34, 0]  # 2,000 pairs of 59 each
    shares = [
        ((r * a + (1 - r) * points[:, 0] - 1) >= np.log(1 / 9)).mean() for a in anchors for r in np.linspace(0, 1, 201)
    ]
    assert found.values["reference"].value == pytest.approx(np.mean(shares), abs=0.04)
    single = convexity(
        np.ones((4, 1)), np.zeros(4, dtype=int), lambda x: np.tile([-2.1, 0.0], (len(x), 1)), methods=["reference"]
    )
    assert single.values["reference"].value == 1  # p = 1 / (1 + e^2.1) = .109
    single = convexity(
        np.ones((4, 1)), np.zeros(4, dtype=int), lambda x: np.tile([-2.3, 0.0], (len(x), 1)), methods=["reference"]
    )
    assert single.values["reference"].value == 0


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_neither_batches_nor_order_nor_kind_of_array_matter(batch_size):
    points, labels = rings(25, 5)
    ids = [f"clip-{i}" for i in range(50)]
    plain = convexity(points, labels, by_radius, ids=ids, pairs=100)
    order = np.random.default_rng(0).permutation(50)

    def by_tensor(x):
        radius = x.norm(dim=1)
        return torch.stack([RINGS["boundary"] - radius, radius - RINGS["boundary"]], dim=1)

    moved = convexity(
        torch.from_numpy(points[order]),
        torch.from_numpy(labels[order]),
        by_tensor,
        ids=[ids[i] for i in order],
        pairs=100,
        batch_size=batch_size,
    )
    for name, estimate in plain.values.items():
        assert moved.values[name].value == pytest.approx(estimate.value)
        assert moved.values[name].low == pytest.approx(estimate.low, abs=0.03)
    for name, values in plain.per_clip.items():
        assert np.allclose(values[order], moved.per_clip[name], equal_nan=True)


def test_classes_of_fewer_than_two_such_clips_are_named_and_left_out():
    points = np.array([[1.0], [2.0], [-1.0], [5.0], [6.0]])
    logits = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])

    def classify(x):
        return np.tile([9.0, 0, 0], (len(x), 1))

    found = convexity(points, np.array([0, 0, 1, 2, 2]), classify, logits=logits, classes=["one", "two", "three"])
    assert found.details["classes_without_segments"] == ["two", "three"]
    assert np.isnan([found.per_class["conditional"]["two"], found.per_class["conditional"]["three"]]).all()
    assert found.values["conditional"].value == 1
    assert found.values["conditional"].n == 2
    assert found.per_class["recall"] == {"one": 1.0, "two": 1.0, "three": 0.5}


def test_no_segment_at_all_is_no_error():
    found = convexity(np.eye(3), np.arange(3), lambda x: np.asarray(x))
    assert np.isnan(found.values["conditional"].value)
    assert np.isnan(found.values["margin"].value)
    assert found.values["recall"].value == 1


def test_what_is_wrong_is_said():
    points, labels = rings(4, 0)
    with pytest.raises(ValueError, match="methods: there is no cubic"):
        convexity(points, labels, by_radius, methods=["cubic"])
    with pytest.raises(ValueError, match="whole numbers from 0 to 1"):
        convexity(points, labels + 1, by_radius)
    with pytest.raises(ValueError, match="an id occurs twice"):
        convexity(points, labels, by_radius, ids=["a"] * 8)
    with pytest.raises(ValueError, match="ids are 1"):
        convexity(points, labels, by_radius, ids=["a"])
    with pytest.raises(ValueError, match=r"classify returned shape \(8,\)"):
        convexity(points, labels, lambda x: x[:, 0])
    with pytest.raises(ValueError, match="labels have shape"):
        convexity(points, labels[:3], by_radius)
    with pytest.raises(ValueError, match="floats"):
        convexity(labels, labels, by_radius)
    with pytest.raises(ValueError, match="at least 1"):
        convexity(points, labels, by_radius, pairs=0)
    with pytest.raises(ValueError, match="thresholds have shape"):
        convexity(points, np.eye(2, dtype=int)[labels], by_radius, thresholds=[0.0])
    with pytest.raises(ValueError, match="logits are not finite for clip 0"):
        convexity(points, labels, by_radius, logits=np.full((8, 2), np.nan))
    with pytest.raises(AvrobustError, match="not finite at points between clips"):
        convexity(points, labels, lambda x: by_radius(x) * np.nan, logits=by_radius(points))


def test_importing_the_package_loads_neither_torch_nor_the_functions():
    code = "import sys, avrobust_geometry; print('torch' in sys.modules, 'numpy' in sys.modules)"
    path = str(avrobust_geometry.__path__[0]).rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert callable(avrobust_geometry.convexity)
    assert callable(avrobust_geometry.graph_convexity)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_arrays_of_either_order_of_bytes_are_classified(dtype: str) -> None:
    generator = np.random.default_rng(0)
    points, labels, matrix = generator.normal(size=(30, 4)), np.arange(30) % 2, generator.normal(size=(4, 2))
    given = points.astype(dtype)
    plain = convexity(given.astype(np.float64), labels, lambda x: np.asarray(x, dtype=np.float64) @ matrix).values
    found = convexity(given, labels, lambda x: np.asarray(x, dtype=np.float64) @ matrix).values
    assert found["recall"] == plain["recall"]
    assert found["conditional"].value == pytest.approx(plain["conditional"].value, abs=0.01)
    with pytest.raises(ValueError, match="give floats"):
        convexity(points.astype(np.longdouble), labels, lambda x: x @ matrix)
