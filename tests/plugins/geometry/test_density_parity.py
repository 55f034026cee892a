"""Density against other packages, and against plain formulas written here."""

import numpy as np
import pytest
import torch
from avrobust_geometry import density
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from sklearn.neighbors import LocalOutlierFactor


def clusters(n, dim=6, seed=0, spread=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    centres = spread * np.random.default_rng(99).normal(size=(4, dim))
    return centres[labels] + rng.normal(size=(n, dim)) * rng.uniform(0.5, 2, size=(n, 1)), labels


def distances_between(points, reference):
    return np.sqrt(((points[:, None] - reference[None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_coverage_and_density_are_those_of_prdc(k, shift, capsys):
    reference, known = clusters(400)
    points, labels = clusters(250, seed=1)
    points = points + shift
    expected = compute_prdc(reference, points, nearest_k=k)
    found = density(
        points, labels, reference=reference, reference_labels=known, k=k, estimators=["coverage-density"], resamples=50
    )
    assert found.values["density"].value == pytest.approx(expected["density"], abs=1e-6)
    assert found.values["coverage"].value == pytest.approx(expected["coverage"], abs=1e-6)
    assert found.values["density"].low < expected["density"] < found.values["density"].high
    assert found.values["coverage"].low < expected["coverage"] < found.values["coverage"].high
    capsys.readouterr()


def test_density_and_coverage_by_clip_and_class():
    reference, known = clusters(300)
    points, labels = clusters(200, seed=1)
    own = distances_between(reference, reference)
    radii = np.sort(own, axis=1)[:, 7]
    inside = distances_between(points, reference) < radii
    found = density(
        points, labels, reference=reference, reference_labels=known, k=7, estimators=["coverage-density"], resamples=10
    )
    np.testing.assert_allclose(found.per_clip["density"], inside.sum(axis=1) / 7)
    for c in range(4):
        assert found.per_class["density"][str(c)] == np.median(inside.sum(axis=1)[labels == c] / 7)
        assert found.per_class["coverage"][str(c)] == pytest.approx(inside.any(axis=0)[known == c].mean())


def test_in_a_set_by_itself_no_clip_lies_in_its_own_ball_nor_on_the_rim_of_another():
    points, labels = clusters(300)
    own = distances_between(points, points)
    radii = np.sort(own, axis=1)[:, 7]
    inside = own < radii * (1 - 1e-9)
    np.fill_diagonal(inside, False)
    found = density(points, labels, k=7, estimators=["coverage-density"], resamples=10)
    np.testing.assert_allclose(found.per_clip["density"], inside.sum(axis=1) / 7)
    assert "coverage" not in found.values
    assert "by itself" in found.details["left_out"]["coverage"]


def test_lof_of_a_set_by_itself_is_that_of_scikit_learn():
    points, labels = clusters(400)
    expected = LocalOutlierFactor(n_neighbors=12).fit(points)
    found = density(points, labels, k=12, estimators=["lof"], resamples=10)
    np.testing.assert_allclose(found.per_clip["lof"], -expected.negative_outlier_factor_, rtol=1e-7)


def test_lof_of_new_clips_is_that_of_scikit_learn():
    reference, known = clusters(400)
    points, labels = clusters(100, seed=1, spread=3)
    expected = LocalOutlierFactor(n_neighbors=12, novelty=True).fit(reference)
    found = density(points, labels, reference=reference, reference_labels=known, k=12, estimators=["lof"], resamples=10)
    np.testing.assert_allclose(found.per_clip["lof"], -expected.score_samples(points), rtol=1e-7)


def test_lid_is_the_formula():
    reference, known = clusters(300)
    points, labels = clusters(100, seed=1)
    near = np.sort(distances_between(points, reference), axis=1)[:, :20]
    expected = -1 / np.log(near / near[:, -1:]).mean(axis=1)
    found = density(points, labels, reference=reference, reference_labels=known, k=20, estimators=["lid"], resamples=10)
    np.testing.assert_allclose(found.per_clip["lid"], expected)
    assert found.values["lid"].value == pytest.approx(expected.mean())
    assert found.per_class["lid"]["2"] == pytest.approx(np.median(expected[labels == 2]))


@pytest.mark.parametrize("itself", [True, False])
def test_trust_is_the_ratio_of_the_nearest_of_other_classes_to_the_nearest_of_the_predicted_one(itself):
    reference, known = clusters(300)
    points, labels = (reference, known) if itself else clusters(100, seed=1)
    logits = np.random.default_rng(3).normal(size=(len(points), 4)) + 2 * np.eye(4)[labels]
    apart = distances_between(points, reference)
    if itself:
        np.fill_diagonal(apart, np.inf)
    predicted = logits.argmax(axis=1)
    expected = [
        row[known != guess].min() / row[known == guess].min() for row, guess in zip(apart, predicted, strict=True)
    ]
    given = {} if itself else {"reference": reference, "reference_labels": known}
    found = density(points, labels, **given, logits=torch.from_numpy(logits), estimators=["trust"], resamples=10)
    np.testing.assert_allclose(found.per_clip["trust"], expected)
    assert found.per_class["trust"]["1"] == pytest.approx(np.median(np.array(expected)[labels == 1]))


def test_without_logits_there_is_no_trust():
    points, labels = clusters(50)
    found = density(points, labels, resamples=10)
    assert "trust" not in found.values
    assert found.details["left_out"]["trust"] == "there are no predictions"


def brute_ratio(points, labels, reference, known, own, k, m):
    """(N, K) log-odds and plain ratio of each class that a clip has; NaN elsewhere."""
    odds, plain = np.full((2, *labels.shape), np.nan)
    for i, c in np.argwhere(labels):
        apart = np.linalg.norm(reference - points[i], axis=1)
        there = np.arange(len(reference)) != own[i]
        same, other = np.sort(apart[there & known[:, c]]), np.sort(apart[there & ~known[:, c]])
        fewer = min(k, len(same), len(other))
        if fewer:
            plain[i, c] = np.log(other[fewer - 1]) - np.log(same[fewer - 1])
            odds[i, c] = m * plain[i, c] + np.log(len(other)) - np.log(len(same))
    return odds, plain


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 40),
    classes=st.integers(1, 6),
    share=st.sampled_from([0.1, 0.4, 0.9]),
    k=st.integers(1, 8),
    mode=st.sampled_from(["itself", "reference", "overlap"]),
)
def test_class_ratio_of_several_labels_is_the_formula(seed, n, classes, share, k, mode):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3))
    labels = rng.random((n, classes)) < share
    if mode == "itself":
        reference, known, own, given = points, labels, np.arange(n), {}
    else:
        reference, known = rng.normal(size=(n + 5, 3)), rng.random((n + 5, classes)) < share
        own = np.full(n, -1)
        given = {"reference": reference, "reference_labels": known}
        if mode == "overlap":
            own[: n // 2] = rng.permutation(n + 5)[: n // 2]
            reference[own[: n // 2]] = points[: n // 2]
            names = [f"r{i}" for i in range(n + 5)]
            given |= {"reference_ids": names, "ids": [names[row] if row >= 0 else f"p{i}" for i, row in enumerate(own)]}
    found = density(points, labels, **given, k=k, estimators=["class-ratio"], resamples=5)
    m = found.details["m"] if found.details["m"] is not None else np.nan
    odds, plain = brute_ratio(points, labels, reference, known, own, k, m)
    for name, values in (("class-ratio", odds), ("class-ratio-plain", plain)):
        clips = [row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan for row in values]
        np.testing.assert_allclose(found.per_clip[name], clips, rtol=1e-6, atol=1e-9)
        medians = [np.median(col[~np.isnan(col)]) if (~np.isnan(col)).any() else np.nan for col in values.T]
        np.testing.assert_allclose(list(found.per_class[name].values()), medians, rtol=1e-6, atol=1e-9)
        measured = np.array(clips)[~np.isnan(clips)]
        if len(measured):
            assert found.values[name].value == pytest.approx(measured.mean(), rel=1e-6, abs=1e-9)
        assert found.values[name].n == len(measured)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 40), classes=st.integers(1, 5), k=st.integers(1, 8))
def test_one_label_per_clip_is_the_case_of_a_single_positive(seed, n, classes, k):
    rng = np.random.default_rng(seed)
    points, labels = rng.normal(size=(n, 3)), rng.integers(classes, size=n)
    names = [str(c) for c in range(classes)]
    logits = rng.normal(size=(n, classes))
    options = {"k": k, "classes": names, "resamples": 5, "logits": logits}
    one, several = density(points, labels, **options), density(points, np.eye(classes, dtype=int)[labels], **options)
    for name, values in one.per_clip.items():
        np.testing.assert_allclose(values, several.per_clip[name], rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(list(one.per_class[name].values()), list(several.per_class[name].values()))
