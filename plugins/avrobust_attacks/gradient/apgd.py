"""Auto-PGD: momentum, and a step size per clip that is halved where it no longer pays."""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_attacks.gradient.climbing import Inputs, Stepper, climb, start_of
from avrobust_attacks.gradient.keepers import Keeper, keeper_for, like
from avrobust_attacks.losses import LOSSES, Loss, TowardsClass, difference_of_logits_ratio
from avrobust_core import Attack, AttackResult, BoundVictim, Goal, Region

FIRST_LENGTH = 2.0
"""Of the first steps, as a share of the radius: from one end of a ball to the other."""

MOMENTUM = 0.75
"""Weight of the new step against that of the last one (alpha in the paper)."""

ENOUGH_RISES = 0.75
"""A step size is kept while at least this share of its steps raise the loss (rho in the paper)."""

FIRST_CHECKPOINT, SHORTENING, SHORTEST = 0.22, 0.03, 0.06
"""Where the step size is looked at, as shares of all steps: see `checkpoints`."""

AutoLoss = Literal["ce", "margin", "dlr", "rank", "targeted"]


class AutoSteps(Stepper):
    """The steps of Auto-PGD (Croce and Hein, ICML 2020, Algorithm 1), one schedule per clip for its whole region.

    A clip whose step size is halved goes on from its best point so far, without momentum.

    Args:
        steps: of the whole climb; the checkpoints depend on it.
    """

    _length: Tensor
    _previous: dict[str, Tensor]
    _best: dict[str, Tensor]
    _best_gradient: dict[str, Tensor]
    _loss: Tensor
    _best_loss: Tensor
    _best_before: Tensor
    _rises: Tensor
    _halved: Tensor

    def __init__(self, steps: int) -> None:
        self._checkpoints = checkpoints(steps)
        self._step = 0
        self._last_checkpoint = 0

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        if self._step == 0:
            self._begin(x, gradients, loss)
        else:
            self._note(x, gradients, loss)
        if self._step in self._checkpoints:
            x, gradients = self._reconsider(x, gradients)
        moved = region.project(region.step(x, gradients, self._length))
        if self._step > 0:
            for name, new in moved.items():
                # From x, MOMENTUM of the way to the new point, and 1 - MOMENTUM of the last way once more.
                new.lerp_(x[name], 1 - MOMENTUM)
                new.add_(x[name] - self._previous[name], alpha=1 - MOMENTUM)
            moved = region.project(moved)
        self._previous = dict(x)
        self._step += 1
        return moved

    def rest(self, x: dict[str, Tensor], loss: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        higher = loss > self._best_loss
        best = {name: torch.where(like(higher, best), x[name], best) for name, best in self._best.items()}
        return best, torch.where(higher, loss, self._best_loss)

    def select(self, kept: Tensor) -> None:
        if self._step == 0:
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, kept))
            elif isinstance(value, dict):
                setattr(self, name, {modality: of_it.index_select(0, kept) for modality, of_it in value.items()})

    def _begin(self, x: Inputs, gradients: Inputs, loss: Tensor) -> None:
        self._length = torch.full_like(loss, FIRST_LENGTH)
        self._previous = dict(x)
        self._best = {name: now.clone() for name, now in x.items()}
        self._best_gradient = {name: gradient.clone() for name, gradient in gradients.items()}
        self._loss = self._best_loss = self._best_before = loss
        self._rises = torch.zeros_like(loss)
        self._halved = torch.zeros_like(loss, dtype=torch.bool)

    def _note(self, x: Inputs, gradients: Inputs, loss: Tensor) -> None:
        self._rises = self._rises + (loss > self._loss)
        self._loss = loss
        higher = loss > self._best_loss
        self._best_loss = torch.where(higher, loss, self._best_loss)
        for name, best in self._best.items():
            flags = like(higher, best)
            torch.where(flags, x[name], best, out=best)
            torch.where(flags, gradients[name], self._best_gradient[name], out=self._best_gradient[name])

    def _reconsider(self, x: Inputs, gradients: Inputs) -> tuple[Inputs, Inputs]:
        """Halve step sizes where they did not pay (conditions 1 and 2 of the paper); back to the best point there."""
        window = self._step - self._last_checkpoint
        self._last_checkpoint = self._step
        stuck = ~self._halved & (self._best_loss <= self._best_before)
        self._halved = (self._rises < ENOUGH_RISES * window) | stuck
        self._best_before = self._best_loss
        self._rises = torch.zeros_like(self._rises)
        self._length = torch.where(self._halved, self._length / 2, self._length)

        def back(best: Inputs, now: Inputs) -> dict[str, Tensor]:
            return {name: torch.where(like(self._halved, of_it), best[name], of_it) for name, of_it in now.items()}

        self._previous = back(self._best, self._previous)
        return back(self._best, x), back(self._best_gradient, gradients)


class APGD(Attack):
    """Auto-PGD on all attacked modalities at once (Croce and Hein, ICML 2020, arXiv 2003.01690).

    What is scored and returned for a clip, and what `last` and the trace hold, are as in `PGD`; the clean clips are
    always scored first. With `targeted`, each restart is one climb per class among the `targets` that the clean
    clip's logits hold most likely beside its own, each on the clips that are not broken yet; if the attack's goal is
    itself a class, that class is the only one.

    With fewer than 3 classes (targeted: 4) there is no DLR: the margin is climbed instead.

    Args:
        steps: of each climb.
        restarts: independent starts.
        random_start: start from a point drawn from the ball, from the clip's own generator; else from the clean clip.
        loss: a name in `LOSSES`, or "targeted".
        targets: how many classes are aimed at with "targeted".
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, *, steps: int, restarts: int, random_start: bool, loss: AutoLoss, targets: int = 9) -> None:
        self.steps = steps
        self.restarts = restarts
        self.random_start = random_start
        self.loss = loss
        self.targets = targets

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        loss: Loss = LOSSES.get(self.loss, difference_of_logits_ratio)
        # With a class to climb towards, climbs have losses of their own: what is kept must be told by a common one.
        keeper = keeper_for(victim, loss, self.steps + 1, by=loss)
        logits = victim(victim.clean)
        keeper.score_logits(victim.clean, logits)
        keeper.settle(victim.clean)
        for run, climbed in enumerate(self._losses(keeper, loss, victim.goal, logits)):
            keeper.loss = climbed
            start = start_of(keeper.victim, run, random=self.random_start)
            climb(keeper, AutoSteps(self.steps), start, self.steps, first_row=None if run else 0)
        return keeper.result()

    def _losses(self, keeper: Keeper, loss: Loss, goal: Goal, logits: Tensor) -> Iterator[Loss]:
        """What each climb raises, while there are clips left."""
        likely = likely_classes(logits, goal, self.targets) if self.loss == "targeted" else None
        for _ in range(self.restarts):
            for column in range(1 if likely is None else likely.shape[1]):
                if not len(keeper.victim):
                    return
                yield loss if likely is None else TowardsClass(likely[keeper.positions, column])


def checkpoints(steps: int) -> frozenset[int]:
    """The steps at which step sizes are looked at (Croce and Hein, 2020, section 4): their gaps grow shorter."""
    found, before, at = set(), 0.0, FIRST_CHECKPOINT
    while at <= 1:
        found.add(math.ceil(at * steps - 1e-9))  # 57 of 100, not 58 for 57.000000000000007
        before, at = at, at + max(at - before - SHORTENING, SHORTEST)
    return frozenset(found)


def likely_classes(logits: Tensor, goal: Goal, count: int) -> Tensor | None:
    """The classes that each clip is most easily driven to: (B, count or as many as all clips have) int64; None if none.

    Args:
        logits: (B, K) of the clean clips.
        goal: untargeted: the highest logits of classes that are not the clip's own. Targeted: None, for there is
            nothing to choose.
        count: how many.
    """
    if goal.targeted:
        return None
    classes = logits.shape[1]
    own = goal.labels > 0.5 if goal.task == "multi-label" else F.one_hot(goal.labels, classes).bool()
    ranked = logits.masked_fill(own, -torch.inf).argsort(dim=1, descending=True)
    return ranked[:, : min(count, classes - 1)]
