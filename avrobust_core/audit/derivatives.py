"""Gradients held against directional differences of the outputs, in float64 where a doubt is left."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.audit.exact import Exact, opened, rise
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.probes import drawn
from avrobust_core.data.batches import select_inputs

FIRST_LENGTH, TOLERANCE = 5e-2, 0.05
"""Half the length of the first difference, in radii, and the relative error allowed. It is in float32: most true
derivatives agree there, and only the others, and those too small to be told from rounding, cost passes in float64,
which take three to eight times as long."""

DOUBLE_LENGTHS = (1e-4, 1e-2)
"""The same in float64: at the first, rounding is 1e-10 of the loss; the second is for models that compute a part in
float32 nevertheless."""

SINGLE_LENGTHS, SINGLE_TOLERANCE = (1e-2, 5e-2, 0.25), 0.25
"""The same in float32, for models that run in nothing else: rounding (1e-6 of the loss, over twice the length) leaves
little of a short difference, while a long one is off by curvature: a true derivative agrees at one of them, a false one
at none."""

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

    def loss(self, moved: Mapping[str, Tensor], index: Tensor, exactly: bool) -> Tensor:
        """The loss (b,) of the clips at `index` at a point, in float64 where that is asked for and can be done."""
        part = self.bound.select(index)
        if exactly:
            logits = self.exact.logits({**select_inputs(self.inputs, index), **moved}, self.bound.features)
        else:
            logits = part.confirm({name: x.to(self.start[name]) for name, x in moved.items()})
        return rise(opened(logits), part.goal).double()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One length of a difference.

    Attributes:
        exactly: in float64, where the model can do it.
        length: half of it, in radii.
        tolerance: the relative error allowed.
        last: whether a derivative that cannot be told from rounding counts as 0: there is no finer one after it.
    """

    exactly: bool
    length: float
    tolerance: float
    last: bool = True

    @property
    def rounding(self) -> float:
        """The rounding error possible in a difference of outputs of size 1."""
        return 20 * torch.finfo(torch.float64 if self.exactly else torch.float32).eps / (2 * self.length)


@torch.no_grad()
def untrue_gradients(found: Derivatives, meter: Meter) -> dict[str, tuple[Tensor, Tensor]]:
    """Find the gradients that do not tell what the loss does in a random direction.

    Args:
        found: clips and gradients.
        meter: pays two passes for each clip and modality, and for each clip that is looked at again; clips that it does
            not reach for are left out.

    Returns:
        by modality, the positions (n,) of the clips looked at, and (n,) bool: no difference agrees with the gradient.
    """
    attempts = _attempts(found)
    answer: dict[str, tuple[Tensor, Tensor]] = {}
    for name, gradient in found.gradients.items():
        direction = _direction(found, name)
        products = (gradient.double() * direction).flatten(1)
        told, usual = products.sum(dim=1), products.square().sum(dim=1).sqrt()
        doubtful = torch.arange(len(found.bound), device=found.bound.device)
        agreed = doubtful[:0]
        for number, attempt in enumerate(attempts):
            reach = len(attempts) - number if attempt.last else 1  # only a clip that agrees at none of them is untrue
            doubtful = doubtful[: meter.affords(2 * reach, len(doubtful))]
            if len(doubtful):
                meter.spend(2 * len(doubtful))
                seen = _difference(found, name, direction, doubtful, attempt)
                agrees = _agrees(*seen, told[doubtful], usual[doubtful], attempt)
                agreed, doubtful = torch.cat([agreed, doubtful[agrees]]), doubtful[~agrees]
        looked_at = torch.cat([agreed, doubtful])
        if len(looked_at):
            answer[name] = (looked_at, torch.arange(len(looked_at), device=looked_at.device) >= len(agreed))
    return answer


def _attempts(found: Derivatives) -> list[_Attempt]:
    found.exact.prepare({**found.inputs, **found.start}, found.bound.features)
    if not found.exact.double:
        return [_Attempt(False, length, SINGLE_TOLERANCE) for length in SINGLE_LENGTHS]
    first = _Attempt(False, FIRST_LENGTH, TOLERANCE, last=False)
    return [first, *(_Attempt(True, length, TOLERANCE) for length in DOUBLE_LENGTHS)]


def _direction(found: Derivatives, name: str) -> Tensor:
    """A step of one radius in a random direction of one modality, (n, ...) float64."""
    ball = found.bound.balls[name]
    signs = ball.confined(drawn(ball.center, found.bound.generators(f"audit/direction/{name}")).sign())
    return ball.step(torch.zeros_like(signs), signs, 1.0).double()


def _difference(
    found: Derivatives, name: str, direction: Tensor, index: Tensor, attempt: _Attempt
) -> tuple[Tensor, Tensor]:
    """The slope of the loss along a direction, and how much of it may be rounding: (b,) each."""
    start = {each: x[index].double() for each, x in found.start.items()}
    step = attempt.length * direction[index]
    higher = found.loss({**start, name: start[name] + step}, index, attempt.exactly)
    lower = found.loss({**start, name: start[name] - step}, index, attempt.exactly)
    noise = attempt.rounding * torch.maximum(higher.abs(), lower.abs()).clamp(min=1)
    return (higher - lower) / (2 * attempt.length), noise


def _agrees(seen: Tensor, noise: Tensor, told: Tensor, usual: Tensor, attempt: _Attempt) -> Tensor:
    size = torch.maximum(torch.maximum(seen.abs(), told.abs()), FLOOR * usual)
    material = torch.maximum(seen.abs(), told.abs()) > torch.clamp(10 * noise, min=SLIGHTEST)
    close = (seen - told).abs() <= attempt.tolerance * size + noise
    return close | ~material if attempt.last else close & material
