"""The tools of every attack by gradients: one joint gradient, refused where it means nothing; goals as masks."""

import pytest
import torch

from avrobust_core import AvrobustError, BatchGoal, joint_gradient, leaves_of, not_finite, refuse_not_finite


def test_every_modality_gets_the_gradient_of_each_clips_own_loss():
    clean = {"audio": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "video": torch.tensor([[5.0], [6.0]])}
    leaves = leaves_of(clean)
    loss = leaves["audio"].square().sum(dim=1) + 3 * leaves["video"].sum(dim=1)
    found = joint_gradient(loss, leaves, more=True)
    assert torch.equal(found["audio"], 2 * clean["audio"])
    assert torch.equal(found["video"], torch.full((2, 1), 3.0))
    again = joint_gradient(loss, leaves)  # the graph was kept
    assert torch.equal(again["audio"], found["audio"])
    assert not clean["audio"].requires_grad


def test_a_modality_that_the_loss_ignores_has_a_gradient_of_zero_and_all_of_them_are_an_error():
    leaves = leaves_of({"audio": torch.ones(2, 3), "video": torch.ones(2, 1)})
    found = joint_gradient(leaves["video"].sum(dim=1), leaves)
    assert torch.equal(found["audio"], torch.zeros(2, 3))
    with pytest.raises(AvrobustError, match="no gradient reaches audio, video from the model's logits"):
        joint_gradient(torch.ones(2), leaves)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_sample_that_is_not_finite_flags_its_clip_in_any_modality(bad):
    audio, video = torch.ones(3, 2, 4), torch.ones(3, 5)
    audio[1, 1, 3] = bad
    assert not_finite([audio, video]).tolist() == [False, True, False]
    assert not_finite([video, audio]).tolist() == [False, True, False]
    assert not not_finite([video]).any()


def test_the_refusal_names_five_clips_and_what_was_not_finite():
    ids = [f"clip-{i}" for i in range(8)]
    refuse_not_finite(ids, torch.zeros(8, dtype=torch.bool))
    with pytest.raises(AvrobustError, match=r"the loss is not finite for clip-1: a robustness"):
        refuse_not_finite(ids, torch.arange(8) == 1, "the loss")
    with pytest.raises(AvrobustError, match=r"loss or its gradient is not finite for clip-1, .*clip-5 and 2 more:"):
        refuse_not_finite(ids, torch.arange(8) > 0)


def test_a_goal_masks_the_logits_of_its_own_classes():
    logits = torch.zeros(2, 3)
    assert BatchGoal(torch.tensor([2, 0]), "single-label").own(logits).tolist() == [
        [False, False, True],
        [True, False, False],
    ]
    several = torch.tensor([[1.0, 0.4, 0.6], [0.0, 0.0, 0.0]])
    assert BatchGoal(several, "multi-label").own(logits).tolist() == [[True, False, True], [False, False, False]]
