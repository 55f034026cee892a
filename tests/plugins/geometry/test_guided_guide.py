"""What the guide of mix-up says: who is an anchor, who lies near, and the controls."""

import numpy as np
import pytest
import torch
from avrobust_geometry.configs import GuidedMixupConfig
from avrobust_geometry.guided.guide import (
    Guide,
    class_weights,
    clip_weights,
    density_weights,
    make_guide,
    near,
    permuted_within_classes,
    space_of,
)
from avrobust_geometry.guided.notes import Notes
from avrobust_geometry.guided.pairs import systematic
from hypothesis import given
from hypothesis import strategies as st


def _notes(points: np.ndarray, labels: np.ndarray) -> Notes:
    notes = Notes()
    half = points.shape[1] // 2
    x = torch.from_numpy(points).float()
    ids = [f"clip-{i:03d}" for i in range(len(points))]
    notes.add(ids, {"audio": x[:, :half], "video": x[:, half:]}, torch.from_numpy(labels))
    return notes


def _weights(points: np.ndarray, labels: np.ndarray, config: GuidedMixupConfig) -> np.ndarray:
    return density_weights(space_of(points, labels, int(labels.max()) + 1, config, seed=0), config)


@pytest.fixture
def two_clusters() -> tuple[np.ndarray, np.ndarray]:
    """Two classes in 4 dimensions that touch: (60, 4) and labels."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(60, 4))
    labels = np.repeat([0, 1], 30)
    points[labels == 1, 0] += 2.5
    return points, labels


@pytest.mark.parametrize("sign", [1, -1])
def test_clips_near_the_other_class_weigh_less_or_more(two_clusters, sign: int) -> None:
    points, labels = two_clusters
    weights = _weights(points, labels, GuidedMixupConfig(k=5, beta=-float(sign))) ** sign
    depth = np.where(labels == 0, -points[:, 0], points[:, 0])
    order = np.argsort(depth)
    assert weights[order[:20]].mean() > 2 * weights[order[-20:]].mean()


def test_beta_of_zero_weighs_all_alike(two_clusters) -> None:
    points, labels = two_clusters
    np.testing.assert_allclose(_weights(points, labels, GuidedMixupConfig(beta=0)), 1)


def test_plain_density_weighs_outliers_least() -> None:
    points = np.random.default_rng(1).normal(size=(80, 3))
    points[7] = 9.0
    weights = _weights(points, np.zeros(80, dtype=np.int64), GuidedMixupConfig(score="log-knn"))
    assert weights.argmin() == 7


def test_duplicates_and_lone_classes_have_finite_weights() -> None:
    points = np.zeros((40, 3))
    points[20:] = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.r_[np.zeros(20, dtype=np.int64), np.ones(19, dtype=np.int64), 2]
    weights = _weights(points, labels, GuidedMixupConfig(k=3))
    assert np.isfinite(weights).all()
    assert (weights > 0).all()


def test_partners_are_the_nearest_of_other_classes_as_brute_force_has_them(two_clusters) -> None:
    points, labels = two_clusters
    config = GuidedMixupConfig(k=4, partners="other-class", tau=0.5)
    partners, chances = near(space_of(points, labels, 2, config, seed=0), config)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    distances[labels[:, None] == labels[None]] = np.inf
    expected = np.argsort(distances, axis=1)[:, :4]
    assert [set(row) for row in partners] == [set(row) for row in expected]
    radius = np.sort(distances, axis=1)[:, 3]
    kernel = np.exp(
        -(np.take_along_axis(distances, partners, axis=1) ** 2) / (2 * 0.5 * radius[:, None] * radius[partners])
    )
    np.testing.assert_allclose(chances, kernel / kernel.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("kind", ["same-class", "other-class"])
def test_partners_share_a_class_or_do_not_as_asked_with_several_labels_too(kind: str) -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((50, 4)) < 0.4).astype(np.float32)
    config = GuidedMixupConfig(partners=kind, k=8)
    partners, chances = near(space_of(generator.normal(size=(50, 3)), labels, 4, config, seed=0), config)
    for i, row in enumerate(partners):
        for j, chance in zip(row, chances[i], strict=True):
            assert (j < 0) == (chance == 0)
            if j >= 0:
                assert bool((labels[i] * labels[j]).sum() > 0) == (kind == "same-class")
        assert chances[i].sum() == pytest.approx(1) or not chances[i].any()


def test_partners_are_among_the_k_nearest_though_density_looks_at_more(two_clusters) -> None:
    points, labels = two_clusters
    config = GuidedMixupConfig(k=3, partners="any")
    partners, _ = near(space_of(points, labels, 2, config, seed=0), config)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(partners, np.argsort(distances, axis=1)[:, :3])


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_the_permuted_control_lends_within_the_class_each_clip_once(labels: list[int], seed: int) -> None:
    array = np.asarray(labels)
    lent = permuted_within_classes(array, np.random.default_rng(seed))
    assert sorted(lent) == list(range(len(array)))
    assert (array[lent] == array).all()


def test_the_permuted_control_has_the_same_weights_per_class_and_other_partners(two_clusters) -> None:
    points, labels = two_clusters
    config = GuidedMixupConfig(k=5)
    found = make_guide(_notes(points, labels), 2, config, seed=0)
    control = make_guide(_notes(points, labels), 2, config.model_copy(update={"control": "permuted"}), seed=0)
    for label in (0, 1):
        np.testing.assert_allclose(np.sort(found.weights[labels == label]), np.sort(control.weights[labels == label]))
    assert not np.allclose(found.weights, control.weights)
    assert (control.partners != np.arange(60)[:, None]).all()
    moved = [set(a) != set(b) for a, b in zip(found.partners, control.partners, strict=True)]
    assert np.mean(moved) > 0.7


def test_the_inverted_control_does_the_opposite(two_clusters) -> None:
    points, labels = two_clusters
    config = GuidedMixupConfig(k=5, guide=("density", "convexity"))
    found = make_guide(_notes(points, labels), 2, config, seed=0)
    control = make_guide(_notes(points, labels), 2, config.model_copy(update={"control": "inverted"}), seed=0)
    np.testing.assert_allclose(found.weights * control.weights, 1)
    assert not control.chances.any()
    budget = np.asarray([0.2, 0.8])
    guide = Guide(found.ids, labels, np.ones(60), found.partners, found.chances)
    towards, away = (list(clip_weights(guide, budget, inverted=inverted).values()) for inverted in (False, True))
    assert towards[0] < towards[-1]
    assert away[0] > away[-1]


def test_balance_makes_every_class_weigh_the_same() -> None:
    labels = np.asarray([0] * 30 + [1] * 10 + [2] * 2)
    points = np.random.default_rng(0).normal(size=(42, 4))
    guide = make_guide(_notes(points, labels), 3, GuidedMixupConfig(guide=("balance",)), seed=0)
    totals = [guide.weights[labels == c].sum() for c in range(3)]
    np.testing.assert_allclose(totals, totals[0])


def test_class_weights_of_several_labels_are_their_mean() -> None:
    labels = np.asarray([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
    weights = class_weights(labels, np.asarray([0.2, 0.6, 0.4]))
    np.testing.assert_allclose(weights / weights[0], [1, 2, 2])


@given(
    weights=st.lists(st.floats(0.01, 5), min_size=1, max_size=30),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_systematic_sampling_takes_each_its_expected_number_of_times(
    weights: list[float], count: int, seed: int
) -> None:
    array = np.asarray(weights)
    drawn = systematic(array, count, np.random.default_rng(seed))
    times = np.bincount(drawn, minlength=len(array))
    expected = count * array / array.sum()
    assert len(drawn) == count
    assert (np.abs(times - expected) < 1 + 1e-9).all()


@pytest.mark.parametrize("score", ["class-ratio", "log-knn"])
def test_one_clip_far_off_leaves_the_others_weights(two_clusters, score: str) -> None:
    points, labels = two_clusters
    config = GuidedMixupConfig(k=5, beta=1.0, score=score)
    plain = _weights(points, labels, config)
    points[3] = 1e12
    wild = _weights(points, labels, config)
    others = np.delete(np.arange(60), 3)
    assert np.isfinite(wild).all()
    assert np.corrcoef(np.log(plain[others]), np.log(wild[others]))[0, 1] > 0.95
    assert np.log(wild[others]).std() > 0.6 * np.log(plain[others]).std()


def test_a_guide_beside_a_clip_far_off_has_partners_that_are_near(two_clusters) -> None:
    points, labels = two_clusters
    points[3] = 1e12
    guide = make_guide(_notes(points, labels), 2, GuidedMixupConfig(k=4, partners="any"), seed=0)
    assert np.isfinite(guide.weights).all()
    assert np.isfinite(guide.chances).all()
    np.testing.assert_allclose(guide.chances.sum(axis=1), 1)
    assert not (guide.partners[np.arange(60) != 3] == 3).any()
