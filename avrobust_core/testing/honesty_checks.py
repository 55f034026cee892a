"""Checks of what an attack returns: inside its threat, nothing it found left out, and no failure dressed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.attacks.verification import verify
from avrobust_core.testing.models import Rescored, watched
from avrobust_core.testing.oracles import LinearProblem, make_problem, make_threat
from avrobust_core.testing.running import CheckFailed, NotApplicable, check
from avrobust_core.testing.strength_checks import BOTH
from avrobust_core.testing.subjects import AttackSubject, Case, Trial
from avrobust_core.threats.budgets import ThreatModel


@check(5)
def check_success_on_the_way(subject: AttackSubject) -> None:
    """A clip that was broken at any point the attack looked at, inside its region, is returned broken."""
    problem = make_problem(classes=2, seed=41)
    threat = problem.threat(BOTH, subject.norm, slack=1.0 if subject.norm == "l0" else 1.2)
    witness, case = watched(Case.of(problem, threat), _passing(problem, problem.smallest_margin(threat)))
    with subject.engaged(case) as (attack, bound):
        witness.looks.clear()
        result = attack(bound.limited_to(attack.access))
        seen = witness.reached(bound)
    trial = subject.run(case)
    lost = seen & ~trial.success
    if lost.any():
        raise CheckFailed(
            f"it looked at points that break {int(seen.sum())} clips, inside its region, and returned "
            f"{int(lost.sum())} of these clips unbroken: keep each clip's best iterate, and score the last one, too"
        )
    if bool((trial.success & ~result.success).any()):
        raise CheckFailed("it returned clips that are broken, with success False: it did not look at what it returns")


@check(5)
def check_last_step(subject: AttackSubject) -> None:
    """The step that the last gradient leads to is looked at."""
    problem = make_problem(seed=42)
    threat = _hopeless(problem, subject)
    witness, case = watched(Case.of(problem, threat))
    with subject.engaged(case) as (attack, bound):
        witness.looks.clear()
        result = attack(bound.limited_to(attack.access))
        unseen = witness.ends_in_gradient(len(problem.batch)) & ~result.success
    if unseen.any():
        raise CheckFailed(
            f"on {int(unseen.sum())} of {len(unseen)} clips that it did not break, it took a gradient and never looked "
            "at where that leads: the last step is wasted, or worse, returned without a look; score it"
        )


@check(6)
def check_failed_clips(subject: AttackSubject) -> None:
    """A clip that cannot be broken comes back clean, to the bit, with success False; a misclassified one as success."""
    problem = make_problem(seed=43)
    trial = subject.run(Case.of(problem, _hopeless(problem, subject)))
    for name in trial.result.inputs:
        dressed = trial.changed(name) & ~trial.success
        if dressed.any():
            raise CheckFailed(
                f"it failed on {int((~trial.success).sum())} clips and returned the {name} of {int(dressed.sum())} of "
                "them changed: a failed clip is returned clean, or norms and accuracy count what broke nothing"
            )
    if not subject.bounded:
        return  # a corruption does not search: it may leave a misclassified clip better off, and say so
    wrong = replace(problem, batch=replace(problem.batch, targets=(problem.batch.targets + 1) % problem.oracle.classes))
    outset = subject.run(Case.of(wrong, _hopeless(problem, subject)))
    if not bool(outset.result.success.all()):
        raise CheckFailed(
            "clips that the model misclassifies as they are came back with success False: the goal is reached before "
            "the attack begins, and success must say so"
        )


def check_no_radius(subject: AttackSubject) -> None:
    """A radius of 0 leaves every clip as it is, bit for bit."""
    subject.require_bounded()
    problem = make_problem(seed=44)
    try:
        trial = subject.run(Case.of(problem, make_threat(BOTH, subject.norm, 0.0)))
    except NotApplicable as error:
        raise CheckFailed(f"a radius of 0 is a plain case, but {error}") from error
    for name in trial.result.inputs:
        if trial.changed(name).any():
            raise CheckFailed(f"it changed {name} under a radius of 0; project what is returned onto victim.region")


@check(15, 16)
def check_budgets(subject: AttackSubject) -> None:
    """Its results are within the radius of every norm, for each modality, both, and one shared ball: in float64."""
    subject.require_bounded()
    problem = make_problem(seed=45, inside=0.9)
    for norm in subject.norms:
        for names in (("audio",), ("video",), BOTH) if norm == subject.norm else (BOTH,):
            _show(subject, problem, problem.threat(names, norm, share=0.5), f"{norm} on {' and '.join(names)}")
        few = problem.threat(BOTH, norm, share=0.5, slack=0.4)
        _show(subject, problem, few, f"{norm}, a radius that breaks few clips")
    if "l2" in subject.norms:
        problem = make_problem(seed=46, inside=0.9)
        _show(subject, problem, problem.threat(BOTH, "l2", share=0.5, kind="shared"), "one shared l2 ball")


@check(17)
def check_only_what_is_attacked(subject: AttackSubject) -> None:
    """Attacking one modality changes that one alone; attacking both uses both where one is not enough."""
    problem = make_problem(seed=47)
    alone: dict[str, Trial] = {}
    for name in BOTH:
        trial = alone[name] = subject.run(Case.of(problem, problem.threat((name,), subject.norm, slack=2.0)))
        idle = trial.success & ~trial.changed(name)
        if idle.any():
            raise CheckFailed(f"attacking {name} broke clips whose {name} is unchanged: what was it that changed?")
    for name, other in (BOTH, BOTH[::-1]):
        if alone[name].broken == 0 and alone[other].broken >= 0.25 * len(problem.batch):
            raise CheckFailed(
                f"attacking {other} it broke {alone[other]}, attacking {name} none, at twice the radius that breaks "
                "them all: it does not attack what the threat names (victim.balls)"
            )
    if not any(trial.broken for trial in alone.values()):
        raise NotApplicable("it breaks no clip through one modality at twice the radius that breaks them all")


def check_low_precision(subject: AttackSubject) -> None:
    """Its finds in bfloat16 are confirmed in float32 before it is claimed."""
    problem = make_problem(seed=48, clips=24)
    threat = problem.threat(BOTH, subject.norm, share=0.5)
    subject.run(Case.of(problem, threat, partial(Rescored, after=_coarse), precision="bf16-mixed"))


def check_lucky_looks(subject: AttackSubject) -> None:
    """On a model with randomness of its own, no lucky look passes for a success, and none ends an attack by gradients.

    Judged by how often a fresh look at what was returned would succeed, which the oracle and the noise's size tell.
    """
    problem = make_problem(classes=2, clips=16, seed=23)
    trial, odds = _shaken(subject, problem, slack=0.4, share=0.5)
    claimed, expected = int(trial.result.success.sum()), float(odds.sum())
    if claimed > expected + 3 * float((odds * (1 - odds)).sum().sqrt()) + 1:
        raise CheckFailed(
            f"of a model with randomness of its own it claims {claimed} of {len(odds)} clips broken, of which fresh "
            f"looks find about {expected:.0f}: one success among many looks is luck; unless victim.repeatable, tell "
            "success by looks that chose nothing"
        )
    wide = 1.0 if subject.norm == "l0" else 2.0
    free = subject.run(Case.of(problem, problem.threat(BOTH, subject.norm, slack=wide)))
    trial, odds = _shaken(subject, problem, slack=wide, share=1.0)
    if bool((trial.bound.gradients.passes > 0).all()) and float(odds.sum()) < 0.75 * free.broken - 1:
        raise CheckFailed(
            f"it broke {free}; with noise in the logits as large as the margins, fresh looks find about "
            f"{float(odds.sum()):.0f} of what it returned broken: it stops at the first lucky look; unless "
            "victim.repeatable, go on to the end and return what is best in expectation"
        )


def check_query_count(subject: AttackSubject) -> None:
    """The count of its passes is the core's: it neither writes into it, nor asks the model past it."""
    problem = make_problem(seed=51)
    witness, case = watched(Case.of(problem, problem.threat(BOTH, subject.norm, share=0.6)))
    attack = subject.prepared(case)
    forwards, backwards = (torch.zeros(len(problem.batch), dtype=torch.int64) for _ in range(2))
    with subject.engaged(case, attack) as (attack, bound):
        told = Told(bound)
        witness.looks.clear()
        attack(told)
        for look in witness.looks:
            forwards[look.clips] += 1
            backwards[look.clips] += look.gradient
    if any(count._version for count in told.handed_out):
        raise CheckFailed("it writes into victim.queries: what an attack costs is counted by the core, and read only")
    for what, counted, seen in (
        ("forward", told.queries, forwards),
        ("backward", told.gradients.passes, backwards),
    ):
        lost = counted < seen
        if lost.any():
            clip = int(lost.nonzero()[0])
            raise CheckFailed(
                f"the model was asked for {int(seen[clip])} {what} passes of clip {told.ids[clip]!r}, and "
                f"{int(counted[clip])} are on record: call the victim, not its model, and leave its records alone"
            )


class Told(BoundVictim):
    """A bound victim that keeps the counts that it hands out; shared with selections.

    Attributes:
        handed_out: the tensors.
    """

    def __init__(self, bound: BoundVictim) -> None:
        vars(self).update(vars(bound))
        self.handed_out: list[Tensor] = []

    @property
    def queries(self) -> Tensor:
        """As of `BoundVictim`."""
        count = super().queries
        self.handed_out.append(count)
        return count


def check_several_labels(subject: AttackSubject) -> None:
    """With several labels per clip it returns what its threat allows, and breaks some if it breaks most with one."""
    problem = make_problem(seed=49, classes=4)
    single = Case.of(problem, problem.threat(BOTH, subject.norm, slack=3.0))
    one = subject.run(single)
    one.require_some()
    several = subject.run(single.with_several_labels(4))
    if several.broken == 0 and one.broken >= 0.5 * len(one.success):
        raise CheckFailed(
            f"it broke {one} as single-label clips, but none with the same labels as multi-hot targets: use "
            "victim.goal, which knows the task"
        )


def check_warm_start(subject: AttackSubject) -> None:
    """From a start anywhere inside its region it works about as well as from the clean clip."""
    subject.require_bounded()
    problem = make_problem(seed=50)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, slack=2.0))
    cold = subject.run(case)
    cold.require_some()
    with subject.engaged(case) as (attack, bound):
        bound.start = bound.sample("kit")
        verdict = verify(subject.name, case.batch, case.batch.inputs, bound, attack(bound.limited_to(attack.access)))
    broken = int(verdict.success.sum())
    if broken < 0.7 * cold.broken - 1:
        raise CheckFailed(
            f"it broke {cold} from the clean ones, and {broken} from another point of the region (victim.start): "
            "curves begin each budget where the last one ended"
        )


def _shaken(subject: AttackSubject, problem: LinearProblem, slack: float, share: float) -> tuple[Trial, Tensor]:
    """A trial of two classes with normal noise in the logits, and how likely a look at what it returned succeeds, (B,).

    Args:
        subject: the attack.
        problem: without the noise.
        slack: of the threat.
        share: of the median margin, by which a look's margin, the mean of 8 passes, is off.
    """
    deviation = share * float(problem.margins().amin(dim=1).median())
    generator = torch.Generator().manual_seed(3)

    def noisy(logits: Tensor) -> Tensor:  # two logits, 8 passes: a look is off by half as much
        return logits + 2 * deviation * torch.randn(logits.shape, generator=generator)

    case = Case.of(problem, problem.threat(BOTH, subject.norm, slack=slack), partial(Rescored, after=noisy), samples=8)
    trial = subject.run(case)
    return trial, torch.special.ndtr(-problem.margins_of(trial.result.inputs) / deviation)


def _coarse(logits: Tensor) -> Tensor:
    """Logits in steps of 1/4 where a model runs at low precision, so that ties, which pass for successes, abound."""
    if not torch.is_autocast_enabled(logits.device.type):
        return logits
    return logits + ((logits * 4).round() / 4 - logits).detach()


def _passing(problem: LinearProblem, lowest: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A score under which clips are broken on the middle of the way downhill and whole again at its end.

    The gradient stays that of the linear model throughout, so that nothing warns an attack that walks past.
    """
    highest = problem.margins().amin(dim=1).float()
    labels = problem.batch.targets

    def score(logits: Tensor, clips: Tensor) -> Tensor:
        own = labels[clips].unsqueeze(1)
        margin = (logits.gather(1, own) - logits.gather(1, 1 - own)).squeeze(1)
        done = (highest[clips] - margin) / (highest - lowest.float())[clips]
        shown = torch.where((done > 0.35) & (done < 0.85), -0.5, 0.5).to(margin.dtype)
        half = (shown + margin - margin.detach()).unsqueeze(1) / 2
        return torch.cat((half, half), dim=1).scatter(1, own, half).scatter(1, 1 - own, -half)

    return score


def _hopeless(problem: LinearProblem, subject: AttackSubject) -> ThreatModel:
    """A threat under which no clip can be broken."""
    if subject.norm == "l0":
        raise NotApplicable(
            "it attacks in l0 only, where the smallest radius, one sample, may break a clip of the oracle"
        )
    return problem.unbreakable(subject.norm)


def _show(subject: AttackSubject, problem: LinearProblem, threat: ThreatModel, what: str) -> None:
    try:
        trial = subject.run(Case.of(problem, threat))
    except CheckFailed as error:
        raise CheckFailed(f"{what}: {error}") from error
    impossible = trial.success & (problem.smallest_margin(threat) > 1e-4)
    if impossible.any():
        raise CheckFailed(f"{what}: it broke {int(impossible.sum())} clips that no perturbation of this size breaks")
