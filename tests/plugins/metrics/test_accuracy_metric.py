"""Accuracy: top-k and recall against counts by hand, ties against the clip, and agreement with the core."""

import numpy as np
import pytest
import torch
from avrobust_metrics.accuracy import Accuracy
from avrobust_metrics.configs import AccuracyConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import recall_score, top_k_accuracy_score

from avrobust_core import AvrobustError, Subject, correct


def subject(logits, targets, task="single-label", **kwargs):
    logits = np.asarray(logits, dtype=np.float32)
    return Subject(
        ids=tuple(f"c{i}" for i in range(len(logits))),
        logits=logits,
        targets=np.asarray(targets),
        classes=tuple("abcdefghij"[: logits.shape[1]]),
        task=task,
        **kwargs,
    )


def test_top_k_and_recall_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    targets = rng.integers(7, size=300)
    logits = rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[targets]
    found = Accuracy(AccuracyConfig(top=(1, 2, 5))).measure(subject(logits, targets))
    assert list(found.values) == ["top-1", "top-2", "top-5"]
    for k in (1, 2, 5):
        expected = top_k_accuracy_score(targets, logits.astype(np.float32), k=k)
        estimate = found.values[f"top-{k}"]
        assert estimate.value == pytest.approx(expected)
        assert estimate.low < expected < estimate.high
        assert estimate.n == 300
    expected = recall_score(targets, logits.argmax(axis=1), average=None)
    assert list(found.per_class["recall"].values()) == pytest.approx(expected.tolist())


def test_a_tie_counts_against_the_clip():
    found = Accuracy(AccuracyConfig(top=(1, 2))).measure(subject([[1, 1, 0], [0, 0, 0], [2, 1, 1]], [0, 1, 2]))
    assert found.values["top-1"].value == 0
    assert found.values["top-2"].value == pytest.approx(1 / 3)


def test_a_k_of_all_classes_is_left_out_and_none_left_is_an_error():
    measured = subject(np.eye(5), np.arange(5))
    assert set(Accuracy(AccuracyConfig(top=(1, 4, 5, 9))).measure(measured).values) == {"top-1", "top-4"}
    with pytest.raises(AvrobustError, match=r"top: \[5, 9\] leaves nothing to measure.*only 5 classes"):
        Accuracy(AccuracyConfig(top=(5, 9))).measure(measured)


def test_a_class_without_clips_has_no_recall():
    found = Accuracy(AccuracyConfig(top=(1,))).measure(subject(np.eye(3)[[0, 1]], [0, 1]))
    assert found.per_class["recall"]["a"] == 1
    assert np.isnan(found.per_class["recall"]["c"])


def test_with_several_labels_a_hit_at_rank_one_needs_no_threshold():
    logits = [[-9, -5, -7], [3, 2, 1], [0, 1, 2], [1, 2, 3]]
    targets = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=np.float32)
    found = Accuracy(AccuracyConfig(top=(1, 5))).measure(subject(logits, targets, task="multi-label"))
    assert list(found.values) == ["hit@1"]
    assert found.values["hit@1"].value == pytest.approx(2 / 4)
    assert found.per_class["hit@1"] == pytest.approx({"a": 1.0, "b": 2 / 3, "c": 1 / 2})


@settings(max_examples=60)
@given(data=st.data(), task=st.sampled_from(["single-label", "multi-label"]))
def test_rank_one_is_what_the_core_calls_correct(data, task):
    n, k = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 5))
    logits = np.array(data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=k, max_size=k), min_size=n, max_size=n)))
    if task == "single-label":
        targets = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    else:
        row = st.lists(st.sampled_from([0.0, 1.0]), min_size=k, max_size=k)
        targets = np.array(data.draw(st.lists(row, min_size=n, max_size=n)), dtype=np.float32)
    found = Accuracy(AccuracyConfig(top=(1,))).measure(subject(logits, targets, task=task))
    expected = correct(torch.tensor(logits).float(), torch.tensor(targets), task).float().mean().item()
    (estimate,) = found.values.values()
    assert estimate.value == pytest.approx(expected)


def test_configuration():
    assert AccuracyConfig().top == (1, 5)
    assert AccuracyConfig(top=(5, 1)).top == (1, 5)
    for wrong in ((), (0,), (1, 1)):
        with pytest.raises(ValidationError):
            AccuracyConfig(top=wrong)


def test_it_is_measured_under_attack_too():
    assert Accuracy.under_attack
    assert Accuracy.tasks == {"single-label", "multi-label"}
