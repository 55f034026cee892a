"""Auto-PGD: its checkpoints, its step sizes, its way back to the best point, and its climbs towards one class each."""

import pytest
import torch
from avrobust_attacks.gradient.apgd import AutoSteps, checkpoints
from avrobust_attacks.gradient.apgd import apgd as _build_apgd
from avrobust_attacks.gradient.attack import likely_classes
from avrobust_attacks.gradient.configs import ApgdConfig
from avrobust_attacks.losses import LOSSES
from pydantic import ValidationError
from torch import nn

from avrobust_core import Batch, BatchGoal, Budget, Goal
from avrobust_core.threats.regions import Region, make_ball


class Curves(nn.Module):
    """Logits (B, K) as functions of the one audio sample; keeps what it was asked."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = functions
        self.seen = []

    def forward(self, inputs):
        x = inputs["audio"].flatten(1)[:, 0]
        self.seen.append(x.detach().clone())
        return torch.stack([function(x) for function in self.functions], dim=1)


def scalars(values, labels=0):
    x = torch.tensor(values).view(-1, 1, 1)
    targets = torch.full((len(values),), labels)
    return Batch({"audio": x}, targets, tuple(f"c{i}" for i in range(len(values))))


UNIT = {"audio": {"eps": 1.0}}


def test_the_checkpoints_are_those_of_the_paper():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(20)) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert sorted(checkpoints(1)) == [1]


def walk(losses, steps):
    """The lengths of the steps that a stepper takes on one sample in [-100, 100], with losses told to it."""
    x = torch.zeros(1, 1)
    region = Region({"audio": make_ball(x, Budget(eps=100.0), None)})
    stepper = AutoSteps(steps)
    taken = []
    for step, loss in enumerate(losses):
        before = stepper._length.item() if step else 2.0
        moved = stepper.move(region, {"audio": x}, {"audio": torch.ones(1, 1)}, torch.tensor([loss]))
        taken.append((before, stepper._length.item()))
        x = moved["audio"]
    return [step for step, (before, after) in enumerate(taken) if after < before]


def test_a_step_size_that_pays_is_kept():
    assert walk([float(i) for i in range(100)], 100) == []


def test_a_step_size_is_halved_where_too_few_steps_rise():
    falling = [float(-i) for i in range(100)]
    assert walk(falling, 100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_three_rises_in_four_are_enough():
    """0, 1, 2, 3, 2.5, ... with a new best in every window: no reason to halve."""
    losses = [0.0]
    for i in range(1, 100):
        losses.append(losses[-1] + (-0.5 if i % 5 == 0 else 1.0))
    assert walk(losses, 100) == []
    losses = [0.0]
    for i in range(1, 100):
        losses.append(losses[-1] + (-0.5 if i % 3 == 0 else 1.0))
    assert 22 in walk(losses, 100)


def test_a_step_size_that_finds_nothing_better_is_halved_every_other_time():
    """Rises enough after each fall, but never above the first loss: condition 2, which does not follow itself."""
    losses = [1000.0, *(float(i) for i in range(99))]
    assert walk(losses, 100) == [22, 57, 80, 93]


def test_it_comes_to_rest_at_a_maximum_that_fixed_steps_jump_over(run_attack):
    model = Curves(lambda x: 0 * x, lambda x: -3 - (x - 0.3).square())
    found = run_attack(_build_apgd(ApgdConfig(steps=60)), model, scalars([0.0, 0.1, -0.4]), UNIT)
    assert not found.result.success.any()
    torch.testing.assert_close(found.result.last["audio"].flatten(), torch.full((3,), 0.3), rtol=0, atol=0.02)


def test_it_rests_at_the_best_point_of_its_way(run_attack):
    """Few steps, as long as the ball is wide, jump to and fro across the maximum."""
    model = Curves(lambda x: 0 * x, lambda x: -3 - (x - 0.3).square())
    found = run_attack(_build_apgd(ApgdConfig(steps=4)), model, scalars([0.0, 0.1, -0.4, 0.25]), UNIT)
    reached = model.functions[1](found.result.last["audio"].flatten())
    torch.testing.assert_close(reached, found.result.trace.amax(dim=0))
    assert (reached > found.result.trace[-1] + 1e-3).any()


def test_after_a_checkpoint_without_a_rise_it_goes_on_from_the_best_point():
    """Without momentum: the move that led elsewhere is forgotten."""
    x = torch.zeros(1, 1)
    region = Region({"audio": make_ball(x, Budget(norm="l2", eps=1000.0), None)})
    stepper = AutoSteps(20)
    seen = []
    for loss in (0.0, 9.0, 3.0, 2.0, 1.0, 0.5):  # the best is the second; the first checkpoint is the sixth
        if seen:
            stepper._length = torch.tensor([0.01])
        slope = torch.tensor([[1.0 if seen else -1.0]])  # out to the edge, and back in small steps
        seen.append(x.item())
        x = stepper.move(region, {"audio": x}, {"audio": slope}, torch.tensor([loss]))["audio"]
    assert len(set(seen)) == 6
    assert x.item() == pytest.approx(seen[1] + 0.75 * 1000 * 0.005, rel=1e-5)


def test_momentum_carries_a_quarter_of_the_last_move():
    x = torch.zeros(1, 2)
    region = Region({"audio": make_ball(x, Budget(norm="l2", eps=1000.0), None)})
    stepper = AutoSteps(50)
    stepper._checkpoints = frozenset()
    first = stepper.move(region, {"audio": x}, {"audio": torch.tensor([[1e-3, 0.0]])}, torch.tensor([0.0]))["audio"]
    stepper._length = torch.tensor([0.1])
    second = stepper.move(region, {"audio": first}, {"audio": torch.tensor([[0.0, 5.0]])}, torch.tensor([1.0]))["audio"]
    ball = region.balls["audio"]
    z = ball.project(first + torch.tensor([[0.0, 100.0]]))
    expected = ball.project(first + 0.75 * (z - first) + 0.25 * (first - x))
    torch.testing.assert_close(second, expected)


# Climbs towards one class each
TRAP = (lambda x: 0 * x + 1, lambda x: 0.9 - (x - 0.1).square(), lambda x: -2 * x - 0.5, lambda x: 0 * x - 10)
"""Class 1 is the nearest at 0, and never gets there; class 2 does, the other way."""


def test_a_class_that_is_not_the_nearest_is_found_by_aiming_at_it(run_attack):
    batch = scalars([0.0, 0.05])
    blind = _build_apgd(ApgdConfig(steps=10, loss="dlr", random_start=False))
    aimed = _build_apgd(ApgdConfig(steps=10, loss="targeted", random_start=False))
    assert not run_attack(blind, Curves(*TRAP), batch, {"audio": {"eps": 0.9}}).result.success.any()
    found = run_attack(aimed, Curves(*TRAP), batch, {"audio": {"eps": 0.9}})
    assert found.result.success.all()
    assert found.bound.queries.tolist() == [1 + 11 + 2] * 2  # the clean clip, all of class 1, and class 2 at once


@pytest.mark.parametrize("targets", [1, 2, 9])
def test_the_classes_aimed_at_are_the_likeliest_others(run_attack, targets):
    logits = torch.tensor([[3.0, 5.0, 4.0, 1.0], [9.0, 1.0, 0.0, 2.0]])
    found = likely_classes(logits, BatchGoal(torch.tensor([1, 0]), "single-label"), targets)
    assert found.tolist() == [[2, 0, 3][:targets], [3, 1, 2][:targets]]
    model = Curves(*TRAP[:2], lambda x: 0 * x - 5, lambda x: 0 * x - 10)  # none is ever reached
    attack = _build_apgd(ApgdConfig(steps=4, loss="targeted", targets=targets))
    assert run_attack(attack, model, scalars([0.0]), UNIT).bound.queries.tolist() == [1 + min(targets, 3) * 5]


def test_a_goal_that_is_a_class_is_the_only_one_aimed_at(run_attack):
    attack = _build_apgd(ApgdConfig(steps=5, loss="targeted"))
    found = run_attack(attack, Curves(*TRAP), scalars([0.0]), UNIT, goal=Goal("class", 3))
    assert found.bound.queries.tolist() == [1 + 6]
    found = run_attack(attack, Curves(*TRAP), scalars([0.0]), UNIT, goal=Goal("class", 2))
    assert found.result.success.all()


def test_with_several_labels_what_is_kept_over_all_climbs_is_told_by_one_loss(run_attack, av_model, av_batch):
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).repeat(4, 1)
    batch = Batch(av_batch.inputs, targets, av_batch.ids)
    threat = {"audio": {"eps": 0.1}}
    attack = _build_apgd(ApgdConfig(steps=6, loss="targeted"))
    asked = []
    handle = av_model.head.register_forward_hook(lambda module, args, out: asked.append(out.detach()))
    found = run_attack(attack, av_model, batch, threat, task="multi-label")
    handle.remove()
    scores = torch.stack([LOSSES["dlr"](z, found.bound.goal) for z in asked[: 1 + 2 * 7]])
    kept = LOSSES["dlr"](found.verdict.logits, found.bound.goal)
    torch.testing.assert_close(kept, scores.amax(dim=0), rtol=1e-4, atol=1e-5)


# Fault 19
@pytest.mark.parametrize("loss", ["dlr", "targeted"])
def test_two_classes_are_attacked_by_the_margin(run_attack, loss):
    model = Curves(lambda x: 0 * x, lambda x: x - 0.5)
    attack = _build_apgd(ApgdConfig(steps=8, loss=loss))
    found = run_attack(attack, model, scalars([0.0, -0.4, -0.6]), UNIT)
    assert found.result.success.tolist() == [True, True, False]


def test_a_climb_of_one_step_is_a_step(run_attack):
    model = Curves(lambda x: 0 * x, lambda x: x - 0.95)
    attack = _build_apgd(ApgdConfig(steps=1, random_start=False))
    assert run_attack(attack, model, scalars([0.0, -0.1]), UNIT).result.success.tolist() == [True, False]


def test_what_it_remembers_goes_along_with_the_clips(run_attack):
    """Clips that leave at different steps do not mix up the memory of those that stay."""
    functions = (lambda x: 0 * x, lambda x: torch.where(x > 0, x - 0.35, x.new_tensor(-3.0) - (x + 0.55).square()))
    values = [0.3, -0.6, 0.01, -0.9, 0.2, -0.7]
    attack = _build_apgd(ApgdConfig(steps=25, random_start=False))
    threat = {"audio": {"eps": 0.05}}
    whole = run_attack(attack, Curves(*functions), scalars(values), threat)
    assert whole.result.success.tolist() == [True, False, False, False, False, False]
    for i, value in enumerate(values):
        alone = run_attack(attack, Curves(*functions), scalars([value]), threat)
        torch.testing.assert_close(alone.result.trace[:, 0], whole.result.trace[:, i], equal_nan=True)
        torch.testing.assert_close(alone.result.last["audio"][0], whole.result.last["audio"][i])


def test_its_configuration_refuses_what_cannot_be():
    for wrong in ({"restarts": 2, "random_start": False}, {"loss": "mse"}, {"targets": 0}, {"steps": 0}):
        with pytest.raises(ValidationError):
            ApgdConfig(**wrong)
