"""Each known fault, planted into a sound attack by a small change, is caught by the check that the table names."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import pytest
import torch
from torch.nn import functional as F

from avrobust_core import Attack, AttackResult, Passes, Preparation, Region
from avrobust_core.testing import ATTACK_CHECKS, AttackSubject, CheckFailed, parametrize_with_checks

CHECKS = {check.name: check for check in ATTACK_CHECKS}


def shaped(values, like):
    return values.view(-1, *[1] * (like.dim() - 1))


# Four sound attacks ---------------------------------------------------------------------------------------------------


class Climb(Attack):
    """Projected gradient ascent on the margin; each clip's first success is kept, and the last iterate scored.

    Of a model with randomness of its own, the last iterate is returned.
    """

    norms = frozenset({"linf", "l2", "l1", "l0"})
    steps = 10
    length = 0.3

    def __call__(self, victim):
        self.begin(victim)
        x = self.start(victim)
        for _ in range(self.steps):
            logits, gradients = self.look(victim, x)
            self.keep(victim, x, logits)
            if self.stop(victim, logits):
                break
            x = self.move(victim, x, gradients)
        self.end(victim, x)
        return self.result(victim, x)

    def begin(self, victim):
        self.kept = self.blank(victim)
        self.success = torch.zeros(len(victim), dtype=torch.bool)

    def blank(self, victim):
        return {name: clean.clone() for name, clean in victim.clean.items()}

    def start(self, victim):
        return dict(victim.start or victim.clean)

    def look(self, victim, x):
        leaves = {name: value.detach().clone().requires_grad_() for name, value in x.items()}
        with torch.enable_grad():
            logits = victim(leaves)
            loss = self.loss(victim, logits).sum()
        return logits.detach(), self.gradients(victim, loss, leaves)

    def loss(self, victim, logits):
        return -victim.goal.distance(logits)

    def gradients(self, victim, loss, leaves):
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def reached(self, victim, x, logits):
        found = victim.fooled(logits)
        return found if victim.exact else found & victim.fooled(victim.confirm(x))

    def keep(self, victim, x, logits):
        new = self.reached(victim, x, logits) & ~self.success
        self.kept = {name: torch.where(shaped(new, old), x[name], old) for name, old in self.kept.items()}
        self.success = self.success | new

    def stop(self, victim, logits):
        return False

    def move(self, victim, x, gradients):
        return victim.region.project(victim.region.step(x, gradients, self.length))

    @torch.no_grad()
    def end(self, victim, x):
        self.keep(victim, x, victim(x))

    def settles(self, victim):
        return victim.repeatable

    def result(self, victim, x):
        found = AttackResult(self.kept, self.success) if self.settles(victim) else self.as_it_is(victim, x)
        del self.kept, self.success
        return found

    def as_it_is(self, victim, x):
        return AttackResult(dict(x), victim.fooled(victim.confirm(x)))


class TanhClimb(Climb):
    """The same in a variable that tanh maps between the bounds, kept clear of them on the way back."""

    norms = frozenset({"linf"})
    clear = 1 - 1e-3

    def move(self, victim, x, gradients):
        if any(ball.bounds is None for ball in victim.balls.values()):
            return super().move(victim, x, gradients)
        moved = {}
        for name, ball in victim.balls.items():
            low, high = ball.bounds
            w = torch.atanh((2 * x[name] - low - high) / (high - low) * self.clear)
            w = w + 0.6 * (gradients[name] * (1 - torch.tanh(w) ** 2)).sign()
            moved[name] = (low + high + (high - low) * torch.tanh(w)) / 2
        return victim.region.project(moved)


class Bisect(Climb):
    """The smallest region in which a short climb succeeds, by bisection of each clip's own bracket.

    Of a model with randomness of its own, the end of one climb in the whole region.
    """

    norms = frozenset({"linf", "l2"})
    minimal = True
    steps = 6
    rounds = 7

    def __call__(self, victim):
        if not self.settles(victim):
            return super().__call__(victim)
        self.begin(victim)
        low, high = self.bracket(victim)
        self.size = torch.zeros_like(high)
        with torch.no_grad():
            self.keep(victim, victim.clean, victim(victim.clean))
        for _ in range(self.rounds):
            size = (low + high) / 2
            hit = self.climb(victim, size)
            high[hit] = size[hit]
            low[~hit] = size[~hit]
        return self.result(victim, None)

    def bracket(self, victim):
        return torch.zeros(len(victim), dtype=torch.float64), torch.ones(len(victim), dtype=torch.float64)

    def climb(self, victim, size):
        hit = torch.zeros_like(self.success)
        x = self.start(victim)
        for step in range(self.steps + 1):
            x = victim.region.project(victim.region.within(x, size))
            if step == self.steps:
                with torch.no_grad():
                    logits = victim(x)
            else:
                logits, gradients = self.look(victim, x)
            now = self.reached(victim, x, logits)
            hit |= now
            self.keep_smaller(victim, x, now)
            if step < self.steps:
                x = victim.region.step(x, gradients, size * self.length)
        return hit

    def keep_smaller(self, victim, x, now):
        size = victim.region.size(x)
        better = now & ~(self.success & (self.size <= size))
        self.size = torch.where(better, size, self.size)
        self.kept = {name: torch.where(shaped(better, old), x[name], old) for name, old in self.kept.items()}
        self.success = self.success | now


class Both(Attack):
    """The first success of two attacks, of which one hardly moves; of a random model what the other one found."""

    norms = frozenset({"linf", "l2"})

    def __init__(self):
        weak, strong = Climb(), Climb()
        weak.steps, weak.length = 1, 0.05
        self.members = (("weak", weak), ("strong", strong))

    def __call__(self, victim):
        results = [member(victim) for _, member in self.members]
        return self.chosen(victim, results) if victim.repeatable else results[-1]

    def chosen(self, victim, results):
        first, second = results
        inputs = {
            name: torch.where(shaped(first.success, x), x, second.inputs[name]) for name, x in first.inputs.items()
        }
        return AttackResult(inputs, first.success | second.success)


class Universal(Climb):
    """One perturbation for all clips, climbed batch by batch and projected at each step."""

    norms = frozenset({"linf"})
    preparation = Preparation(batch_size=4)

    def prepare(self, victims):
        self.delta = {}
        for _ in range(8):
            for victim in victims():
                if not self.delta:
                    self.delta = {name: torch.zeros_like(clean[:1]) for name, clean in victim.clean.items()}
                _, gradients = self.look(victim, {name: x + self.delta[name] for name, x in victim.clean.items()})
                for name, ball in victim.balls.items():
                    moved = self.delta[name] + 0.4 * ball.radius.min().float() * gradients[name].sum(0, True).sign()
                    self.delta[name] = self.limited(moved, ball.radius.min().float())
        return self

    def limited(self, delta, radius):
        return delta.clamp(-radius, radius)

    def applied(self, victim):
        return victim.region.project({name: x + self.delta[name] for name, x in victim.clean.items()})

    def __call__(self, victim):
        self.begin(victim)
        for x in (victim.clean, self.applied(victim)):
            with torch.no_grad():
                self.keep(victim, x, victim(x))
        return self.result(victim, self.applied(victim))


# The faults -----------------------------------------------------------------------------------------------------------


class AtTheBoundsInfinite(TanhClimb):
    clear = 1.0


class MaskedByMultiplying(Climb):
    def masked(self, victim, logits):
        own = F.one_hot(victim.goal.labels, logits.shape[1])
        return (logits * (1 - own)).amax(dim=1) - (logits * own).sum(dim=1)

    def loss(self, victim, logits):
        plain = victim.task == "single-label" and not victim.goal.targeted
        return self.masked(victim, logits) if plain else super().loss(victim, logits)

    def reached(self, victim, x, logits):
        plain = victim.task == "single-label" and not victim.goal.targeted
        return self.masked(victim, logits) >= 0 if plain else super().reached(victim, x, logits)


class AbortsOnTheSum(Climb):
    def stop(self, victim, logits):
        return bool(self.loss(victim, logits).sum() >= 0)


class Backward(Climb):
    def gradients(self, victim, loss, leaves):
        loss.backward()
        return {name: leaf.grad for name, leaf in leaves.items()}


class LastIterate(Climb):
    def result(self, victim, x):
        with torch.no_grad():
            success = self.reached(victim, x, victim(x))
        return AttackResult(
            {name: torch.where(shaped(success, x[name]), x[name], c) for name, c in victim.clean.items()}, success
        )


class LastStepUnseen(Climb):
    def end(self, victim, x):
        pass


class ZerosForFailures(Climb):
    def blank(self, victim):
        return {name: torch.zeros_like(clean) for name, clean in victim.clean.items()}


class ZerosForSuccesses(ZerosForFailures):
    def result(self, victim, x):
        return AttackResult(self.kept, torch.ones_like(self.success))


class UnitInterval(Climb):
    def move(self, victim, x, gradients):
        return {name: value.clamp(0, 1) for name, value in super().move(victim, x, gradients).items()}


class FourDimensions(Climb):
    norms = frozenset({"linf", "l2"})

    def move(self, victim, x, gradients):
        for name, ball in victim.balls.items():
            if ball.norm == "l2":
                gradients[name] = gradients[name] / gradients[name].flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return super().move(victim, x, gradients)


class PicturesOnly(Climb):
    def move(self, victim, x, gradients):
        return super().move(
            victim, x, {name: g - g.mean(dim=(-3, -2, -1), keepdim=True) for name, g in gradients.items()}
        )


class RescalesL1(Climb):
    norms = frozenset({"l1"})

    def move(self, victim, x, gradients):
        moved = {}
        for name, ball in victim.balls.items():
            g = gradients[name]
            step = g / shaped(g.flatten(1).abs().sum(dim=1), g) * shaped(ball.radius.float(), g) * self.length
            delta = x[name] + step - ball.center
            share = ball.radius.float() * (1 - 1e-6) / delta.flatten(1).abs().sum(dim=1).clamp(min=1e-9)
            moved[name] = ball.center + delta * shaped(share.clamp(max=1), delta)
            moved[name] = moved[name] if ball.bounds is None else moved[name].clamp(*ball.bounds)
        return moved


class MaximumOverTheBatch(Climb):
    def move(self, victim, x, gradients):
        moved = super().move(victim, x, gradients)
        for name, ball in victim.balls.items():
            share = (ball.radius / ball.measure(moved[name]).max()).clamp(max=1).float()
            moved[name] = ball.center + (moved[name] - ball.center) * shaped(share, moved[name])
        return victim.region.project(moved)


class WrongSignInExpectation(Climb):
    def gradients(self, victim, loss, leaves):
        found = super().gradients(victim, loss, leaves)
        return found if victim.victim.samples == 1 else {name: -g for name, g in found.items()}


class NoiseGrowsWithTheBatch(Climb):
    def gradients(self, victim, loss, leaves):
        found = super().gradients(victim, loss, leaves)
        for name, g in found.items():
            found[name] = g + victim.draws(f"noise/{name}").noise(g.shape[1:], "gaussian") * 0.1 * len(victim)
        return found


class SmallestDistanceOfAll(Both):
    def chosen(self, victim, results):
        first, second = results
        nearer = victim.region.size(first.inputs) <= victim.region.size(second.inputs)
        inputs = {name: torch.where(shaped(nearer, x), x, second.inputs[name]) for name, x in first.inputs.items()}
        return AttackResult(inputs, torch.where(nearer, first.success, second.success))


class SmallestDistanceOfSeveralLabels(SmallestDistanceOfAll):
    def __call__(self, victim):
        results = [member(victim) for _, member in self.members]
        return self.chosen(victim, results) if victim.task == "multi-label" else Both.chosen(self, victim, results)


class AliasedBracket(Bisect):
    def bracket(self, victim):
        both = torch.full((len(victim),), 0.75, dtype=torch.float64)
        return both, both


class ResetAtEachRound(Bisect):
    def climb(self, victim, size):
        size.fill_(0.6)
        return super().climb(victim, size)


class ValueByValue(Climb):
    def keep(self, victim, x, logits):
        super().keep(victim, x, logits)
        assert all(float(size) <= 1.1 for size in victim.region.size(x))


class BudgetInNumpy(Climb):
    def move(self, victim, x, gradients):
        moved = super().move(victim, x, gradients)
        return {name: torch.from_numpy(value.numpy().astype("float64")).float() for name, value in moved.items()}


class BudgetInFloat64(Climb):
    def move(self, victim, x, gradients):
        moved = {}
        for name, ball in victim.balls.items():
            center, radius = ball.center.double(), shaped(ball.radius, ball.center)
            step = gradients[name].double().sign() * radius * self.length
            delta = (x[name].double() + step - center).clamp(min=-radius).clamp(max=radius)
            moved[name] = (center + delta.abs() * delta.sign()).float()
        return victim.region.project(moved)


class AroundTheIterate(Climb):
    def move(self, victim, x, gradients):
        moved = victim.region.step(x, gradients, self.length)
        for name, ball in victim.balls.items():
            radius = shaped(ball.radius.float(), x[name])
            moved[name] = torch.minimum(torch.maximum(moved[name], x[name] - radius), x[name] + radius)
            moved[name] = moved[name] if ball.bounds is None else moved[name].clamp(*ball.bounds)
        return moved


class UniversalUnprojected(Universal):
    def limited(self, delta, radius):
        return delta

    def applied(self, victim):
        moved = {name: x + self.delta[name] for name, x in victim.clean.items()}
        bounds = {name: ball.bounds or (-torch.inf, torch.inf) for name, ball in victim.balls.items()}
        return {name: x.clamp(*bounds[name]) for name, x in moved.items()}


class VideoOnly(Climb):
    def move(self, victim, x, gradients):
        moved = super().move(victim, x, gradients)
        return {name: moved[name] if name == "video" else value for name, value in x.items()}


class SeedsEverything(Climb):
    def start(self, victim):
        torch.manual_seed(0)
        return super().start(victim)


class DrawsGlobally(Climb):
    def gradients(self, victim, loss, leaves):
        found = super().gradients(victim, loss, leaves)
        return {name: g * (torch.rand(g.shape) + random.random()) for name, g in found.items()}


class ThirdLogit(Climb):
    def loss(self, victim, logits):
        top = logits.sort(dim=1, descending=True).values
        return super().loss(victim, logits) / (top[:, 0] - top[:, 2] + 1e-12)


class TrainingMode(Climb):
    def look(self, victim, x):
        victim.victim.model.train()
        found = super().look(victim, x)
        victim.victim.model.eval()
        return found


class RewritesResults(Climb):
    def begin(self, victim):
        super().begin(victim)
        self.seen = getattr(self, "seen", [])

    def result(self, victim, x):
        found = super().result(victim, x)
        self.seen.append(found.inputs)
        torch.save({name: torch.cat([x[name] for x in self.seen]) for name in found.inputs}, BytesIO())
        return found


# Faults beyond the table, so that no check is one that cannot fail ---------------------------------------------------


class Descends(Climb):
    def loss(self, victim, logits):
        return victim.goal.distance(logits)


class RoundsTo8Bits(Climb):
    def result(self, victim, x):
        return AttackResult({name: (x * 127).round() / 127 for name, x in self.kept.items()}, self.success)


class BelievesLowPrecision(Climb):
    def reached(self, victim, x, logits):
        return victim.fooled(logits)


class BelievesLuckyLooks(Climb):
    def settles(self, victim):
        return True


class SmallestLuckyLook(Bisect):
    def settles(self, victim):
        return True


class EndsAtALuckyLook(Climb):
    def as_it_is(self, victim, x):
        return super().as_it_is(victim, self.kept)


class IgnoresTheAim(Climb):
    def loss(self, victim, logits):
        own = logits.gather(1, victim.goal.labels.unsqueeze(1)).squeeze(1) if victim.goal.targeted else None
        return super().loss(victim, logits) if own is None else -own


class OneLabelOnly(Climb):
    def loss(self, victim, logits):
        return super().loss(victim, logits) if victim.task == "single-label" else logits.sum(dim=1) * 0


class StartIsTheCenter(Climb):
    def move(self, victim, x, gradients):
        moved = victim.region.step(x, gradients, self.length)
        for name, ball in victim.balls.items():
            center = (victim.start or victim.clean)[name]
            radius = shaped(ball.radius.float(), center)
            moved[name] = torch.minimum(torch.maximum(moved[name], center - radius), center + radius)
        return moved if victim.start else victim.region.project(moved)


class TooShortToCross(Climb):
    steps = 3

    def start(self, victim):
        return victim.start or victim.sample("start")


class StatesTooFewPasses(Climb):
    def passes(self, occasion):
        return Passes(self.steps, self.steps, exact=False)


class StatesABoundAsExact(Climb):
    def passes(self, occasion):
        return Passes(5 * self.steps, 5 * self.steps)


class ReachesIntoPadding(Climb):
    def move(self, victim, x, gradients):
        balls = victim.balls.items()
        # `around` is for other clips, and knows nothing of the padding of these.
        region = Region({name: ball.around(ball.center, ball.radius, ball.bounds) for name, ball in balls})
        return region.project(region.step(x, gradients, self.length))


class ClearsItsCount(Climb):
    def result(self, victim, x):
        victim.queries.zero_()
        return super().result(victim, x)


class ReachesForItsCount(Climb):
    def result(self, victim, x):
        victim._queries.zero_()
        return super().result(victim, x)


class AssignsItsCount(Climb):
    def result(self, victim, x):
        victim.queries = torch.zeros(len(victim), dtype=torch.int64)
        return super().result(victim, x)


class ForgetsItsGradients(Climb):
    def result(self, victim, x):
        victim.gradients._passes.zero_()
        return super().result(victim, x)


class AsksTheModelItself(Climb):
    @torch.no_grad()
    def end(self, victim, x):
        victim.victim.model({**victim._hidden.fixed, **x})
        super().end(victim, x)


@dataclass(frozen=True)
class Planted:
    """A fault, by its number in the list of known faults (None: not one of them), and the check that catches it."""

    fault: int | None
    check: str
    faulty: Callable[[], Attack]
    sound: Callable[[], Attack]


TABLE = (
    Planted(1, "inputs_at_the_bounds", AtTheBoundsInfinite, TanhClimb),
    Planted(2, "shifted_logits", MaskedByMultiplying, Climb),
    Planted(3, "batch_mates", AbortsOnTheSum, Climb),
    Planted(4, "parameter_gradients", Backward, Climb),
    Planted(5, "success_on_the_way", LastIterate, Climb),
    Planted(5, "last_step", LastStepUnseen, Climb),
    Planted(6, "failed_clips", ZerosForFailures, Climb),
    Planted(6, "failed_clips", ZerosForSuccesses, Climb),
    Planted(7, "bounds_of_every_kind", UnitInterval, Climb),
    Planted(8, "every_rank", FourDimensions, Climb),
    Planted(8, "every_rank", PicturesOnly, Climb),
    Planted(9, "nearest_projection", RescalesL1, Climb),
    Planted(10, "radius_of_batch_mates", MaximumOverTheBatch, Climb),
    Planted(11, "noisy_model", WrongSignInExpectation, Climb),
    Planted(11, "batch_mates", NoiseGrowsWithTheBatch, Climb),
    Planted(12, "members", SmallestDistanceOfAll, Both),
    Planted(12, "members", SmallestDistanceOfSeveralLabels, Both),
    Planted(13, "smallest_perturbation", AliasedBracket, Bisect),
    Planted(13, "smallest_perturbation", ResetAtEachRound, Bisect),
    Planted(14, "waits_and_copies", ValueByValue, Climb),
    Planted(14, "waits_and_copies", BudgetInNumpy, Climb),
    Planted(14, "waits_and_copies", BudgetInFloat64, Climb),
    Planted(15, "budgets", AroundTheIterate, Climb),
    Planted(16, "budgets", UniversalUnprojected, Universal),
    Planted(17, "only_what_is_attacked", VideoOnly, Climb),
    Planted(18, "global_random_state", SeedsEverything, Climb),
    Planted(18, "global_random_state", DrawsGlobally, Climb),
    Planted(19, "two_classes", ThirdLogit, Climb),
    Planted(20, "flags_and_buffers", TrainingMode, Climb),
    Planted(21, "cost_per_batch", RewritesResults, Climb),
    Planted(None, "easy_clips_fall", Descends, Climb),
    Planted(None, "no_radius", RoundsTo8Bits, Climb),
    Planted(None, "low_precision", BelievesLowPrecision, Climb),
    Planted(None, "lucky_looks", BelievesLuckyLooks, Climb),
    Planted(None, "lucky_looks", SmallestLuckyLook, Bisect),
    Planted(None, "lucky_looks", EndsAtALuckyLook, Climb),
    Planted(None, "targeted", IgnoresTheAim, Climb),
    Planted(None, "several_labels", OneLabelOnly, Climb),
    Planted(None, "one_step", TooShortToCross, Climb),
    Planted(None, "warm_start", StartIsTheCenter, Climb),
    Planted(None, "padding", ReachesIntoPadding, Climb),
    Planted(None, "query_count", ClearsItsCount, Climb),
    Planted(None, "query_count", ReachesForItsCount, Climb),
    Planted(None, "query_count", AssignsItsCount, Climb),
    Planted(None, "query_count", ForgetsItsGradients, Climb),
    Planted(None, "query_count", AsksTheModelItself, Climb),
    Planted(None, "easy_clips_fall", StatesTooFewPasses, Climb),
    Planted(None, "easy_clips_fall", StatesABoundAsExact, Climb),
)


@pytest.mark.parametrize("planted", TABLE, ids=[f"{p.fault or 'other'}-{p.faulty.__name__}" for p in TABLE])
def test_the_check_that_the_table_names_catches_the_fault_and_passes_the_sound_attack(planted):
    check = CHECKS[planted.check]
    check(AttackSubject.of(planted.sound()))
    with pytest.raises(CheckFailed):
        check(AttackSubject.of(planted.faulty()))


def test_every_known_fault_is_planted_and_each_check_says_which_faults_it_catches():
    assert {planted.fault for planted in TABLE} - {None} == set(range(1, 22))
    assert {fault for check in ATTACK_CHECKS for fault in check.faults} == set(range(1, 22))
    for planted in TABLE:
        assert planted.fault is None or planted.fault in CHECKS[planted.check].faults


def test_no_check_is_one_that_cannot_fail():
    elsewhere = {"labels_alone"}  # test_label_access.py
    assert {planted.check for planted in TABLE} == set(CHECKS) - elsewhere


@parametrize_with_checks([Climb(), TanhClimb(), Bisect(), Both(), Universal()])
def test_sound_attacks_pass_every_check(subject, check):
    check(subject)
