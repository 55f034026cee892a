"""Density where the truth is known: Gaussians, cubes, and formulas by hand."""

import numpy as np
import pytest
from avrobust_geometry import density
from avrobust_geometry.density import estimators
from scipy.special import polygamma
from scipy.stats import multivariate_normal, spearmanr


def gaussian(n, dim, seed=0):
    """Points, their true log-density, and the same points in 64 dimensions, moved by an isometry."""
    rng = np.random.default_rng([seed, dim])
    points = rng.normal(size=(n, dim))
    turn = np.linalg.qr(rng.normal(size=(64, dim)))[0]
    truth = -(points**2).sum(axis=1) / 2 - dim / 2 * np.log(2 * np.pi)
    return points, truth, (points @ turn.T + rng.normal(size=64)).astype(np.float32)


def log_knn(points, k=10):
    found = density(points, np.zeros(len(points), dtype=int), k=k, estimators=["log-knn"], resamples=10)
    return found.per_clip["log-knn"], found.details["m"]


@pytest.mark.parametrize("dim", [2, 5, 10, 20])
def test_log_density_of_gaussians_has_the_true_ranks(dim):
    points, truth, embedded = gaussian(2000, dim)
    for given in (points, embedded):
        assert spearmanr(log_knn(given, k=50)[0], truth).statistic >= 0.93
        if dim > 2:
            assert spearmanr(log_knn(given)[0], truth).statistic >= 0.93


def test_ranks_in_two_dimensions_are_as_good_as_k_allows():
    # The mass inside the k-th ball is Beta distributed, whatever the density: no estimate from r_10 alone ranks better.
    noise = np.log(np.random.default_rng(0).gamma(10, size=2000))
    _, truth, embedded = gaussian(2000, 2)
    best = spearmanr(truth - noise, truth).statistic
    assert best < 0.93
    assert spearmanr(log_knn(embedded)[0], truth).statistic == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize(("dim", "bias", "spread"), [(2, 0.15, 0.37), (5, 0.2, 0.6), (10, 0.5, 1.0), (20, 3.0, 1.9)])
def test_log_density_of_gaussians_is_near_the_truth(dim, bias, spread):
    # Measured for 2,000 points and k = 10: bias .07, .08, .23, 2.3 nats; spread .33, .49, .86, 1.6, of which
    # sqrt(trigamma(10)) = .32 is the noise of the tenth neighbour.
    _, truth, embedded = gaussian(2000, dim)
    error = log_knn(embedded)[0] - truth
    assert abs(error.mean()) < bias
    assert error.std() < spread


@pytest.mark.parametrize(("dim", "bias"), [(1, 0.05), (2, 0.2), (5, 0.8)])
def test_log_density_inside_a_unit_cube_is_zero(dim, bias):
    # Measured for 5,000 points: bias .01, -.14, -.55 nats: neighbours near the boundary make m too small. Spread .32.
    points = np.random.default_rng(dim).random((5000, dim))
    inside = (np.abs(points - 0.5) < 0.35).all(axis=1)
    found, _ = log_knn(points)
    assert abs(found[inside].mean()) < bias
    assert found[inside].std() == pytest.approx(np.sqrt(polygamma(1, 10)), abs=0.06)


def test_log_density_of_uniform_points_on_a_circle_is_zero_on_average():
    rng = np.random.default_rng(1)
    means = []
    for _ in range(300):
        ordered = np.sort(rng.random(50))
        ordered = np.concatenate([ordered - 1, ordered, ordered + 1])
        for own, others in ((True, 49), (False, 50)):
            asked = ordered[50:100] if own else rng.random(50)
            apart = np.sort(np.abs(ordered[None] - asked[:, None]), axis=1)
            means.append((own, estimators.log_density(apart[:, 4 if own else 3], 4, others, 1.0).mean()))
    for own in (True, False):
        values = [value for which, value in means if which == own]
        assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / np.sqrt(len(values)))


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
def test_intrinsic_dimension_of_an_embedded_gaussian(dim):
    for seed in range(3):
        _, _, embedded = gaussian(2000, dim, seed)
        assert log_knn(embedded)[1] == pytest.approx(dim, rel=0.15)


def test_intrinsic_dimension_pools_inverses_and_leaves_duplicates_out():
    distances = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 3.0]])
    expected = 3 / (np.log(4) + np.log(2) + np.log(3))
    assert estimators.intrinsic_dimension(distances) == pytest.approx(expected)
    assert np.isnan(estimators.intrinsic_dimension(np.ones((5, 4))))
    assert np.isnan(estimators.intrinsic_dimension(np.ones((5, 1))))
    assert np.isnan(estimators.intrinsic_dimension(np.zeros((5, 4))))


def test_local_dimension_by_hand():
    found = estimators.local_dimension(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 3.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
    assert found[0] == pytest.approx(3 / (np.log(4) + np.log(2)))
    assert found[1] == 0
    assert np.isnan(found[2])
    assert np.isinf(found[3])


@pytest.mark.parametrize("sizes", [(800, 800), (1200, 300)])
def test_class_ratio_of_two_gaussians_has_the_sign_and_rank_of_the_true_log_odds(sizes):
    rng = np.random.default_rng(sizes)
    means = np.zeros((2, 4))
    means[1, 0] = 2
    labels = np.repeat([0, 1], sizes)
    points = rng.normal(size=(sum(sizes), 4)) * np.where(labels, 1.5, 1)[:, None] + means[labels]
    logs = np.stack(
        [
            multivariate_normal(mean, scale**2 * np.eye(4)).logpdf(points)
            for mean, scale in zip(means, (1, 1.5), strict=True)
        ]
    )
    truth = np.where(labels, logs[1] - logs[0], logs[0] - logs[1])
    found = density(points, labels, estimators=["class-ratio"], resamples=10)
    ratio = found.per_clip["class-ratio"]
    for c in (0, 1):
        assert spearmanr(ratio[labels == c], truth[labels == c]).statistic > 0.85
    clear = np.abs(truth) > 1
    assert (np.sign(ratio) == np.sign(truth))[clear].mean() > 0.97
    # Levels hold where both classes are near. Far from one of them its radius ends in its bulk, and says too little.
    near = np.abs(truth) < 1.5
    assert (ratio - truth)[near].mean() == pytest.approx(0, abs=0.2)
    # Sizes are corrected for: the plain ratio is off by log(n_other / n_same) / m.
    gap = ratio - found.details["m"] * found.per_clip["class-ratio-plain"]
    np.testing.assert_allclose(
        gap, np.where(labels, np.log(sizes[0] / (sizes[1] - 1)), np.log(sizes[1] / (sizes[0] - 1)))
    )
