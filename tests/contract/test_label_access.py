"""An attack that states that labels are enough for it gets nothing else, and is found out where it takes more."""

from typing import Any, ClassVar

import pytest
import torch

from avrobust_core import Attack, AttackResult, AttackRun, AttackViolation, BoundVictim, Victim, attack_batch
from avrobust_core.testing import AttackSubject, CheckFailed, NotApplicable, make_problem
from avrobust_core.testing.access_checks import check_labels_alone


class LabelSearch(Attack):
    """Random points of the region, by labels alone."""

    norms = frozenset({"linf", "l2"})
    access = "labels"

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """The last point that reaches the goal."""
        found = {name: x.clone() for name, x in victim.clean.items()}
        success = victim.fooled(victim.labels(found))
        for number in range(20):
            x = victim.region.project({name: c + 4 * (s - c) for (name, c), s in self.pairs(victim, number)})
            self.peek(victim, x)
            reached = victim.fooled(victim.labels(x))
            for name, each in x.items():
                found[name][reached] = each[reached]
            success |= reached
        return AttackResult(found, success)

    def pairs(self, victim: BoundVictim, number: int) -> Any:
        return zip(victim.clean.items(), victim.sample(f"search/{number}").values(), strict=True)

    def peek(self, victim: BoundVictim, x: dict[str, torch.Tensor]) -> None:
        """Nothing: where the faulty ones take more than labels."""


class Calls(LabelSearch):
    def peek(self, victim: BoundVictim, x: dict[str, torch.Tensor]) -> None:
        victim(x)


class Confirms(LabelSearch):
    def peek(self, victim: BoundVictim, x: dict[str, torch.Tensor]) -> None:
        victim.select(torch.arange(len(victim))).scaled(2.0).confirm(x)


class TakesTheModel(LabelSearch):
    def peek(self, victim: BoundVictim, x: dict[str, torch.Tensor]) -> None:
        victim.limited_to("logits").victim.logits(x)


class GoesPast(LabelSearch):
    """Reaches for the model behind the victim's back, and returns what has the smallest margin."""

    margins: ClassVar[list[float]] = []

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        result = super().__call__(victim)
        margin = victim.goal.distance(victim._victim.logits(result.inputs))
        share = 1 - 0.01 * margin.abs().clamp(max=1)
        x = {n: c + share.view(-1, *[1] * (c.dim() - 1)) * (result.inputs[n] - c) for n, c in victim.clean.items()}
        return AttackResult(x, victim.fooled(victim.labels(x)))


def bound_victim() -> BoundVictim:
    problem = make_problem(seed=3)
    return Victim(problem.oracle, media=problem.media, task="single-label").bind(
        problem.batch, problem.threat(("audio", "video"), "l2")
    )


def test_an_honest_search_by_labels_passes() -> None:
    check_labels_alone(AttackSubject.of(LabelSearch()))


@pytest.mark.parametrize("attack", [Calls, Confirms, TakesTheModel])
def test_what_is_more_than_a_label_is_refused(attack: type[Attack]) -> None:
    """By the victim, in a run as in the check; however it was selected or scaled."""
    problem = make_problem(seed=3)
    victim = Victim(problem.oracle, media=problem.media, task="single-label")
    run = AttackRun("peeps", attack(), problem.threat(("audio", "video"), "l2"))
    with victim.frozen(), pytest.raises(AttackViolation, match=r"ask `victim\.labels\(x\)`"):
        attack_batch(victim, problem.batch, run)
    with pytest.raises(CheckFailed, match="labels"):
        check_labels_alone(AttackSubject.of(attack()))


def test_what_goes_past_the_victim_is_found_out() -> None:
    with pytest.raises(CheckFailed, match=r"reads more than `victim\.labels`"):
        check_labels_alone(AttackSubject.of(GoesPast()))


def test_attacks_that_may_read_logits_are_not_checked() -> None:
    class Reads(LabelSearch):
        access = "logits"

    with pytest.raises(NotApplicable):
        check_labels_alone(AttackSubject.of(Reads()))


def test_labels_say_of_every_goal_what_the_logits_say() -> None:
    """Ties, too: one with the clip's own class reaches an untargeted goal, and no targeted one."""
    victim = bound_victim()
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [-5.0, -6.0, -4.0]])
    for targeted in (False, True):
        for label in range(3):
            goal = type(victim.goal)(torch.full((4,), label), "single-label", targeted)
            top = (logits >= logits.amax(dim=1, keepdim=True)).float()
            assert torch.equal(goal.reached(top), goal.reached(logits))
            hot = torch.nn.functional.one_hot(goal.labels, 3).float()
            several = type(victim.goal)(hot, "multi-label", targeted)
            assert torch.equal(several.reached(top), several.reached(logits))
    found = victim.labels(victim.clean)
    assert torch.equal(found.argmax(dim=1), victim.confirm(victim.clean).argmax(dim=1))
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_points_of_one_clip_in_one_pass_each_cost_it_a_query() -> None:
    victim = bound_victim()
    part = victim.select(torch.tensor([0, 0, 0, 2]))
    part.labels(part.clean)
    assert victim.queries[:4].tolist() == [3, 0, 1, 0]
    assert not victim.unanswered.any()
    part = victim.select(torch.tensor([1, 1]))
    broken = {name: x.clone() for name, x in part.clean.items()}
    broken["audio"][0] = torch.nan
    part.labels(broken)
    assert victim.unanswered.nonzero().flatten().tolist() == [1]
