"""Several attacks as one: each attacks the clips that the earlier ones have left."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch

from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_attacks.held import put
from avrobust_attacks.keepers import better
from avrobust_attacks.losses import LOSSES, Loss
from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    Occasion,
    Passes,
    select_inputs,
    where_clips,
)

READINGS = 4
"""Looks at each member's result by which the strongest is chosen, of a model with randomness of its own."""


class Ensemble(Attack):
    """The union of its members, as AutoAttack is (Croce and Hein, ICML 2020, arXiv 2003.01690).

    Single-label: each member attacks the clips that no earlier one has broken, so that a clip is broken if any member
    breaks it. `last` holds, of the clips that none has broken, the end of the member's search that came nearest.
    Multi-label: every member attacks all clips, and of the clean clip and all results that reach the goal, or else of
    all, the one of highest `loss` is returned: so it reaches the goal wherever a member does. The same of a model with
    randomness of its own, where results are compared by fresh looks (`READINGS`): a lucky one settles no clip. A start
    of the victim's is handed to every member. There is no trace: members keep different ones.

    Attributes:
        norms: those in which at least one member attacks. A member that cannot attack in all norms of a threat is left
            out under that threat.

    Args:
        members: by their names, in order; cheap ones first.
        loss: with several labels per clip, decides which member's result is kept.

    Raises:
        AvrobustError: if a member needs to be prepared, or takes no notice of the radius.
    """

    def __init__(self, members: Sequence[tuple[str, Attack]], loss: Loss) -> None:
        for name, attack in members:
            if attack.preparation is not None or not attack.bounded:
                why = "must see a whole set of clips first" if attack.preparation else "takes no notice of the radius"
                raise AvrobustError(
                    f"{name} cannot be a member of an ensemble: it {why}; run it as an attack of its own"
                )
        self.members = tuple(members)
        self.loss = loss
        # The members decide, and a configuration chooses them.
        self.norms = frozenset().union(*(attack.norms for _, attack in members))  # type: ignore[misc]

    def passes(self, occasion: Occasion) -> Passes | None:
        """Those of all members that can attack in these norms, and the looks by which their results are compared."""
        members = [attack.passes(occasion) for attack in self._able(occasion.norms)]
        known = [passes for passes in members if passes is not None]
        if len(known) < len(members):
            return None
        readings = 1 if occasion.repeatable else READINGS
        looks = len(members) if occasion.settles else (1 + len(members)) * readings
        return sum(known, Passes(looks, exact=not occasion.settles))

    def _able(self, norms: AbstractSet[str]) -> list[Attack]:
        """The members that can attack in all of these norms."""
        return [attack for _, attack in self.members if norms <= attack.norms]

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if no member can attack in all norms of the threat.
        """
        asked = victim.region.norms
        able = self._able(asked)
        if not able:
            names = ", ".join(name for name, _ in self.members)
            raise AvrobustError(f"no member of the ensemble ({names}) attacks in {', '.join(sorted(asked))} at once")
        return _first_to_succeed(victim, able) if victim.settles else _strongest(victim, able, self.loss)


def ensemble(config: EnsembleConfig) -> Ensemble:
    """The ensemble of the members that are named, or of the standard ones."""
    members = [(name, component.make(settings)) for name, component, settings in config.components()]
    return Ensemble(members, LOSSES[config.loss])


def _first_to_succeed(victim: BoundVictim, members: Sequence[Attack]) -> AttackResult:
    inputs = {name: x.clone() for name, x in victim.clean.items()}
    last = {name: x.clone() for name, x in victim.clean.items()}
    success = torch.zeros(len(victim), dtype=torch.bool, device=victim.device)
    left = torch.full((len(victim),), torch.inf, device=victim.device)  # how far from the goal `last` is
    alive = torch.arange(len(victim), device=victim.device)
    part = victim
    for member in members:
        result = member(part.limited_to(member.access))
        put(inputs, alive, result.inputs, result.success)
        success[alive] = result.success
        going_on = (~result.success).nonzero().squeeze(1)
        alive = alive[going_on]
        if not len(alive):
            break
        part = part.select(going_on)
        if result.last is not None:
            end = select_inputs(result.last, going_on)
            distance = part.goal.distance(part.confirm(end)).float()
            nearer = distance < left[alive]
            put(last, alive, end, nearer)
            left[alive] = torch.where(nearer, distance, left[alive])
    for name, x in last.items():
        x[success] = victim.clean[name][success]
    return AttackResult(inputs, success, last=last)


def _strongest(victim: BoundVictim, members: Sequence[Attack], loss: Loss) -> AttackResult:
    inputs = victim.clean
    readings = 1 if victim.repeatable else READINGS
    logits = victim.confirm(inputs, readings)
    success, highest = victim.fooled(logits), loss(logits, victim.goal)
    for member in members:
        found = member(victim.limited_to(member.access)).inputs
        logits = victim.confirm(found, readings)
        reached, height = victim.fooled(logits), loss(logits, victim.goal)
        stronger = better(reached, height, success, highest)
        inputs = where_clips(stronger, found, inputs)
        success = torch.where(stronger, reached, success)
        highest = torch.where(stronger, height, highest)
    return AttackResult(inputs, success)
