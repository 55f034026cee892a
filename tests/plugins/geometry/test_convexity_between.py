"""Segments between classes, and numbers per unit of length: half-planes, strips, an XOR, a hole, scales."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from avrobust_geometry import convexity
from avrobust_geometry.convexity.lengths import Scale
from avrobust_geometry.convexity.pairs import Identities, Segments, draw_between, draw_segments


def strips(*edges):
    """A classifier of the line: class i between the edges i - 1 and i."""
    ends = np.array([-np.inf, *edges, np.inf])

    def classify(x):
        depth = np.stack([np.minimum(x[:, 0] - low, high - x[:, 0]) for low, high in pairwise(ends)])
        return depth.T.clip(-1e6, 1e6)

    return classify


def right(labels, classes):
    return [np.flatnonzero(labels == c) for c in range(classes)]


def names(count):
    return tuple(map(str, range(count)))


def test_two_half_planes_are_left_where_the_segment_crosses_the_border():
    rng = np.random.default_rng(0)
    normal, bias = np.array([2.0, -1.0, 0.5]), 0.3
    points = rng.normal(size=(50, 3))
    side = points @ normal + bias
    labels = (side > 0).astype(int)
    found = convexity(
        points, labels, lambda x: np.stack([-(x @ normal + bias), x @ normal + bias], 1), methods=["between"], pairs=300
    )
    drawn = draw_between(right(labels, 2), names(2), Identities(names(50), 0), 300)
    crossing = side[drawn.first] / (side[drawn.first] - side[drawn.second])
    counted = np.array([((np.arange(10) + u) / 10 < t).mean() for u, t in zip(drawn.ratio, crossing, strict=True)])
    for c in (0, 1):
        assert found.per_class["kept"][str(c)] == pytest.approx(counted[drawn.cls == c].mean())
        assert found.per_class["kept"][str(c)] == pytest.approx(crossing[drawn.cls == c].mean(), abs=0.01)
    assert found.values["kept"].value == pytest.approx(
        (found.per_class["kept"]["0"] + found.per_class["kept"]["1"]) / 2
    )
    assert found.values["third-class"].value == 0
    of_first = counted[drawn.first == drawn.first[0]].mean()
    assert found.per_clip["kept"][drawn.first[0]] == pytest.approx(of_first)


def test_a_strip_between_two_classes_is_the_third_class_on_the_way():
    points = np.array([[-3.0], [-2.0], [0.0], [0.2], [2.0], [4.0]])
    found = convexity(points, np.array([0, 0, 1, 1, 2, 2]), strips(-1, 1), methods=["between"])
    # Of the four pairs of each outer class, two are with the middle one.
    assert found.per_class["third-class"] == {"0": 0.5, "1": 0.0, "2": 0.5}
    assert found.details["between"]["segments"] == 3 * 8
    assert found.details["between"]["clips_put_through"] == 10 * 3 * 8
    far = convexity(
        np.array([[-3.0], [3.0]]), np.array([0, 2]), strips(-1, 1), methods=["between"], classes=list("abc")
    )
    assert far.per_class["kept"]["a"] == pytest.approx(1 / 3, abs=0.1)
    assert far.details["between"]["classes_without_segments"] == ["b"]
    assert np.isnan(far.values["kept-length"].value)  # no two clips of a class, no unit


def test_an_xor_changes_hands_at_the_middle_of_every_side():
    corners = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    found = convexity(
        np.repeat(corners, 3, axis=0),
        np.repeat([0, 0, 1, 1], 3),
        lambda x: np.stack([x[:, 0] * x[:, 1], -x[:, 0] * x[:, 1]], 1),
        methods=["between", "interpolation"],
    )
    assert found.per_clip["kept"].tolist() == [0.5] * 12
    assert found.values["kept"].value == 0.5
    assert found.values["third-class"].value == 0
    # Of the 15 pairs of a class, 9 lie on opposite corners and 6 on one; the sides are 2.
    unit = 9 / 15 * 8**0.5
    assert found.values["kept-length"].value == pytest.approx(0.5 * 2 / unit)
    assert found.details["segments"]["units"] == {"all": pytest.approx(unit)}


def test_a_tie_with_the_other_class_is_no_third_one():
    def classify(x):  # 0 and 1 are tied from -1 to 1
        return np.stack([-x[:, 0].clip(1, None), x[:, 0].clip(None, -1), np.full(len(x), -9.0)], 1)

    points = np.array([[-2.0], [2.0]])
    logits = np.array([[1.0, 0, 0], [0, 1, 0]])
    found = convexity(points, np.array([0, 1]), classify, logits=logits, methods=["between"])
    assert found.values["third-class"].value == 0
    assert found.per_class["kept"]["0"] < 0.4


HOLE = 1.0
"""Class 1 lies beyond this radius of the line, class 0 inside."""


def beyond(x):
    return np.stack([HOLE - abs(x[:, 0]), abs(x[:, 0]) - HOLE], 1)


def around_the_hole(clips, seed):
    rng = np.random.default_rng(seed)
    outer = rng.uniform(1, 3, clips) * rng.choice([-1, 1], clips)
    return np.concatenate([rng.uniform(-1, 1, clips), outer])[:, None], np.repeat([0, 1], clips)


def test_failures_per_length_are_those_of_the_hole_over_the_segments():
    points, labels = around_the_hole(30, 1)
    found = convexity(points, labels, beyond, pairs=1000)
    drawn = draw_segments(right(labels, 2), names(2), Identities(names(60), 0), 1000)
    first, second = points[drawn.first, 0], points[drawn.second, 0]
    failed = (drawn.cls == 1) & (abs(drawn.ratio * first + (1 - drawn.ratio) * second) < HOLE)
    apart = abs(first - second)
    unit = (apart[drawn.cls == 0].mean() + apart[drawn.cls == 1].mean()) / 2
    assert found.details["segments"]["units"] == {"all": pytest.approx(unit)}
    own = drawn.cls == 1
    assert found.per_class["failure-rate"] == {"0": 0.0, "1": pytest.approx(failed.sum() / (apart[own] / unit).sum())}
    whole = found.values["failure-rate"]
    assert whole.value == pytest.approx(found.per_class["failure-rate"]["1"] / 2)
    assert 0 < whole.low < whole.value < whole.high
    at = (drawn.first == 40) | (drawn.second == 40)
    assert found.per_clip["failure-rate"][40] == pytest.approx(failed[at].sum() / (apart[at] / unit).sum())
    # Clips on one side of the hole are near each other: only long segments cross it.
    where = found.details["segments"]["failures_by_length"]
    assert sum(where["looked"]) == len(drawn)
    assert sum(where["failed"]) == failed.sum()
    assert where["failed"][0] == 0
    assert where["failed"][-1] > 0


def test_neither_scale_nor_another_modalitys_scale_matters():
    rng = np.random.default_rng(2)
    points, labels = np.concatenate([rng.normal(-1, 1, (25, 2)), rng.normal(1, 1, (25, 2))]), np.repeat([0, 1], 25)

    def bent(x):
        return np.stack([-x[:, 0] - np.sin(3 * x[:, 1]), x[:, 0] + np.sin(3 * x[:, 1])], 1)

    both = ["interpolation", "between"]
    plain = convexity(points, labels, bent, methods=both)
    large = convexity(1000 * points, labels, lambda x: bent(x / 1000), methods=both)
    for name in ("failure-rate", "kept", "kept-length", "third-class", "conditional"):
        assert large.values[name].value == pytest.approx(plain.values[name].value), name


def test_lengths_are_the_root_mean_square_over_modalities_in_units_of_each():
    within = Segments(np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4]), np.array([0, 0, 0, 2]), np.full(4, 0.5))
    distances = {"audio": np.array([1.0, 3, 2, 4]), "video": np.array([2e3, 4e3, 6e3, 8e3]), "dead": np.zeros(4)}
    scale = Scale(within, distances)
    assert scale.units == {"audio": 3, "video": 6e3, "dead": 0}  # each class counts the same
    audio, video = distances["audio"] / 3, distances["video"] / 6e3
    lengths, parts = scale.lengths(distances)
    assert lengths == pytest.approx(np.sqrt((audio**2 + video**2) / 2))
    assert scale.lengths(distances, ["video"])[0] == pytest.approx(video)
    assert np.isnan(scale.lengths(distances, ["dead"])[0]).all()
    longer = Scale(within, distances | {"audio": 1.001 * distances["audio"]}).lengths(distances)[0]
    assert (lengths - longer) / 0.001 == pytest.approx(parts["audio"], rel=0.01)
    assert parts["audio"] + parts["video"] == pytest.approx(lengths)


@pytest.mark.slow
def test_intervals_of_rates_and_lengths_cover_what_they_should():
    """The hole of the line: classes of which one is in two parts, so that the unit is as uncertain as the rest."""

    def measured(clips, pairs, seed):
        points, labels = around_the_hole(clips, seed)
        methods = ["interpolation", "between"]
        return convexity(points, labels, beyond, methods=methods, pairs=pairs, resamples=2).values

    truth = measured(3000, 60_000, 1000)
    found = [measured(20, 400, seed) for seed in range(300)]
    for name in ("failure-rate", "kept-length"):
        covered = np.mean([each[name].low <= truth[name].value <= each[name].high for each in found])
        assert 0.91 <= covered <= 0.99, name  # 300 runs: a standard error of 0.013


def test_no_failure_has_an_upper_end_and_no_length_no_value():
    points, labels = np.random.default_rng(3).normal(size=(40, 2)), np.arange(40) % 2
    points[:, 0] += 10 * labels
    found = convexity(points, labels, lambda x: np.stack([5 - x[:, 0], x[:, 0] - 5], 1))
    rate = found.values["failure-rate"]
    assert rate.value == rate.low == 0
    assert 0 < rate.high < 0.5
    same = convexity(np.repeat([[0.0], [9.0]], 5, axis=0), np.repeat([0, 1], 5), lambda x: np.hstack([5 - x, x - 5]))
    assert np.isnan(same.values["failure-rate"].value)
    assert same.values["conditional"].value == 1


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_neither_batches_nor_order_nor_kind_of_array_matter(batch_size):
    rng = np.random.default_rng(4)
    points, labels = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    weight = rng.normal(size=(3, 3))
    labels = np.where(rng.random(40) < 0.8, np.sin(points @ weight).argmax(axis=1), labels)
    ids, order = [f"clip-{i}" for i in range(40)], rng.permutation(40)
    methods = ["interpolation", "between"]
    plain = convexity(points, labels, lambda x: np.sin(x @ weight), ids=ids, pairs=60, methods=methods)
    moved = convexity(
        torch.from_numpy(points[order]),
        torch.from_numpy(labels[order]),
        lambda x: torch.sin(x @ torch.from_numpy(weight)),
        ids=[ids[i] for i in order],
        pairs=60,
        methods=methods,
        batch_size=batch_size,
    )
    assert 0 < plain.values["third-class"].value < 1
    for name, estimate in plain.values.items():
        assert moved.values[name].value == pytest.approx(estimate.value), name
        if name != "recall":
            assert (moved.values[name].low, moved.values[name].high) == pytest.approx((estimate.low, estimate.high)), (
                name
            )
    for name, values in plain.per_clip.items():
        assert np.allclose(values[order], moved.per_clip[name], equal_nan=True), name


def test_pairs_of_two_classes_are_drawn_uniformly_and_once():
    members = [np.array([4, 0, 2]), np.array([1, 3]), np.array([], dtype=np.int64)]
    who = Identities(names(5), 0)
    every = draw_between(members, names(3), who, 100)
    assert len(every) == 12
    assert len({(a, b) for a, b in zip(every.first, every.second, strict=True)}) == 12
    assert set(every.first[every.cls == 0]) == {0, 2, 4}
    counts = np.zeros((5, 5))
    for seed in range(2000):
        some = draw_between(members, names(3), Identities(names(5), seed), 2)
        assert len(some) == 4
        counts[some.first, some.second] += 1
    assert counts[counts > 0] == pytest.approx(2000 / 3, rel=0.15)
    assert (counts > 0).sum() == 12


def test_several_labels_per_clip_are_refused():
    with pytest.raises(ValueError, match="clips with several labels are of no single class"):
        convexity(np.eye(3), np.eye(3, dtype=bool), lambda x: x, methods=["between"])
