"""Duplicates, small classes, clips without a class, sets that are too small: said, never hidden."""

import json

import numpy as np
import pytest
from avrobust_geometry import density
from avrobust_geometry.density.balls import KEPT, Balls
from avrobust_geometry.density.summaries import class_medians, mean_of_finite
from avrobust_geometry.knn import tiles

ALL = ("class-ratio", "class-ratio-plain", "log-knn", "lof", "lid", "density", "trust")


def spread(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim))


def test_duplicates_are_counted_and_infinite_values_left_out_of_means_only():
    points, labels = spread(60), np.repeat([0, 1], 30)
    points[:4] = points[0]  # four at one place: each with three duplicates, in its class
    points[10] = points[11]
    found = density(points, labels, k=3, resamples=50)
    assert found.details["duplicates"] == {"clips": 6, "clips_with_k": 4}
    assert found.details["pairs_at_distance_0"] == {"same": 4, "other": 0}
    assert (found.per_clip["log-knn"][:4] == np.inf).all()
    assert (found.per_clip["class-ratio"][:4] == np.inf).all()
    assert np.isnan(found.per_clip["lid"][:4]).all()
    assert (found.per_clip["lid"][10:12] == 0).all()
    assert np.isnan(found.per_clip["lof"][:4]).all()
    finite = found.per_clip["log-knn"][4:]
    assert np.isfinite(finite).all()
    assert found.values["log-knn"].value == pytest.approx(finite.mean())
    assert found.values["log-knn"].n == 56
    assert found.values["entropy"].value == -found.values["log-knn"].value
    assert found.values["entropy"].low == -found.values["log-knn"].high
    counts = found.details["not_finite"]
    assert counts["log-knn"] == {"none": 0, "infinite": 4}
    assert counts["class-ratio"] == {"none": 0, "infinite": 4}
    # Two others have three of the four as their neighbours, all equally far.
    assert counts["lid"] == {"none": 4, "infinite": 2}
    assert found.per_class["log-knn"]["0"] == np.median(found.per_clip["log-knn"][:30])
    assert np.isfinite(found.details["m"])


def test_duplicates_of_another_class_make_the_ratio_minus_infinity_and_of_both_none():
    points, labels = spread(40), np.repeat([0, 1], 20)
    points[0] = points[39]
    found = density(points, labels, k=1, estimators=["class-ratio"], resamples=5)
    assert found.per_clip["class-ratio-plain"][[0, 39]].tolist() == [-np.inf, -np.inf]
    points[1] = points[38] = points[0]
    found = density(points, labels, k=1, estimators=["class-ratio"], resamples=5)
    assert np.isnan(found.per_clip["class-ratio"][[0, 1, 38, 39]]).all()
    assert found.details["not_finite"]["class-ratio"] == {"none": 4, "infinite": 0}


def test_a_set_of_nothing_but_duplicates():
    found = density(np.ones((12, 3)), np.repeat([0, 1, 2], 4), logits=np.eye(3)[np.repeat([0, 1, 2], 4)], resamples=5)
    assert found.details["m"] is None
    assert found.details["duplicates"] == {"clips": 12, "clips_with_k": 12}
    for name in ("class-ratio", "lid", "lof", "trust", "log-knn"):
        assert np.isnan(found.values[name].value)
        assert found.values[name].method == "none"
    assert found.values["density"].value == 0
    json.dumps(found.details, allow_nan=False)


def test_classes_with_fewer_than_k_clips_have_k_clipped_and_singletons_have_no_ratio():
    points = spread(40)
    labels = np.array([0] * 33 + [1] * 4 + [2] * 2 + [3])
    found = density(points, labels, k=5, estimators=["class-ratio"], resamples=5)
    assert found.details["classes_with_clipped_k"] == {"1": 3, "2": 1}
    assert found.details["classes_without_ratio"] == ["3"]
    ratio = found.per_clip["class-ratio-plain"]
    assert np.isnan(ratio[39])
    assert np.isfinite(ratio[:39]).all()
    apart = np.linalg.norm(points - points[34], axis=1)
    apart[34] = np.inf
    expected = np.log(np.sort(apart[labels != 1])[2] / np.sort(apart[labels == 1])[2])
    assert ratio[34] == pytest.approx(expected)
    assert found.values["class-ratio"].n == 39
    assert np.isnan(found.per_class["class-ratio"]["3"])


def test_a_set_of_one_class_has_no_ratio_but_a_density():
    found = density(spread(30), np.zeros(30, dtype=int), logits=spread(30, 1), resamples=5)
    assert np.isnan(found.per_clip["class-ratio"]).all()
    assert found.values["class-ratio"].method == "none"
    assert found.details["classes_without_ratio"] == ["0"]
    assert np.isnan(found.per_clip["trust"]).all()
    assert np.isfinite(found.per_clip["log-knn"]).all()


def test_clips_without_any_class_are_counted_and_have_no_ratio():
    labels = np.zeros((30, 3), dtype=int)
    labels[:10, 0] = labels[5:20, 1] = 1
    found = density(spread(30), labels, k=3, resamples=5)
    assert found.details["clips_without_class"] == 10
    assert found.details["classes_without_clips"] == ["2"]
    assert np.isnan(found.per_clip["class-ratio"][20:]).all()
    assert np.isfinite(found.per_clip["log-knn"]).all()
    assert np.isnan(found.per_class["lid"]["2"])
    assert not density(spread(30), labels * 0, k=3, estimators=["class-ratio"], resamples=5).values["class-ratio"].n


def test_a_class_that_the_reference_lacks():
    found = density(
        spread(20), np.repeat([0, 1], 10), reference=spread(30, seed=1), reference_labels=np.repeat([0, 2], 15),
        logits=np.tile([0.0, 1.0, 0.0], (20, 1)), resamples=5, k=3,
    )  # fmt: skip
    assert found.details["classes_without_reference_clips"] == ["1"]
    assert found.details["classes_without_clips"] == ["2"]
    assert np.isnan(found.per_clip["class-ratio"][10:]).all()
    assert np.isnan(found.per_clip["trust"]).all()  # all are predicted to be of the class that is not there
    assert np.isnan(found.per_class["coverage"]["1"])


def test_k_is_clipped_to_the_reference_and_two_clips_are_enough():
    found = density(np.array([[0.0], [3.0]]), [0, 1], k=10, logits=np.eye(2), resamples=5)
    assert found.details["k"] == 1
    assert found.details["m"] is None
    assert set(found.per_clip) == set(ALL)
    few = density(
        [[0.5]],
        [0],
        reference=[[0.0], [1.0], [3.0]],
        reference_labels=[0, 1, 1],
        resamples=5,
        estimators=["coverage-density"],
    )
    assert few.per_clip["density"].tolist() == [3 / 2]  # all three balls reach to the second neighbour; k is 2, not 10
    with pytest.raises(ValueError, match="fewer than two clips"):
        density(np.array([[0.0]]), [0])


def test_beyond_most_the_reference_is_sampled_and_coverage_left_out():
    points, labels = spread(300), np.tile([0, 1, 2], 100)
    whole = density(points, labels, resamples=5)
    part = density(points, labels, most=300 * 150, resamples=5)
    assert part.details["searches"]["classes"]["subsampled"] == 300
    assert "more than most" in part.details["left_out"]["coverage-density"]
    assert "density" not in part.values
    assert part.per_clip["log-knn"].tolist() == whole.per_clip["log-knn"].tolist()
    gap = part.per_clip["class-ratio"] - whole.per_clip["class-ratio"]
    assert abs(gap.mean()) < 0.3  # the counts are those of the sample
    exact = density(points, labels, most=300 * 150, exact=True, resamples=5)
    assert exact.per_clip["class-ratio"].tolist() == whole.per_clip["class-ratio"].tolist()


def test_the_dimension_of_a_large_reference_is_that_of_a_sample_whatever_else_is_asked_for(monkeypatch):
    from avrobust_geometry.density import neighbourhood

    reference, known = spread(600, seed=1), np.zeros(600, dtype=int)
    whole = density(spread(50), np.zeros(50, dtype=int), reference=reference, reference_labels=known, resamples=5)
    monkeypatch.setattr(neighbourhood, "DIMENSION_CLIPS", 200)
    parts = [
        density(
            spread(50), np.zeros(50, dtype=int), reference=reference, reference_labels=known, resamples=5, estimators=e
        ).details["m"]
        for e in (["log-knn"], ["log-knn", "lof"])
    ]
    assert parts[0] == pytest.approx(parts[1], rel=1e-9)
    assert parts[0] != whole.details["m"]
    assert parts[0] == pytest.approx(whole.details["m"], rel=0.2)


def test_balls_keep_few_of_the_clips_inside_and_count_all():
    points = np.concatenate([spread(200) * 0.01, spread(3, seed=1) + 50])
    balls = Balls(points, np.array([10.0, 10.0]), reference=np.stack([np.zeros(4), np.full(4, 50.0)]))
    assert balls.counts.tolist() == [1] * 203
    assert balls.covered.tolist() == [True, True]
    assert (balls.inside >= 0).sum(axis=1).tolist() == [KEPT, 3]
    assert set(balls.inside[1, :3]) == {200, 201, 202}
    assert len(set(balls.inside[0])) == KEPT


@pytest.mark.parametrize("itself", [True, False])
def test_balls_are_the_same_tile_by_tile(monkeypatch, itself):
    monkeypatch.setattr(tiles, "TILE", 16)
    points, reference = spread(70), spread(70) if itself else spread(90, seed=1)
    apart = np.linalg.norm(points[:, None] - reference[None], axis=2)
    own = None if itself else np.where(np.arange(70) % 2, np.arange(70), -1)
    if itself:
        np.fill_diagonal(apart, np.inf)
    else:
        apart[np.arange(1, 70, 2), np.arange(1, 70, 2)] = np.inf
    radii = np.random.default_rng(0).uniform(0.5, 2, size=len(reference))
    balls = Balls(points, radii, reference=None if itself else reference, own=own)
    inside = apart < radii
    assert balls.counts.tolist() == inside.sum(axis=1).tolist()
    assert balls.covered.tolist() == inside.any(axis=0).tolist()
    for held, kept in zip(inside.T, balls.inside, strict=True):
        rows = kept[kept >= 0]
        assert len(set(rows)) == len(rows) == min(KEPT, held.sum())
        assert held[rows].all()


@pytest.mark.slow
def test_intervals_of_coverage_cover():
    # Of the coverage by 100 clips of a fixed reference: the mean over many draws of clips is what a draw estimates.
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 3))
    apart = np.linalg.norm(reference[:, None] - reference[None], axis=2)
    radii = np.sort(apart, axis=1)[:, 5]
    draws = [Balls(rng.normal(size=(100, 3)), radii, reference=reference) for _ in range(400)]
    truth = np.mean([balls.covered.mean() for balls in draws])
    found = [balls.coverage(confidence=0.95, resamples=400, seed=i) for i, balls in enumerate(draws)]
    assert 0.9 <= np.mean([estimate.low <= truth <= estimate.high for estimate in found]) <= 0.99
    width = np.mean([estimate.high - estimate.low for estimate in found])
    assert width == pytest.approx(2 * 1.96 * np.std([balls.covered.mean() for balls in draws]), rel=0.15)


def test_intervals_of_means_cover():
    rng = np.random.default_rng(0)
    truth, hits = 1.0, 0
    for seed in range(300):
        values = rng.exponential(size=80)
        values[:3] = np.inf, np.nan, -np.inf
        estimate = mean_of_finite(values, confidence=0.95, resamples=400, seed=seed)
        assert estimate.n == 77
        hits += estimate.low <= truth <= estimate.high
    assert 0.9 <= hits / 300 <= 0.98


def test_medians_of_classes_keep_infinite_values_in_their_place():
    inf, nan = np.inf, np.nan
    values = np.array([1, 2, inf, nan, inf, inf, 3, -inf, inf])
    members = [np.array([0, 1, 2]), np.array([0, 3]), np.array([2, 4]), np.array([1, 2]), np.array([], dtype=int)]
    members += [np.array([7, 8]), np.array([7, 6, 0, 2])]
    found = list(class_medians(values, members, "abcdefg").values())
    assert found[:2] == [2, 1]
    assert np.isnan(found[2:6]).all()
    assert found[6] == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"exact": "yes"}, "'auto', True or False"),
        ({"labels": [0, 1]}, "labels are 2, but the clips are 10"),
        ({"embeddings": np.zeros(10)}, r"embeddings have shape \(10,\)"),
        ({"estimators": ["lof", "kde"]}, "estimators: kde: choose from class-ratio, "),
        ({"estimators": []}, "estimators: none"),
        ({"reference": np.zeros((5, 4))}, "give both, or none"),
        ({"reference": np.ones((5, 3)), "reference_labels": [0] * 5}, "features"),
        ({"reference": np.ones((5, 4)), "reference_labels": [0] * 6}, "reference_labels are 6, but the clips are 5"),
        ({"reference_ids": ["a"]}, "go with a reference"),
        ({"ids": ["a"]}, "ids are 1"),
        (
            {
                "reference": np.ones((2, 4)),
                "reference_labels": [0, 1],
                "ids": list("abcdefghij"),
                "reference_ids": "aa",
            },
            "'a' occurs twice",
        ),
        ({"logits": np.zeros((10, 1))}, "whole numbers from 0 to 0"),
        ({"logits": np.full((10, 2), np.nan)}, "NaN for clip 0"),
        ({"logits": np.zeros((9, 2))}, r"logits have shape \(9, 2\)"),
        ({"labels": np.full((10, 2), 2)}, "zeros and ones"),
        ({"labels": np.ones((10, 2)), "classes": ["a"]}, "2 columns, but there are 1 classes"),
        ({"labels": np.ones((10, 2, 2))}, "labels have the shapes"),
        ({"labels": [0.5] * 10, "classes": ["a", "b"]}, "whole numbers"),
        ({"embeddings": np.full((10, 4), np.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    given = {"embeddings": spread(10), "labels": [0, 1] * 5} | wrong
    with pytest.raises(ValueError, match=message):
        density(given.pop("embeddings"), given.pop("labels"), **given)
