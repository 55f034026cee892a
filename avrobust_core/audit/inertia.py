"""A check that an attack moves its inputs: one that returned no moved clip is watched at work."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.audit.case import passes
from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.audit.look import Look
from avrobust_core.audit.recorded import broken
from avrobust_core.evaluation.outcomes import Outcome

WATCHED_CLIPS = 2


def inert(look: Look) -> Iterator[Check]:
    """One check for each attack; `inert-switch` if it moves clips under other threats."""
    for outcome in look.standing.outcomes:
        elsewhere = any(
            _moved(other)
            for other in look.case.attacked
            if other.attack == outcome.attack and other.threat not in look.standing.names
        )
        if not _moved(outcome) and not broken(look.case, outcome.predictions).any():
            yield replace(_doubted(look, outcome, elsewhere), **outcome.where)
        elif not elsewhere:  # else `inert-switch` has been answered from the clips that it broke
            yield Check(check="inert-attack", status="passed", message="the attack moves clips", **outcome.where)


def _moved(outcome: Outcome) -> bool:
    return any(bool(norms.any()) for norms in outcome.predictions.norms.values())


def _doubted(look: Look, outcome: Outcome, elsewhere: bool) -> Check:
    """The check of an attack that has moved no clip under this threat."""
    check = "inert-switch" if elsewhere else "inert-attack"
    correct = look.case.clean.correct
    found: str | None = "it asked the model no more than once for each clip"
    if not correct.any() or (outcome.predictions.queries[correct] > look.case.victim.samples).any():
        if look.case.runs[outcome.attack, outcome.threat].attack.preparation is not None:
            return not_applicable(check, "the attack is prepared for a whole set of clips")
        if not len(look.survivors):
            return not_applicable(check, "no clip is left")
        cost = WATCHED_CLIPS * -(-passes([outcome]) // max(int(correct.sum()), 1))
        if cost > look.meter.left:
            why = f"to watch the attack once more takes {cost} passes, and {look.meter.left} are left"
            return not_applicable(check, why)
        found = _watched(look, outcome)
    return judged(
        check,
        found is not None,
        f"the attack returned no clip that it had moved{' under this threat' if elsewhere else ''}, and "
        f"{found}: what is called robust was not attacked",
        "the attack moves clips, and breaks none",
    )


def _watched(look: Look, outcome: Outcome) -> str | None:
    """The fault of an attack at work on a few clips; None if it moves them, and returns what it finds."""
    run = look.case.runs[outcome.attack, outcome.threat]
    batch = look.case.read(look.case.ids(look.survivors[:WATCHED_CLIPS]))
    bound = _Watched(look.case.victim.bind(batch, run.threat, run.goal))
    result = run.attack(bound.limited_to(run.attack.access))
    look.meter.count(bound)
    if not bound.moved.any():
        return "it asks the model about the clean clips alone"
    kept = ~_apart(result.inputs, bound.clean)
    if bool((bound.won & kept).any()):
        return "it finds perturbations that break clips, and returns the clean ones"
    return None


class _Watched(BoundVictim):
    """A bound victim that notes what it is asked; shared with selections, as the counts of queries are.

    Attributes:
        moved: (B,) bool: the model was asked about another clip than the clean one.
        won: (B,) bool: one of these reached the goal.
    """

    def __init__(self, bound: BoundVictim) -> None:
        vars(self).update(vars(bound))
        self.moved, self.won = torch.zeros_like(self.unanswered), torch.zeros_like(self.unanswered)

    def __call__(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """As of `BoundVictim`."""
        logits = super().__call__(perturbed)
        self._note(perturbed, logits)
        return logits

    def labels(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """As of `BoundVictim`."""
        labels = super().labels(perturbed)
        self._note(perturbed, labels)
        return labels

    def _note(self, perturbed: Mapping[str, Tensor], logits: Tensor) -> None:
        apart = _apart(perturbed, self.clean)
        won = apart & self.fooled(logits.detach())
        # By position, not by flag: a clip may stand at several of them.
        self.moved[self._positions[apart]] = True
        self.won[self._positions[won]] = True


def _apart(x: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> Tensor:
    """Flag the clips that differ from the clean ones in any modality: (B,) bool."""
    return torch.stack([(each.detach() != clean[name]).flatten(1).any(dim=1) for name, each in x.items()]).any(dim=0)
