"""The losses that attacks raise: their direction, their invariances, and what they do with few classes."""

import pytest
import torch
from avrobust_attacks.losses import (
    LOSSES,
    TowardsClass,
    cross_entropy,
    difference_of_logits_ratio,
    mean_rank,
    negative_margin,
)

from avrobust_core import BatchGoal, classification_loss, margin

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(classes=5, n=50, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator) * scale
    targets = torch.randint(classes, (n,), generator=generator)
    several = (torch.rand(n, classes, generator=generator) < 0.5).float()
    several[:, 0], several[:, 1] = 1.0, 0.0  # each has some, and not all
    return logits, targets, several


def test_cross_entropy_is_a_rising_function_of_the_core_loss():
    logits, targets, several = draw()
    logits.requires_grad_()
    ours = cross_entropy(logits, BatchGoal(targets, "single-label"))
    core = classification_loss(logits, targets, "single-label")
    torch.testing.assert_close(torch.nn.functional.softplus(ours), core)
    (mine,), (theirs,) = (torch.autograd.grad(loss.sum(), logits) for loss in (ours, core))
    torch.testing.assert_close(torch.cosine_similarity(mine, theirs), torch.ones(50))
    torch.testing.assert_close(
        cross_entropy(logits, BatchGoal(several, "multi-label")), classification_loss(logits, several, "multi-label")
    )


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_cross_entropy_keeps_its_gradient_where_the_model_is_sure(task):
    logits = torch.tensor([[60.0, -20.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0]) if task == "single-label" else torch.tensor([[1.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad(cross_entropy(logits, BatchGoal(targets, task)).sum(), logits)
    assert gradient[0, 0] < 0
    (saturated,) = torch.autograd.grad(classification_loss(logits, targets, task).sum(), logits)
    assert saturated[0, 0] == 0  # why there is a form of our own


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_a_step_along_the_gradient_brings_the_goal_nearer(loss, task, targeted):
    logits, targets, several = draw()
    logits.requires_grad_()
    goal = BatchGoal(targets if task == "single-label" else several, task, targeted)
    (gradient,) = torch.autograd.grad(loss(logits, goal).sum(), logits)
    moved = goal.distance(logits + 0.01 * gradient / gradient.norm(dim=1, keepdim=True))
    far = ~goal.reached(logits)
    assert far.sum() > 10
    nearer = (moved < goal.distance(logits))[far]
    assert nearer.float().mean() > 0.8
    if loss is negative_margin:
        assert nearer.all()


@pytest.mark.parametrize("loss", [negative_margin, difference_of_logits_ratio, mean_rank, cross_entropy])
def test_a_shift_of_all_logits_changes_nothing(loss):
    logits, targets, _ = draw()
    goal = BatchGoal(targets, "single-label")
    torch.testing.assert_close(loss(logits - 100, goal), loss(logits, goal), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_margin_and_dlr_pass_zero_where_the_goal_is_reached(loss):
    logits, targets, several = draw()
    for goal in (
        BatchGoal(targets, "single-label"),
        BatchGoal(targets, "single-label", True),
        BatchGoal(several, "multi-label"),
    ):
        found = LOSSES[loss](logits, goal)
        assert 5 < goal.reached(logits).sum() < 45
        assert torch.equal(found >= 0, goal.reached(logits))


def test_dlr_is_the_margin_over_the_spread_and_ignores_the_scale():
    goal = BatchGoal(torch.tensor([0]), "single-label")
    logits = torch.tensor([[5.0, 3.0, 1.0, -7.0]])
    assert difference_of_logits_ratio(logits, goal).item() == pytest.approx(-2 / 4)
    assert difference_of_logits_ratio(logits * 1e-6, goal).item() == pytest.approx(-2 / 4, rel=1e-4)


# Fault 19
def test_with_two_classes_dlr_is_the_margin():
    logits, targets, _ = draw(classes=2)
    goal = BatchGoal(targets, "single-label")
    assert torch.equal(difference_of_logits_ratio(logits, goal), negative_margin(logits, goal))


@pytest.mark.parametrize("classes", [2, 3])
def test_with_fewer_than_four_classes_the_targeted_dlr_is_a_difference(classes):
    logits, targets, _ = draw(classes=classes)
    aimed = (targets + 1) % classes
    rows = torch.arange(len(targets))
    found = TowardsClass(aimed)(logits, BatchGoal(targets, "single-label"))
    torch.testing.assert_close(found, logits[rows, aimed] - logits[rows, targets])


def test_the_targeted_dlr_is_over_the_spread_of_the_paper():
    goal = BatchGoal(torch.tensor([0, 2]), "single-label")
    logits = torch.tensor([[5.0, 3.0, 1.0, -7.0], [5.0, 3.0, 1.0, -7.0]])
    found = TowardsClass(torch.tensor([3, 0]))(logits, goal)
    torch.testing.assert_close(found, torch.tensor([-12.0, 4.0]) / (5 - (1 - 7) / 2))


def test_the_targeted_dlr_goes_along_with_its_clips():
    logits, targets, _ = draw()
    whole = TowardsClass((targets + 1) % 5)
    index = torch.tensor([7, 3, 20])
    goal = BatchGoal(targets, "single-label")
    part = whole.select(index)(logits[index], goal.select(index))
    assert torch.equal(part, whole(logits, goal)[index])


def test_the_targeted_dlr_of_several_labels_is_against_the_best_of_them():
    goal = BatchGoal(torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0] * 4, [1.0] * 4]), "multi-label")
    logits = torch.tensor([[1.0, 3.0, 5.0, -7.0]]).repeat(3, 1)
    found = TowardsClass(torch.tensor([3, 3, 3]))(logits, goal)
    torch.testing.assert_close(found, torch.tensor([(-7 - 5) / (5 - (1 - 7) / 2), 0.0, 0.0]))


def test_mean_rank_bounds_the_share_of_pairs_in_wrong_order():
    logits, _, several = draw()
    found = mean_rank(logits, BatchGoal(several, "multi-label"))
    for scores, own, loss in zip(logits, several > 0.5, found, strict=True):
        pairs = [float(other >= mine) for mine in scores[own] for other in scores[~own]]
        soft = [torch.nn.functional.softplus(other - mine) for mine in scores[own] for other in scores[~own]]
        torch.testing.assert_close(loss, torch.stack(soft).mean())
        assert loss >= sum(pairs) / len(pairs) * torch.tensor(2.0).log() - 1e-6


@pytest.mark.parametrize("loss", ["margin", "dlr", "rank"])
@pytest.mark.parametrize("own", [0.0, 1.0])
def test_a_clip_with_no_class_or_every_class_has_a_loss_without_a_gradient(loss, own):
    logits = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = LOSSES[loss](logits, BatchGoal(torch.full((1, 4), own), "multi-label"))
    (gradient,) = torch.autograd.grad(found.sum(), logits, allow_unused=True, materialize_grads=True)
    assert found.item() == 0
    assert (gradient == 0).all()


def test_margin_is_minus_the_margin_of_the_core():
    logits, targets, _ = draw()
    torch.testing.assert_close(
        negative_margin(logits, BatchGoal(targets, "single-label")), -margin(logits, targets, "single-label")
    )
    torch.testing.assert_close(
        negative_margin(logits, BatchGoal(targets, "single-label", True)), margin(logits, targets, "single-label")
    )
