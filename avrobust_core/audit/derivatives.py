"""Whether gradients are derivatives: directional differences of the outputs, in float64 where the model can do it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core.attacks.victim import BoundVictim
from avrobust_core.audit.exact import Exact, opened, rise
from avrobust_core.audit.meter import Meter

DOUBLE_LENGTHS, DOUBLE_TOLERANCE = (1e-4, 1e-2), 0.05
"""Half the length of a difference in float64, in radii, tried one after the other, and the relative error allowed: at
the first, rounding is 1e-10 of the loss; the second is for models that compute a part in float32 nevertheless."""

SINGLE_LENGTHS, SINGLE_TOLERANCE = (1e-2, 5e-2, 0.25), 0.25
"""The same in float32, whose rounding (1e-6 of the loss, over twice the length) leaves little of a short difference,
while a long one is off by curvature: a true derivative agrees at one of them, a false one at none."""

FLOOR = 0.3
"""Errors are relative to the derivative, or to this share of what a random direction usually gives, if more: where
a direction happens to lie across the gradient both are near 0."""

SLIGHTEST = 1e-4
"""A derivative below this, in units of the loss per radius, counts as 0."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Clips, where their gradients were taken, and what they were.

    Attributes:
        bound: the clips under the threat.
        inputs: by modality of the model, (n, ...): the clean clips.
        start: by attacked modality, (n, ...).
        gradients: of `rise` of the `opened` outputs at `start`, from float32.
        exact: the model in float64.
    """

    bound: BoundVictim
    inputs: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    exact: Exact

    def loss(self, moved: Mapping[str, Tensor]) -> Tensor:
        """The loss (n,) at a point."""
        logits = self.exact.logits({**self.inputs, **moved}, self.bound.features)
        return rise(opened(logits), self.bound.goal)


@torch.no_grad()
def untrue_gradients(found: Derivatives, meter: Meter) -> dict[str, Tensor]:
    """By modality, (n,) bool: the gradient does not tell what the loss does in a random direction.

    Args:
        found: clips and gradients.
        meter: pays two passes for each clip and modality, and two more for each that is looked at again; a modality
            for which it has not enough left is not looked at.
    """
    clips = len(found.bound)
    answer: dict[str, Tensor] = {}
    for name, gradient in found.gradients.items():
        direction = _direction(found, name)
        told = (gradient.double() * direction).flatten(1).sum(dim=1)
        usual = (gradient.double() * direction).flatten(1).square().sum(dim=1).sqrt()
        untrue: Tensor | None = None
        for length in _lengths(found):
            if untrue is not None and not untrue.any():
                break
            if meter.left < 2 * clips:
                break
            meter.spent += 2 * clips
            wrong = _wrong(found, name, direction, told, usual, length)
            untrue = wrong if untrue is None else untrue & wrong
        if untrue is not None:
            answer[name] = untrue
    return answer


def _lengths(found: Derivatives) -> tuple[float, ...]:
    found.exact.logits({name: x[:1] for name, x in {**found.inputs, **found.start}.items()}, found.bound.features)
    return DOUBLE_LENGTHS if found.exact.double else SINGLE_LENGTHS


def _direction(found: Derivatives, name: str) -> Tensor:
    """A step of one radius in a random direction of one modality, (n, ...) float64."""
    ball = found.bound.balls[name]
    generators = found.bound.generators(f"audit/direction/{name}")
    signs = torch.stack([torch.randn(ball.center.shape[1:], generator=g) for g in generators]).sign().to(ball.center)
    if ball.freedom is not None:
        signs = ball.freedom.confine(signs)
    moved = ball.step(torch.zeros_like(signs), signs, 1.0)
    return moved.double()


def _wrong(found: Derivatives, name: str, direction: Tensor, told: Tensor, usual: Tensor, length: float) -> Tensor:
    start = {each: x.double() for each, x in found.start.items()}
    higher = found.loss({**start, name: start[name] + length * direction}).double()
    lower = found.loss({**start, name: start[name] - length * direction}).double()
    seen = (higher - lower) / (2 * length)
    tolerance = DOUBLE_TOLERANCE if found.exact.double else SINGLE_TOLERANCE
    precision = torch.finfo(torch.float64 if found.exact.double else torch.float32).eps
    noise = 20 * precision * torch.maximum(higher.abs(), lower.abs()).clamp(min=1) / (2 * length)
    size = torch.maximum(torch.maximum(seen.abs(), told.abs()), FLOOR * usual)
    material = torch.maximum(seen.abs(), told.abs()) > torch.clamp(10 * noise, min=SLIGHTEST)
    return material & ~((seen - told).abs() <= tolerance * size + noise)
