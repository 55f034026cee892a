"""The change of variables of Carlini and Wagner, made safe at the bounds."""

import torch
from torch import Tensor

from avrobust_core import Ball

WIDENING = 1.5
"""Reach of the tanh over that of the bounds: there, where its slope is 0 in the paper, it is 1 - 1 / 1.5^2 here."""


class Variable:
    """One modality of a batch as a variable without bounds.

    In the paper x = tanh(w) ends exactly at the bounds, so that a sample that lies there has w infinite and slope 0:
    it never moves. Here the tanh reaches beyond the bounds by `WIDENING`, and w is held where x meets them: a sample
    at a bound moves off it as readily as one inside, and reaches it as well. Perturbations are differences of two
    values of the tanh, so that w0 stands for the clean clip to the bit.

    Without bounds, or where the perturbation must be the same at all steps of time (then one sample's slope would not
    be another's), x is its own variable.

    Args:
        ball: of the modality.
    """

    def __init__(self, ball: Ball) -> None:
        self._ball = ball
        straight = ball.bounds is None or (ball.time is not None and ball.time.invariant)
        low, high = ball.bounds or (0.0, 1.0)
        self._bounds = None if straight else (low, high)
        self._middle, self._reach = (low + high) / 2, (high - low) / 2 * WIDENING
        self._clean = ball.center if straight else self._tanh(self.of(ball.center))
        # `of` rounds: held at its own value of the bounds, a clean sample at a bound is not moved by a step of 0.
        self._limits = self.of(ball.center.new_tensor((low, high)))

    def of(self, x: Tensor) -> Tensor:
        """The variable (b, ...) that stands for `x`, in the unit of `x`."""
        if self._bounds is None:
            return x
        return ((x - self._middle) / self._reach).clamp(-1 / WIDENING, 1 / WIDENING).atanh() * self._reach

    def value(self, variable: Tensor) -> Tensor:
        """The modality that the variable stands for: within the bounds, and within the ball's constraint on time."""
        if self._bounds is None:
            plain = self._ball.bounds is None and self._ball.time is None
            return variable if plain else self._ball.within(variable, torch.full_like(self._ball.radius, torch.inf))
        x = (self._ball.center + (self._tanh(variable) - self._clean)).clamp(*self._bounds)
        return self._ball.confine(x)

    def moved(self, variable: Tensor, step: Tensor) -> Tensor:
        """The variable after a step, held where it meets the bounds."""
        if self._bounds is None:
            return self.value(variable + step)
        return torch.clamp(variable + step, *self._limits.unbind())

    def slope(self, variable: Tensor) -> Tensor | float:
        """The derivative of the value: what turns a gradient for x into one for the variable."""
        if self._bounds is None:
            return 1.0
        return 1 - (variable / self._reach).tanh().square()

    def open(self, variable: Tensor, direction: Tensor) -> Tensor:
        """The direction (b, ...) without the part that would leave the bounds where the variable is held by them."""
        if self._bounds is None:
            return direction
        low, high = self._limits.unbind()
        held = ((variable <= low) & (direction < 0)) | ((variable >= high) & (direction > 0))
        return direction.masked_fill(held, 0)

    def _tanh(self, variable: Tensor) -> Tensor:
        return (variable / self._reach).tanh() * self._reach
