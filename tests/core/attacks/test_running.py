"""Attack runs over a range of budgets: monotone curves, warm starts, targets, corruptions; with known answers."""

import pytest
import torch
from torch import nn

from avrobust_core import Attack, AttackResult, Batch, MediaSpec, ThreatModel, Victim
from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.running import AttackRun, attack_batch, moved_by
from avrobust_core.errors import AttackViolation


class Sum(nn.Module):
    """Class 0 where the clip sums to less than 0, class 1 where it sums to more; class 2 is never ahead."""

    def forward(self, inputs):
        odds = inputs["audio"].flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(odds), odds, torch.full_like(odds, -5.0)], dim=1)


class Push(Attack):
    """Moves all samples up by the whole radius; keeps note of what it was asked."""

    norms = frozenset({"linf"})

    def __init__(self):
        self.asked = []

    def __call__(self, victim):
        start = None if victim.start is None else victim.start["audio"].clone()
        self.asked.append((victim.ids, float(victim.balls["audio"].radius[0]), start))
        ones = {"audio": torch.ones_like(victim.clean["audio"])}
        x = victim.region.project(victim.region.step(victim.clean, ones, 1.0))
        fooled = victim.fooled(victim(x))
        kept = torch.where(fooled.view(-1, 1, 1), x["audio"], victim.clean["audio"])
        return AttackResult({"audio": kept}, fooled, last=x)


class Smallest(Push):
    """Knows the smallest push that fools, and makes it where the region allows it."""

    minimal = True

    def __call__(self, victim):
        needed = -victim.clean["audio"].sum(dim=(1, 2)) / 4 * (1 + 1e-6)
        inside = needed <= victim.balls["audio"].radius
        moved = victim.clean["audio"] + torch.where(inside, needed, 0.0).view(-1, 1, 1)
        self.asked.append((victim.ids, float(victim.balls["audio"].radius[0]), None))
        return AttackResult({"audio": moved}, inside)


class Blank(Attack):
    """A corruption: all samples at 1, whatever the radius."""

    norms = frozenset({"linf"})
    bounded = False

    def __call__(self, victim):
        x = {"audio": torch.ones_like(victim.clean["audio"])}
        return AttackResult(x, victim.fooled(victim(x)))


NEEDED = torch.tensor([0.05, 0.15, 0.3, 0.9])
"""By how much each sample of each clip must rise."""
THREAT = ThreatModel.model_validate({"audio": {"eps": 0.2}})


@pytest.fixture
def batch():
    audio = -NEEDED.view(4, 1, 1).expand(4, 1, 4).clone()
    return Batch({"audio": audio}, torch.zeros(4, dtype=torch.int64), ("a", "b", "c", "d"))


@pytest.fixture
def victim():
    media = {"audio": MediaSpec(kind="audio", shape=(1, 4), bounds=(-1.0, 1.0))}
    return Victim(Sum(), media=media, task="single-label")


def test_a_sweep_gives_the_smallest_budget_that_breaks_each_clip(victim, batch):
    found = attack_batch(victim, batch, AttackRun("push", Push(), THREAT, factors=(0.5, 1.0, 2.0)))
    assert found.factor.tolist() == [0.5, 1.0, 2.0, torch.inf]
    assert found.success.tolist() == [True, True, False, False]
    torch.testing.assert_close(found.norms["audio"], torch.tensor([0.1, 0.2, 0.0, 0.0]).double(), rtol=0, atol=1e-6)
    assert torch.equal(found.logits, victim.logits(found.inputs))


def test_a_sweep_goes_on_only_with_what_is_left_and_from_where_it_stood(victim, batch):
    attack = Push()
    attack_batch(victim, batch, AttackRun("push", attack, THREAT, factors=(0.5, 1.0, 2.0)))
    assert [ids for ids, _, _ in attack.asked] == [("a", "b", "c", "d"), ("b", "c", "d"), ("c", "d")]
    assert [eps for _, eps, _ in attack.asked] == pytest.approx([0.1, 0.2, 0.4])
    assert attack.asked[0][2] is None
    torch.testing.assert_close(attack.asked[1][2], batch.inputs["audio"][1:] + 0.1)
    torch.testing.assert_close(attack.asked[2][2], batch.inputs["audio"][2:] + 0.2)


def test_a_sweep_costs_no_queries_for_what_is_broken_already(victim, batch):
    found = attack_batch(victim, batch, AttackRun("push", Push(), THREAT, factors=(0.5, 1.0, 2.0)))
    assert found.queries.tolist() == [1, 2, 3, 3]


def test_an_attack_for_the_smallest_perturbation_gives_the_whole_curve_in_one_run(victim, batch):
    attack = Smallest()
    found = attack_batch(victim, batch, AttackRun("smallest", attack, THREAT, factors=(0.5, 1.0, 2.0)))
    torch.testing.assert_close(found.factor[:3], NEEDED[:3].double() / 0.2, rtol=1e-4, atol=0)
    assert found.factor[3] == torch.inf
    assert [(ids, eps) for ids, eps, _ in attack.asked] == [(("a", "b", "c", "d"), 0.4)]


def test_beyond_the_threat_a_smallest_perturbation_leaves_the_clip_as_it_was(victim, batch):
    found = attack_batch(victim, batch, AttackRun("smallest", Smallest(), THREAT, factors=(1.0, 2.0)))
    assert found.success.tolist() == [True, True, False, False]
    assert torch.equal(found.inputs["audio"][2:], batch.inputs["audio"][2:])
    assert torch.equal(found.logits, victim.logits(found.inputs))


def test_several_labels_are_never_settled(batch):
    multi = Batch(batch.inputs, nn.functional.one_hot(batch.targets, 3).float(), batch.ids)
    victim = Victim(Sum(), media={"audio": MediaSpec(kind="audio", shape=(1, 4))}, task="multi-label")
    attack = Push()
    found = attack_batch(victim, multi, AttackRun("push", attack, THREAT, factors=(0.5, 1.0, 2.0)))
    assert [len(ids) for ids, _, _ in attack.asked] == [4, 4, 4]
    assert found.factor.tolist() == [0.5, 1.0, 2.0, torch.inf]


def test_success_is_that_of_the_goal(victim, batch):
    wide = ThreatModel.model_validate({"audio": {"eps": 1.0}})
    assert not attack_batch(victim, batch, AttackRun("push", Push(), wide, Goal("class", 2))).success.any()
    assert attack_batch(victim, batch, AttackRun("push", Push(), wide, Goal("class", 1))).success.all()


def test_a_corruption_is_measured_not_refused(victim, batch):
    found = attack_batch(victim, batch, AttackRun("blank", Blank(), THREAT))
    torch.testing.assert_close(found.norms["audio"], (1 + NEEDED).double())
    assert found.success.all()


def test_an_attack_that_is_no_corruption_is_refused_outside_its_ball(victim, batch):
    attack = Blank()
    attack.bounded = True
    with pytest.raises(AttackViolation, match="'blank' left the linf ball of audio"):
        attack_batch(victim, batch, AttackRun("blank", attack, THREAT))


@pytest.mark.parametrize("factors", [(), (0.5,), (1.0, 0.5), (1.0, 1.0), (-1.0, 1.0)])
def test_factors_that_are_no_curve_are_refused(factors):
    with pytest.raises(ValueError, match="positive, ascending, each once, 1 among them"):
        AttackRun("push", Push(), THREAT, factors=factors)


def test_clips_that_are_to_be_tried_on_others_stand_where_the_search_ended(victim, batch):
    moved = moved_by(victim, batch, AttackRun("push", Push(), THREAT))["audio"]
    torch.testing.assert_close(moved, batch.inputs["audio"] + 0.2)  # "c" and "d" withstand, and are moved all the same
    unmoved = moved_by(victim, batch, AttackRun("smallest", Smallest(), THREAT))["audio"]
    assert torch.equal(unmoved[2:], batch.inputs["audio"][2:]), "an attack that does not say where it ended"


def test_where_a_search_ended_is_verified_like_its_result(victim, batch):
    class Far(Push):
        def __call__(self, victim):
            result = super().__call__(victim)
            return AttackResult(result.inputs, result.success, last={"audio": torch.ones_like(result.inputs["audio"])})

    with pytest.raises(AttackViolation, match="left the linf ball of audio"):
        moved_by(victim, batch, AttackRun("far", Far(), THREAT))
