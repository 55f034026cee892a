"""Goals: what counts as reached, how far off it is, and how the classes that a targeted attack wants are chosen."""

import pytest
import torch

from avrobust_core.attacks.goals import BatchGoal, Goal, batch_goal
from avrobust_core.models.objectives import classification_loss, correct

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 4.0, 4.0, 1.0], [5.0, 1.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1])
SETS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]])
IDS = ("a", "b", "c")


def goal_of(goal, logits=LOGITS, targets=LABELS, task="single-label", ids=IDS, seed=0):
    return batch_goal(goal, logits, targets, task, ids, seed)


@pytest.mark.parametrize(("task", "targets"), [("single-label", LABELS), ("multi-label", SETS)])
def test_untargeted_is_reached_where_the_clip_is_not_correct(task, targets):
    goal = goal_of(Goal(), targets=targets, task=task)
    assert not goal.targeted
    assert goal.labels is targets
    assert torch.equal(goal.reached(LOGITS), ~correct(LOGITS, targets, task))
    assert goal.reached(LOGITS).tolist() == [False, True, True]  # a tie will do
    assert goal.distance(LOGITS).tolist() == [1.0 if task == "single-label" else 2.0, 0.0, -4.0]
    assert torch.equal(goal.loss(LOGITS), classification_loss(LOGITS, targets, task))


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_targeted_is_reached_where_the_class_is_above_all_others(task):
    wanted = torch.tensor([0, 1, 3])
    labels = wanted if task == "single-label" else torch.nn.functional.one_hot(wanted, 4).float()
    goal = BatchGoal(labels, task, targeted=True)
    assert goal.distance(LOGITS).tolist() == [-1, 0, 5]
    assert goal.reached(LOGITS).tolist() == [True, False, False]  # a tie will not do
    assert torch.equal(goal.loss(LOGITS), -classification_loss(LOGITS, labels, task))


@pytest.mark.parametrize("targeted", [False, True])
def test_distance_and_loss_lead_to_the_goal(targeted):
    """Down the distance, and up the loss, the goal is reached."""
    goal = BatchGoal(torch.tensor([2, 0]), "single-label", targeted)
    logits = (
        torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]]) if targeted else torch.tensor([[0.0, 0.5, 1.0], [2.0, 1, 0]])
    )
    assert not goal.reached(logits).any()
    for sign, value in ((-1, goal.distance), (1, goal.loss)):
        x = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(x).sum(), x)
        assert goal.reached(logits + 10 * sign * slope).all()


def test_shifting_all_logits_changes_nothing():
    for targeted in (False, True):
        goal = BatchGoal(LABELS, "single-label", targeted)
        torch.testing.assert_close(goal.distance(LOGITS - 100), goal.distance(LOGITS))
        assert torch.equal(goal.reached(LOGITS - 100), goal.reached(LOGITS))


@pytest.mark.parametrize(
    ("name", "single", "several"), [("least-likely", [3, 0, 3], [3, 0, 3]), ("runner-up", [2, 2, 0], [1, 2, 0])]
)
def test_a_class_is_chosen_by_the_model_s_logits_and_never_one_of_the_clip_s_own(name, single, several):
    assert goal_of(Goal(name)).labels.tolist() == single
    found = goal_of(Goal(name), targets=SETS, task="multi-label")
    assert found.targeted
    assert found.labels.dtype == SETS.dtype
    assert torch.equal(found.labels, torch.nn.functional.one_hot(torch.tensor(several), 4).float())


@pytest.mark.parametrize("name", ["least-likely", "runner-up"])
def test_a_logit_of_minus_infinity_still_goes_before_an_own_class(name):
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert goal_of(Goal(name), logits, torch.tensor([0, 1]), ids=("a", "b")).labels.tolist() == [1, 0]


def test_one_class_for_all_may_be_a_clip_s_own():
    goal = goal_of(Goal("class", 1))
    assert goal.labels.tolist() == [1, 1, 1]
    assert goal.labels.dtype == torch.int64
    assert goal.targeted
    assert goal_of(Goal("class", 3), targets=SETS, task="multi-label").labels.tolist() == [[0, 0, 0, 1]] * 3


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_a_random_class_depends_on_seed_and_clip_alone(task):
    n = 300
    ids = tuple(f"clip-{i}" for i in range(n))
    logits = torch.zeros(n, 4)
    targets = torch.arange(n) % 4
    if task == "multi-label":
        targets = torch.nn.functional.one_hot(targets, 4).float()
    whole = goal_of(Goal("random"), logits, targets, task, ids).labels
    some = torch.tensor([250, 3, 77])
    part = goal_of(Goal("random"), logits[some] + 5, targets[some], task, tuple(ids[i] for i in some)).labels
    assert torch.equal(part, whole[some])
    other = goal_of(Goal("random"), logits, targets, task, ids, seed=1).labels
    assert not torch.equal(other, whole)
    chosen = whole if task == "single-label" else whole.argmax(dim=1)
    own = torch.arange(n) % 4
    assert (chosen != own).all()
    for label in range(4):  # the three others alike
        counts = torch.bincount(chosen[own == label], minlength=4)
        assert counts.tolist()[label] == 0
        assert counts.sum() == 75
        assert (counts.sort().values[1:] > 12).all()


def test_clips_that_have_every_class_are_named():
    targets = torch.tensor([[1.0, 0], [1, 1]])
    with pytest.raises(ValueError, match="no class is left to aim at for b: they have every class"):
        goal_of(Goal("random"), torch.zeros(2, 2), targets, "multi-label", ("a", "b"))


@pytest.mark.parametrize("target", [4, -1])
def test_a_class_that_there_is_not_is_refused(target):
    with pytest.raises(ValueError, match=f"target {target} is none of the 4 classes, 0 to 3"):
        goal_of(Goal("class", target))


def test_a_target_belongs_to_the_goal_class_alone():
    for wrong in (("class", None), ("random", 1), ("untargeted", 0)):
        with pytest.raises(ValueError, match="a target class belongs to the goal 'class'"):
            Goal(*wrong)
    assert [Goal(name).targeted for name in ("untargeted", "random")] == [False, True]


def test_selecting_keeps_the_clips_own_goals():
    goal = goal_of(Goal("least-likely"))
    part = goal.select(torch.tensor([2, 0]))
    assert part.labels.tolist() == [goal.labels[2], goal.labels[0]]
    assert (part.task, part.targeted) == ("single-label", True)
