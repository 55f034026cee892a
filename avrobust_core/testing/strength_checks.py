"""Checks of how strong an attack is, against closed forms and against itself on the same problem in other clothes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.gradients import joint_gradient, leaves_of
from avrobust_core.testing.models import Noisy, Rescored
from avrobust_core.testing.oracles import LinearProblem, Shapes, confident, make_problem, make_threat
from avrobust_core.testing.running import CheckFailed, NotApplicable, check
from avrobust_core.testing.subjects import AttackSubject, Case, Trial
from avrobust_core.threats.balls import Bounds
from avrobust_core.threats.budgets import NormName, ThreatKind

BOTH = ("audio", "video")

RANKS: Mapping[str, Shapes] = {
    "2": {"audio": (12,), "video": (16,)},
    "3": {"audio": (1, 12), "video": (4, 4)},
    "4": {"audio": (1, 3, 4), "video": (4, 2, 2)},
    "5": {"audio": (1, 3, 2, 2), "video": (2, 2, 2, 2)},
    "2 and 5 at once": {"audio": (12,), "video": (2, 2, 2, 2)},
}
"""The same samples as batches of every rank, which counts the clips' own dimension."""

SPARE: Mapping[NormName, float] = {"linf": 1.1, "l2": 1.1, "l1": 1.3, "l0": 1.5}
"""The radius at which a gradient attack must succeed on a linear model, over the smallest one."""

NOISE = 0.05
"""Standard deviation of a noisy model's errors, in logits of about 1."""


def check_easy_clips_fall(subject: AttackSubject) -> None:
    """It breaks at least one clip in ten of a linear model under a radius six times the smallest that works."""
    problem = make_problem(seed=11)
    try:
        trial = subject.run(Case.of(problem, problem.threat(BOTH, subject.norm, slack=6)))
    except NotApplicable as error:
        raise CheckFailed(f"on a plain case, three classes and one label per clip, {error}") from error
    if trial.broken < 0.1 * len(problem.batch):
        raise CheckFailed(
            f"it broke {trial} of a linear model at six times the radius that breaks them all: whatever it measures is "
            "not robustness. Look at the sign of the loss that it raises"
        )


@check(1)
def check_inputs_at_the_bounds(subject: AttackSubject) -> None:
    """Clips whose every sample is at a bound are broken as well as clips strictly inside."""
    inside = make_problem(classes=2, bounds=(0.0, 1.0), seed=12)
    if _gradients(subject, inside) == 0:
        raise NotApplicable("it takes no gradient of a clip, and clips at the bounds are further from others than most")
    edge = _at_the_bounds(inside)
    slack = 1.0 if subject.norm == "l0" else 1.6
    free, held = (subject.run(Case.of(p, p.threat(BOTH, subject.norm, slack=slack))) for p in (inside, edge))
    free.require_some("clips strictly inside the bounds")
    if held.broken < free.broken - _tolerance(free):
        raise CheckFailed(
            f"it broke {free} strictly inside (0, 1), but {held.broken} of as many whose samples are all at 0 or 1 and "
            "have room inwards: silence and black pictures look like that. If it maps the bounds to infinity "
            "(arctanh), keep clear of them when it does"
        )


@check(2)
def check_shifted_logits(subject: AttackSubject) -> None:
    """Adding a constant to all logits, or normalising them to log-probabilities, changes nothing."""
    problem = make_problem(seed=13)
    threat = problem.threat(BOTH, subject.norm, share=0.8, slack=1.0 if subject.norm == "l0" else 1.2)
    plain = subject.run(Case.of(problem, threat))
    plain.require_some("clips with logits as they are")
    for what, after in (
        ("with 64 taken from every logit", lambda logits: logits - 64),
        ("with 64 added to every logit", lambda logits: logits + 64),
        ("with log-probabilities for logits", lambda logits: logits.log_softmax(dim=1)),
    ):
        shifted = subject.run(Case.of(problem, threat, partial(Rescored, after=after)))
        if abs(shifted.broken - plain.broken) > _tolerance(plain):
            raise CheckFailed(
                f"it broke {plain}, but {shifted.broken} {what}, which changes no prediction. A margin masked by "
                "multiplying with 0 does that: where all logits are negative, 0 wins; mask with -inf"
            )


@check(7)
def check_bounds_of_every_kind(subject: AttackSubject) -> None:
    """The same problem within (0, 1), (-1, 1), (-2, 2) and without bounds is solved equally well."""
    problem = make_problem(bounds=(0.0, 1.0), inside=0.5, classes=2, seed=14)
    norm = subject.norm
    threat = problem.threat(BOTH, norm, share=0.9, slack=1.0 if norm == "l0" else 1.2)
    found: dict[str, Trial] = {}
    for what, scale, shift in (("(0, 1)", 1, 0), ("(-1, 1)", 2, -1), ("(-2, 2)", 4, -2), ("no bounds", 2, -1)):
        bounded = what != "no bounds"
        if not bounded and norm in ("l1", "l0"):
            continue  # there the bounds are what keeps a single sample from taking all
        moved = problem.moved(scale, shift, bounded=bounded)
        try:
            found[what] = subject.run(Case.of(moved, threat.scaled(1 if norm == "l0" else scale)))
        except NotApplicable:
            if bounded:
                raise
    best = max(found, key=lambda what: found[what].broken)
    found[best].require_some("clips under any bounds")
    for what, trial in found.items():
        if trial.broken < found[best].broken - _tolerance(found[best]):
            raise CheckFailed(
                f"it broke {found[best]} with {best} for bounds, and {trial.broken} with {what}, the same problem in "
                "other units: is [0, 1] written somewhere? The bounds, if there are any, are those of victim.region"
            )


@check(8)
def check_every_rank(subject: AttackSubject) -> None:
    """Clips of every rank, batches of 2 to 5 dimensions and two modalities of different rank, are attacked alike."""
    problem = make_problem(RANKS["2"], clips=8, seed=15)
    climbs = _gradients(subject, make_problem(seed=15)) > 0
    for norm in subject.norms:
        threat = problem.threat(BOTH, norm, slack=1.0 if norm == "l0" else 1.5)
        ranks = RANKS if norm == subject.norm else {what: RANKS[what] for what in ("3", "2 and 5 at once")}
        found = {what: subject.run(Case.of(problem.reshaped(shapes), threat)) for what, shapes in ranks.items()}
        best = max(ranks, key={name: trial.broken for name, trial in found.items()}.__getitem__)
        found[best].require_some("clips of any rank")
        most = found[best].broken
        # What searches at random, in blocks that go by the shape, may well find more in one shape than another.
        enough = most - max(2, 0.25 * most) if climbs else 0.5 * (most > 3)
        for what, trial in found.items():
            if trial.broken < enough:
                raise CheckFailed(
                    f"in {norm} it broke {found[best]} as batches of rank {best}, and {trial.broken} of the same as "
                    f"batches of rank {what}: a shape such as (B, 1, 1, 1) is written somewhere; take sums over "
                    "flatten(1), or leave norms to victim.region"
                )


@check(9)
def check_nearest_projection(subject: AttackSubject) -> None:
    """In each of its norms, a gradient attack of several steps breaks what can be broken of a linear model's clips."""
    subject.require_bounded()
    for norm in subject.norms:
        problem = make_problem(classes=2, clips=16, inside=0.8, seed=16)
        if norm == subject.norm and _gradients(subject, problem) < 3:
            raise NotApplicable("it takes fewer than three gradients of a clip")
        threat = problem.threat(BOTH, norm, share=0.6, slack=1.0)
        must = problem.smallest_size(threat) * SPARE[norm] <= 1
        trial = subject.run(Case.of(problem, threat))
        broken = int((trial.success & must).sum())
        if broken < 0.85 * int(must.sum()):
            raise CheckFailed(
                f"in {norm} it broke {broken} of {int(must.sum())} clips of a linear model that have an adversarial "
                f"point {SPARE[norm]:g} times nearer than the edge. A projection that only rescales does that in l1, a "
                "direction that is not the norm's steepest in any: use victim.region's project and step"
            )


def check_one_step(subject: AttackSubject) -> None:
    """On a linear model, an attack by gradients breaks every clip that one step from the clean clip breaks."""
    subject.require_bounded()
    if subject.make().preparation is not None:
        raise NotApplicable("it sees a whole set of clips before it attacks one")
    for norm in subject.norms:
        problem = make_problem(classes=2, clips=16, inside=0.8, seed=22)
        if norm == subject.norm and _gradients(subject, problem) < 1:
            raise NotApplicable("it takes no gradient of a clip")
        threat = problem.threat(BOTH, norm, share=0.6, slack=1.0 if norm == "l0" else 1.05)
        trial = subject.run(Case.of(problem, threat))
        stepped = _one_step(trial)
        missed = stepped & ~trial.success
        if missed.any():
            raise CheckFailed(
                f"in {norm} it left {int(missed.sum())} of the {int(stepped.sum())} clips of a linear model unbroken "
                "that a single step over the radius breaks: steps that sum to less than the way from the start to the "
                "far edge never get there; begin with one that crosses the ball"
            )


@check(11)
def check_noisy_model(subject: AttackSubject) -> None:
    """A smooth model with noise of its own is broken about as often as the same model without the noise."""
    problem = make_problem(seed=17)
    threat = problem.threat(BOTH, subject.norm, slack=1.0 if subject.norm == "l0" else 2.0)
    free = subject.run(Case.of(problem, threat))
    free.require_some("clips of the model without noise")
    noisy = subject.run(Case.of(problem, threat, partial(Noisy, sigma=NOISE), samples=8))
    # Judged without the noise, and not by the very edge, where a minimal attack's clips fall to either side.
    left = problem.margins_of(noisy.result.inputs)
    found = int((left < 0.2 * problem.margins().amin(dim=1)).sum())
    if found < (0.5 if subject.minimal else 0.7) * free.broken - 1:
        raise CheckFailed(
            f"it broke {free}, but brought only {found} near the edge once the model's logits have noise of a "
            "twentieth of their size, averaged over 8 passes: its estimate of the gradient points elsewhere, or it "
            "gives up what the noise hides at the very edge. The victim takes the mean over the noise by itself: do "
            "not estimate again, mind the sign, and step back from the edge where a last look fails"
        )


@check(12)
def check_members(subject: AttackSubject) -> None:
    """An ensemble breaks every clip that one of its `members` breaks, with no larger perturbation if it is minimal."""
    members = subject.make().members
    if not members:
        raise NotApplicable("it names no attacks in `members`, so it is not an ensemble")
    problem = make_problem(seed=18, clips=16)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, share=0.6))
    whole = subject.run(case)
    for name, member in members:
        alone = AttackSubject.of(member, f"{subject.name}: {name}").run(case)
        missed = alone.success & ~whole.success
        if missed.any():
            raise CheckFailed(
                f"its member {name} breaks {int(missed.sum())} clips that it does not: the clean clip must not pass "
                "for the best result because its distance is 0; compare distances among successes only"
            )
        both = alone.success & whole.success
        if subject.minimal and bool((whole.verdict.size > alone.verdict.size * 1.01)[both].any()):
            raise CheckFailed(f"its member {name} finds smaller perturbations than it returns: keep the smallest")
    several = case.with_several_labels(len(problem.oracle.bias))
    whole = subject.run(several)
    for name, member in members:
        missed = AttackSubject.of(member, f"{subject.name}: {name}").run(several).success & ~whole.success
        if missed.any():
            raise CheckFailed(
                f"with several labels per clip its member {name} reaches the goal on {int(missed.sum())} clips where "
                "it does not: a result that reaches the goal comes before one of higher loss that does not"
            )


@check(13)
def check_smallest_perturbation(subject: AttackSubject) -> None:
    """A minimal attack comes within 5 % of a linear model's smallest perturbation (l0: 25 %), for each norm and threat.

    That is the mean over clips; a single one may be off by 30 points more.
    """
    if not subject.minimal:
        raise NotApplicable("it does not look for the smallest perturbation (minimal = False)")
    for problem, names, norm, kind in _minimal_problems(subject.norms):
        threat = problem.threat(names, norm, slack=2.5, kind=kind)
        best = problem.smallest_size(threat)
        trial = subject.run(Case.of(problem, threat))
        what = f"in {norm} on {' and '.join(names)} ({kind}), bounds {problem.bounds}"
        if trial.broken < len(best):
            raise CheckFailed(
                f"{what}, it broke {trial} of a linear model at 2.5 times the smallest radius that breaks them all"
            )
        share = trial.verdict.size / best
        allowed = 1.05
        if norm == "l0":  # a search over subsets, which no gradient attack solves; and counts are whole numbers
            allowed = 1.25 + 0.5 / float(problem.smallest_size(make_threat(names, norm, 1.0)).mean())
        if float(share.mean()) > allowed or float(share.max()) > allowed + 0.3:
            raise CheckFailed(
                f"{what}, its perturbations are {float(share.mean()):.3f} times the smallest there are on average, "
                f"{float(share.max()):.3f} at worst, where {allowed:.3f} is allowed on average: is the state of the "
                "search kept from step to step, each clip's own, with no two names for one tensor?"
            )


@check(19)
def check_two_classes(subject: AttackSubject) -> None:
    """Two classes are as good as three; if not, it says so in an error of its own."""
    broken: dict[int, Trial] = {}
    for classes in (3, 2):
        problem = make_problem(classes=classes, seed=19)
        broken[classes] = subject.run(Case.of(problem, problem.threat(BOTH, subject.norm, slack=2.0)))
    broken[3].require_some("clips of a model with three classes")
    if broken[2].broken < 0.7 * broken[3].broken - 2:
        raise CheckFailed(
            f"it broke {broken[3]} of a linear model with three classes, but {broken[2].broken} with two: a loss that "
            "divides by the third highest logit (DLR) has no meaning there; use the margin, or raise an AvrobustError "
            "that says so"
        )


@check(19)
def check_targeted(subject: AttackSubject) -> None:
    """Aimed at the second most likely of three classes, clips end there, not just anywhere."""
    subject.require_bounded()
    problem = make_problem(seed=20)
    threat = problem.threat(BOTH, subject.norm, slack=3.0)
    away = subject.run(Case.of(problem, threat))
    away.require_some("clips when any other class will do")
    aimed = subject.run(Case.of(problem, threat, goal=Goal("runner-up")))
    if aimed.broken < 0.5 * away.broken - 2:
        raise CheckFailed(
            f"it broke {away} with any other class for a goal, but brought only {aimed.broken} to the second most "
            "likely of three, at three times the radius that is needed: use victim.goal (`loss`, `distance`, "
            "`reached`), which knows what is wanted"
        )


def _tolerance(trial: Trial) -> float:
    return max(1, 0.15 * trial.broken)


def _gradients(subject: AttackSubject, problem: LinearProblem) -> int:
    """The fewest gradients that the attack takes of a clip when nothing succeeds, its preparation left aside."""
    smallest = 1.0 if subject.norm == "l0" else 1e-4
    with subject.engaged(Case.of(problem, make_threat(BOTH, subject.norm, smallest))) as (attack, bound):
        attack(bound.limited_to(attack.access))
    return int(bound.gradients.passes.min())


def _one_step(trial: Trial) -> Tensor:
    """Flag clips that one step of steepest ascent over the whole radius breaks, to spare: (B,) bool."""
    bound = trial.bound
    leaves = leaves_of(bound.clean)
    with torch.enable_grad():
        distance = bound.goal.distance(bound(leaves))
        downhill = joint_gradient(-distance, leaves)
    left = bound.goal.distance(bound.confirm(bound.region.project(bound.region.step(bound.clean, downhill, 1.0))))
    return left < -0.01 * distance.detach()


def _at_the_bounds(problem: LinearProblem) -> LinearProblem:
    """Clips of the same oracle with every sample at a bound, three in four of them with the way inwards downhill."""
    low, high = problem.bounds or (0.0, 1.0)
    generator = torch.Generator().manual_seed(99)
    clips = 6 * len(problem.batch)
    own = torch.arange(clips) % 2
    inputs = {}
    for name in problem.oracle.modalities:
        weight = problem.oracle.weight(name)
        slope = weight[own] - weight[1 - own]
        up = (slope > 0) ^ (torch.rand(slope.shape, generator=generator) < 0.25)
        flat = torch.where(up, high, low).float()
        inputs[name] = flat.view(clips, *problem.batch.inputs[name].shape[1:])
    return confident(problem.oracle, inputs, len(problem.batch), problem.bounds)


def _minimal_problems(
    norms: Sequence[NormName],
) -> Iterator[tuple[LinearProblem, tuple[str, ...], NormName, ThreatKind]]:
    """Linear problems with two classes: every norm on each modality and on both, every kind of bounds in turn."""
    cases: tuple[tuple[tuple[str, ...], ThreatKind, Bounds], ...] = (
        (("audio",), "separate", (0.0, 1.0)),
        (("video",), "separate", None),
        (BOTH, "separate", (-1.0, 1.0)),
        (BOTH, "shared", (-1.0, 1.0)),
    )
    for norm in norms:
        for seed, (names, kind, limits) in enumerate(cases, start=30):
            if kind == "shared" and norm != "l2":
                continue
            # In l1 and l0 it is the bounds that keep a single sample from taking all.
            bounds = limits or (None if norm in ("linf", "l2") else (-2.0, 2.0))
            yield make_problem(classes=2, bounds=bounds, clips=8, seed=seed), names, norm, kind
