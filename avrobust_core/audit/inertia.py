"""A check that an attack moves its inputs: one that returned no moved clip is watched at work."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.attacks.gradients import GradientRecord
from avrobust_core.audit.case import passes
from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.audit.look import Look
from avrobust_core.evaluation.outcomes import Outcome

WATCHED_CLIPS = 2


def inert(look: Look) -> Iterator[Check]:
    """One check for each attack; `inert-switch` if it moves clips under other threats."""
    correct = look.case.clean.correct
    for outcome in look.standing.outcomes:
        predictions = outcome.predictions
        elsewhere = any(
            _moved(other)
            for other in look.case.attacked
            if other.attack == outcome.attack and other.threat not in look.standing.names
        )
        check = "inert-switch" if elsewhere else "inert-attack"
        if _moved(outcome) or (correct & ~predictions.correct).any():
            if not elsewhere:  # else `inert-switch` has been answered from the clips that it broke
                yield Check(check=check, status="passed", message="the attack moves clips", **outcome.where)
            continue
        if correct.any() and (predictions.queries[correct] <= look.case.victim.samples).all():
            found: str | None = "it asked the model no more than once for each clip"
        else:
            reason = _unwatchable(look, outcome)
            if reason is not None:
                yield not_applicable(check, reason, **outcome.where)
                continue
            found = _watched(look, outcome)
        yield judged(
            check,
            found is not None,
            f"the attack returned no clip that it had moved{' under this threat' if elsewhere else ''}, and "
            f"{found}: what is called robust was not attacked",
            "the attack moves clips, and breaks none",
            **outcome.where,
        )


def _moved(outcome: Outcome) -> bool:
    return any(bool(norms.any()) for norms in outcome.predictions.norms.values())


def _unwatchable(look: Look, outcome: Outcome) -> str | None:
    """The reason why an attack cannot be watched; None if it can."""
    run = look.case.runs[outcome.attack, outcome.threat]
    if run.attack.preparation is not None:
        return "the attack is prepared for a whole set of clips"
    if not len(look.survivors):
        return "no clip is left"
    cost = WATCHED_CLIPS * -(-passes([outcome]) // max(int(look.case.clean.correct.sum()), 1))
    if cost > look.meter.left:
        return f"to watch the attack once more takes {cost} passes, and {look.meter.left} are left"
    return None


def _watched(look: Look, outcome: Outcome) -> str | None:
    """The fault of an attack at work on a few clips; None if it moves them, and returns what it finds."""
    run = look.case.runs[outcome.attack, outcome.threat]
    batch = look.case.read(look.case.ids(look.survivors[:WATCHED_CLIPS]))
    bound = look.case.victim.bind(batch, run.threat, run.goal)
    watch = _Watch(bound)
    bound.gradients = watch
    result = run.attack(bound)
    look.meter.count(bound)
    if not watch.moved.any():
        return "it asks the model about the clean clips alone"
    kept = torch.stack([(x == bound.clean[name]).flatten(1).all(dim=1) for name, x in result.inputs.items()])
    if bool((watch.won & kept.all(dim=0)).any()):
        return "it finds perturbations that break clips, and returns the clean ones"
    return None


class _Watch(GradientRecord):
    """A record of the queries of a bound victim and their success.

    Attributes:
        moved: (B,) bool: the model was asked about another clip than the clean one.
        won: (B,) bool: one of these reached the goal.
    """

    def __init__(self, bound: BoundVictim) -> None:
        super().__init__(bound.balls, len(bound), bound.device)
        self._clean, self._goal = bound.clean, bound.goal
        self.moved = torch.zeros_like(self.passes, dtype=torch.bool)
        self.won = self.moved.clone()
        self._now = self.moved

    def watch(self, perturbed: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
        """As of `GradientRecord`; notes which clips were moved."""
        apart = [(x.detach() != self._clean[name][positions]).flatten(1).any(dim=1) for name, x in perturbed.items()]
        self._now = torch.stack(apart).any(dim=0)
        self.moved[positions] |= self._now
        return super().watch(perturbed, positions)

    def expect(self, logits: Tensor, positions: Tensor, samples: int) -> None:
        """As of `GradientRecord`; notes which of the moved clips reached the goal."""
        self.won[positions] |= self._now & self._goal.select(positions).reached(logits.detach())
        super().expect(logits, positions, samples)
