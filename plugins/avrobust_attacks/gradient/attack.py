"""The gradient attack: climbs of a loss from several starts, whatever the way of stepping."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from avrobust_attacks.gradient.climbing import Stepper, climb
from avrobust_attacks.gradient.configs import ClimbedLossName
from avrobust_attacks.keepers import Keeper, keeper_for
from avrobust_attacks.losses import LOSSES, Loss, TowardsClass, difference_of_logits_ratio
from avrobust_attacks.passes import passes_of_climbs
from avrobust_core import Attack, AttackResult, BatchGoal, BoundVictim, Config, Occasion, Passes


@dataclass(eq=False, kw_only=True)
class GradientAttack(Attack):
    """Climbs a loss on all attacked modalities at once; `fgsm`, `pgd`, `mim` and `apgd` differ in their steppers.

    Each step takes one joint gradient of the clips' losses, moves every modality as the stepper says, and projects onto
    the region around the clean clips. Every iterate is scored: the clean clip first, then the start and the point after
    each step, the last one too.

    The first climb begins at the clean clip, or at the victim's start where there is one, from a search under a smaller
    budget. It scores the point that its first gradient leaps to (`leap`), so that from the clean clip no number of
    steps is weaker than `fgsm`. Later climbs begin at random points.

    Single-label: a clip's first iterate that reaches the goal is returned, and work on it stops there; a clip that is
    there from the outset costs one query and is returned clean, as a success. A clip that never gets there is returned
    clean, with success False; `last` holds the end of the climb that ended highest.

    Multi-label: what counts beside the goal is the ranking over clips, which one hit does not settle. So no clip is
    ever done: all climbs run on all clips, and of each clip's iterates that reach the goal, or else of all, the one of
    highest loss is returned (the clean one among them); `success` says whether the goal is reached there.

    A model with randomness of its own (`BoundVictim.repeatable`): no clip is done at a lucky look, all climbs run on
    all clips, and where a climb ended is returned, of several climbs the best by a fresh look at each end.

    With the loss "targeted", each restart is one climb per class among the `targets` that the clean clip's logits hold
    most likely beside its own; what is kept of several labels is then told by the DLR. If the attack's goal is itself a
    class, that class is the only one.

    The trace, (steps + 1, B), holds the loss at the first climb's start and after each of its steps; NaN where the
    clip was done before. With `ce` the loss is that of `avrobust_attacks.losses.cross_entropy`.

    Args:
        stepper: makes a new stepper for each climb.
        steps: of each climb.
        restarts: independent starts, each on the clips that earlier ones failed on.
        random_start: later restarts start from a point drawn from the region, each clip's from its own random numbers,
            and so goes on, after the first step of the first, a modality whose gradient at the clean clip is exactly 0.
        clean_first: whether the first restart begins at the clean clip although `random_start` is true.
        loss: a name in `LOSSES`, or "targeted".
        targets: how many classes are aimed at with "targeted".
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    stepper: Callable[[], Stepper]
    steps: int
    loss: ClimbedLossName
    restarts: int = 1
    random_start: bool = True
    clean_first: bool = True
    targets: int = 9

    @classmethod
    def configured(cls, stepper: Callable[[], Stepper], config: Config, **others: Any) -> "GradientAttack":
        """As the configuration says, but for the fields that only steppers read; `others` are those that it lacks."""
        return cls(stepper=stepper, **config.model_dump(exclude={"step_size", "decay"}), **others)

    def passes(self, occasion: Occasion) -> Passes:
        """Of each climb one forward pass more than steps, and a backward pass for each step."""
        towards = self.loss == "targeted" and not occasion.targeted
        climbs = self.restarts * (min(self.targets, occasion.classes - 1) if towards else 1)
        looked = not self._at_clean(occasion.started) or self.loss == "targeted"
        ahead = occasion.repeatable and not self.stepper().leaps
        return passes_of_climbs(occasion, climbs * (self.steps + 1) + looked + ahead, climbs, climbs * self.steps)

    def _at_clean(self, started: bool) -> bool:
        """Tell if the first climb begins at the clean clip."""
        return not started and (self.clean_first or not self.random_start)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        loss = LOSSES.get(self.loss, difference_of_logits_ratio)
        keeper = keeper_for(victim, loss, self.steps + 1, by=loss if self.loss == "targeted" else None)
        likely = None
        # If the first climb begins at the clean clip, that is the first point scored.
        if not self._at_clean(victim.start is not None) or self.loss == "targeted":
            logits = victim(victim.clean)
            keeper.score_logits(victim.clean, logits)
            keeper.settle()
            likely = likely_classes(logits, victim.goal, self.targets) if self.loss == "targeted" else None
        for run, (restart, climbed) in enumerate(self._climbs(keeper, loss, likely)):
            keeper.loss = climbed
            rest = keeper.victim
            point = rest.sample(f"start/{run}") if self.random_start else None
            if run == 0 and rest.start is not None:
                start = rest.region.project(rest.start)
            elif point is None or (restart == 0 and self.clean_first):
                start = rest.clean
            else:
                start, point = point, None
            look_ahead = run == 0 and rest.repeatable
            climb(keeper, self.stepper(), start, self.steps, traced=run == 0, look_ahead=look_ahead, spare=point)
        return keeper.result()

    def _climbs(self, keeper: Keeper, loss: Loss, likely: Tensor | None) -> Iterator[tuple[int, Loss]]:
        """Each climb's restart and what it raises, while there are clips left."""
        for restart in range(self.restarts):
            for column in range(1 if likely is None else likely.shape[1]):
                if not len(keeper.victim):
                    return
                yield restart, loss if likely is None else TowardsClass(likely[keeper.positions, column])


def likely_classes(logits: Tensor, goal: BatchGoal, count: int) -> Tensor | None:
    """The classes that each clip is most easily driven to: (B, count, or as many as there are others) int64.

    Args:
        logits: (B, K) of the clean clips.
        goal: untargeted: the highest logits of classes that are not the clip's own (a clip that has not so many gets
            its own last). Targeted: None, for there is nothing to choose.
        count: how many.
    """
    if goal.targeted:
        return None
    ranked = logits.masked_fill(goal.own(logits), -torch.inf).argsort(dim=1, descending=True)
    return ranked[:, : min(count, logits.shape[1] - 1)]
