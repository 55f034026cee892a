"""Margin, correctness and loss: against their definitions, by hand and by property."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core.models.objectives import classification_loss, correct, margin


def test_the_margin_by_hand():
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.0, 5.0, 4.5], [1.0, 1.0, 0.0]])
    targets = torch.tensor([0, 2, 1])
    assert margin(logits, targets, "single-label").tolist() == [2.0, -0.5, 0.0]
    assert correct(logits, targets, "single-label").tolist() == [True, False, False]  # a tie is not correct


def test_the_margin_of_several_labels_by_hand():
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.0, 5.0, 4.5]])
    targets = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert margin(logits, targets, "multi-label").tolist() == [-2.0, 5.0]
    assert correct(logits, targets, "multi-label").tolist() == [False, True]


def test_a_clip_of_every_class_is_always_correct_and_one_of_none_never():
    logits = torch.randn(2, 3)
    targets = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert margin(logits, targets, "multi-label").tolist() == [math.inf, -math.inf]
    assert correct(logits, targets, "multi-label").tolist() == [True, False]


@settings(max_examples=80)
@given(
    rows=st.lists(st.lists(st.integers(-50, 50), min_size=4, max_size=4), min_size=1, max_size=6),
    shift=st.sampled_from([-100.0, 0.0, 64.0]),
    data=st.data(),
)
def test_a_single_label_is_the_case_of_one_class_and_shifts_say_nothing(rows, shift, data):
    logits = torch.tensor(rows, dtype=torch.float32)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    found = margin(logits, targets, "single-label")
    one_hot = torch.nn.functional.one_hot(targets, 4).float()
    assert torch.equal(found, margin(logits, one_hot, "multi-label"))
    assert torch.equal(found, margin(logits + shift, targets, "single-label"))
    for row, target, value in zip(rows, targets.tolist(), found.tolist(), strict=True):
        assert value == row[target] - max(z for i, z in enumerate(row) if i != target)


def test_losses_are_per_clip_and_agree_with_their_formulae():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 1, 0])
    loss = classification_loss(logits, targets, "single-label")
    torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[torch.arange(5), targets])
    one_hot = torch.nn.functional.one_hot(targets, 3).float()
    torch.testing.assert_close(classification_loss(logits, one_hot, "single-label"), loss)
    p = logits.sigmoid()
    expected = -(one_hot * p.log() + (1 - one_hot) * (1 - p).log()).mean(dim=1)
    torch.testing.assert_close(classification_loss(logits, one_hot, "multi-label"), expected)
    torch.testing.assert_close(classification_loss(logits[2:3], targets[2:3], "single-label"), loss[2:3])


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_the_margin_has_a_gradient(task):
    logits = torch.tensor([[3.0, 1.0, -2.0]], requires_grad=True)
    targets = torch.tensor([0]) if task == "single-label" else torch.tensor([[1.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad(margin(logits, targets, task).sum(), logits)
    assert gradient.tolist() == [[1.0, -1.0, 0.0]]
