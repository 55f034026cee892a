"""What must not change density: scale, rotation, a constant added, the order of clips, the form of the arrays."""

import numpy as np
import pytest
import torch
from avrobust_geometry import density
from hypothesis import given, settings
from hypothesis import strategies as st


def cluttered(seed, n=120, dim=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    points = rng.normal(size=(n, dim)) + 1.5 * np.random.default_rng(7).normal(size=(3, dim))[labels]
    return points, labels, rng.normal(size=(n, 3))


def measured(points, labels, logits, **options):
    return density(points, labels, logits=logits, resamples=5, **options)


def assert_same(one, other, *, shift=0.0, rtol=1e-6, atol=1e-9):
    """The same values; those of log-knn moved by `shift`."""
    assert one.per_clip.keys() == other.per_clip.keys()
    for name, values in one.per_clip.items():
        moved = shift if name == "log-knn" else 0
        np.testing.assert_allclose(other.per_clip[name], values + moved, rtol=rtol, atol=atol, err_msg=name)
        assert other.values[name].value == pytest.approx(one.values[name].value + moved, rel=rtol, abs=atol)
        np.testing.assert_allclose(
            list(other.per_class[name].values()),
            np.array(list(one.per_class[name].values())) + moved,
            rtol=rtol,
            atol=atol,
        )
    assert other.details["m"] == pytest.approx(one.details["m"], rel=rtol)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), power=st.integers(-20, 20), itself=st.booleans())
def test_scale_and_rotation_change_nothing_but_the_level_of_log_density(seed, power, itself):
    points, labels, logits = cluttered(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    scale = 2.0**power * 1.1
    moved = scale * points @ turn
    other = {} if itself else {"reference": points[60:], "reference_labels": labels[60:]}
    turned = {} if itself else {"reference": moved[60:], "reference_labels": labels[60:]}
    some = slice(None) if itself else slice(0, 60)
    plain = measured(points[some], labels[some], logits[some], **other)
    again = measured(moved[some], labels[some], logits[some], **turned)
    assert_same(plain, again, shift=-plain.details["m"] * np.log(scale))
    if not itself:
        assert again.values["coverage"] == plain.values["coverage"]


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_order_of_clips_and_of_the_reference_changes_nothing(seed):
    points, labels, logits = cluttered(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    plain, moved = measured(points, labels, logits), measured(points[order], labels[order], logits[order])
    for name, values in plain.per_clip.items():
        np.testing.assert_allclose(moved.per_clip[name], values[order], rtol=1e-7, atol=1e-12)
        assert moved.values[name].value == pytest.approx(plain.values[name].value)
    some = order[:60]
    names = [str(i) for i in range(len(points))]
    ordered = measured(
        points[some], labels[some], logits[some], reference=points, reference_labels=labels,
        ids=[names[i] for i in some], reference_ids=names,
    )  # fmt: skip
    shuffled = measured(
        points[some], labels[some], logits[some], reference=points[order], reference_labels=labels[order],
        ids=[names[i] for i in some], reference_ids=[names[i] for i in order],
    )  # fmt: skip
    assert_same(ordered, shuffled, rtol=1e-7)
    # A clip is left out by its id: what is found is what the whole set finds of it.
    for name in ("class-ratio", "log-knn", "lid", "lof", "density", "trust"):
        np.testing.assert_allclose(ordered.per_clip[name], plain.per_clip[name][some], rtol=1e-7)


def test_a_constant_added_to_every_feature_changes_nothing():
    points, labels, logits = cluttered(0, n=400, dim=64)
    points = points.astype(np.float32)
    moved = points + np.float32(100)
    kept = moved - np.float32(100)  # what float32 keeps of the points beside 100
    plain, shifted = measured(kept, labels, logits), measured(moved, labels, logits)
    assert_same(plain, shifted, rtol=1e-9)
    # And against the points themselves: to the accuracy of float32 beside 100, a few millionths of each distance.
    some = {"estimators": ["class-ratio", "log-knn", "lid", "lof"]}
    assert_same(measured(points, labels, logits, **some), measured(moved, labels, logits, **some), rtol=1e-3, atol=2e-3)


def test_positions_are_averaged_and_arrays_may_be_of_any_kind(tmp_path):
    points, labels, logits = cluttered(1)
    points = points.astype(np.float32)
    noise = np.random.default_rng(0).normal(size=points.shape).astype(np.float32)
    plain = measured(points, labels, logits)
    stacked = np.stack([points + noise, points - noise], axis=1)
    np.save(tmp_path / "stacked.npy", stacked)
    assert_same(plain, measured(np.load(tmp_path / "stacked.npy", mmap_mode="r"), labels, logits), rtol=1e-4)
    given = torch.from_numpy(stacked).requires_grad_()
    assert_same(plain, measured(given, torch.from_numpy(labels), torch.from_numpy(logits)), rtol=1e-4)
    whole = np.round(points * 100)
    assert_same(measured(whole, labels, logits), measured(whole.astype(np.int16), labels, logits))


def test_names_of_classes():
    points, labels, _ = cluttered(1)
    words = np.array(["ant", "bee", "cat"])[labels]
    by_word, by_number = density(points, words, resamples=5), density(points, labels, resamples=5)
    assert list(by_word.per_class["class-ratio"]) == ["ant", "bee", "cat"]
    assert list(by_number.per_class["class-ratio"]) == ["0", "1", "2"]
    assert list(by_word.per_class["class-ratio"].values()) == list(by_number.per_class["class-ratio"].values())
    named = density(points, labels, classes=["a", "b", "c", "d"], resamples=5)
    assert np.isnan(named.per_class["class-ratio"]["d"])
    assert named.details["classes_without_clips"] == ["d"]
