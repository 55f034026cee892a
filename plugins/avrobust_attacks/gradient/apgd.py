"""Auto-PGD: momentum, and a step size per clip that is halved where it no longer pays."""

import math
from functools import partial

import torch
from torch import Tensor

from avrobust_attacks.gradient.attack import GradientAttack
from avrobust_attacks.gradient.climbing import Stepper, leap
from avrobust_attacks.gradient.configs import ApgdConfig
from avrobust_core import Inputs, Region, per_clip, where_clips

FIRST_LENGTH = 2.0
"""Length of the steps until the first checkpoint, as a share of the radius: from one end of a ball to the other."""

MOMENTUM = 0.75
"""Weight of the new step against that of the last one (alpha in the paper)."""

ENOUGH_RISES = 0.75
"""A step size is kept while at least this share of its steps raise the loss (rho in the paper)."""

FIRST_CHECKPOINT, SHORTENING, SHORTEST = 0.22, 0.03, 0.06
"""Places where the step size is looked at, as shares of all steps: see `checkpoints`."""


class AutoSteps(Stepper):
    """The steps of Auto-PGD (Croce and Hein, ICML 2020, Algorithm 1), one schedule per clip for its whole region.

    A clip whose step size is halved goes on from its best point so far, without momentum; on a model with randomness of
    its own, from where it is. The first step is a leap: in linf that is the paper's; in the other norms it goes further
    than a step of that length from a start off the center would.

    Args:
        steps: of the whole climb; the checkpoints depend on it.
    """

    leaps = True

    def __init__(self, steps: int) -> None:
        self._checkpoints = checkpoints(steps)
        self._step = 0
        self._last_checkpoint = 0
        self._previous: dict[str, Tensor] = {}

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        if self._step == 0:
            self._begin(x, gradients, loss)
            moved = leap(region, gradients)
        else:
            self._note(x, gradients, loss)
            if self._step in self._checkpoints:
                x, gradients = self._reconsider(x, gradients)
            moved = region.project(region.step(x, gradients, self._length))
            for name, new in moved.items():
                # From x, MOMENTUM of the way to the new point, and 1 - MOMENTUM of the last way once more.
                new.lerp_(x[name], 1 - MOMENTUM)
                new.add_(x[name] - self._previous[name], alpha=1 - MOMENTUM)
            moved = region.project(moved)
        self._previous = dict(x)
        self._step += 1
        return moved

    def rest(self, x: Inputs, loss: Tensor) -> tuple[Inputs, Tensor]:
        if not self.repeatable:
            return x, loss
        higher = loss > self._best_loss
        return where_clips(higher, x, self._best), torch.where(higher, loss, self._best_loss)

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
            flags = per_clip(higher, best)
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
        if not self.repeatable:
            return x, gradients
        self._previous = where_clips(self._halved, self._best, self._previous)
        return where_clips(self._halved, self._best, x), where_clips(self._halved, self._best_gradient, gradients)


def apgd(config: ApgdConfig) -> GradientAttack:
    """Climbs whose step sizes are chosen on the way."""
    return GradientAttack.configured(partial(AutoSteps, config.steps), config)


def checkpoints(steps: int) -> frozenset[int]:
    """The steps at which step sizes are looked at (Croce and Hein, 2020, section 4): their gaps grow shorter."""
    found, before, at = set(), 0.0, FIRST_CHECKPOINT
    while at <= 1:
        found.add(math.ceil(at * steps - 1e-9))  # 57 of 100, not 58 for 57.000000000000007
        before, at = at, at + max(at - before - SHORTENING, SHORTEST)
    return frozenset(found)
