"""Gradients held against directional differences of the outputs, in float64 where a doubt is left."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.audit.exact import Exact, opened, rise
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.probes import Climbed, direction
from avrobust_core.data.batches import select_inputs

FLOOR = 0.3
"""Errors are relative to the derivative, or to this share of what a random direction usually gives, if more: where
a direction happens to lie across the gradient both are near 0."""

SLIGHTEST = 1e-4
"""A derivative below this, in units of the loss per radius, counts as 0."""


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


IN_DOUBLE: Final = (
    _Attempt(False, 5e-2, 0.05, last=False),
    _Attempt(True, 1e-4, 0.05),
    _Attempt(True, 1e-2, 0.05),
)
"""Half the lengths of differences, in radii, and the relative errors allowed. The first is in float32: most true
derivatives agree there, and only the others, and those too small to be told from rounding, cost passes in float64,
which take three to eight times as long. There, rounding is 1e-10 of the loss at the second length; the third is for
models that compute a part in float32 nevertheless."""

IN_SINGLE: Final = (_Attempt(False, 1e-2, 0.25), _Attempt(False, 5e-2, 0.25), _Attempt(False, 0.25, 0.25))
"""The same for models that run in float32 alone: rounding (1e-6 of the loss, over twice the length) leaves little of a
short difference, while a long one is off by curvature: a true derivative agrees at one of them, a false one at none."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Clips that were climbed, and their gradients at the start.

    Attributes:
        bound: the clips under the threat.
        inputs: by modality of the model, (n, ...): the clean clips.
        climbed: from where, and with which gradients of `rise` of the `opened` outputs, in float32.
        exact: the model in float64.
    """

    bound: BoundVictim
    inputs: Mapping[str, Tensor]
    climbed: Climbed
    exact: Exact

    @torch.no_grad()
    def untrue(self, count: int, meter: Meter) -> dict[str, tuple[Tensor, Tensor]]:
        """Find the gradients that do not tell what the loss does in a random direction.

        Args:
            count: of the clips, the first.
            meter: pays two passes for each clip and modality, and for each clip that is looked at again; clips that it
                does not reach for are left out.

        Returns:
            by modality, the positions (n,) of the clips looked at, and (n,) bool: no difference agrees with the
            gradient.
        """
        self.exact.prepare({**self.inputs, **self.climbed.start}, self.bound.features)
        first = torch.arange(count, device=self.bound.device)
        attempts = IN_DOUBLE if self.exact.double else IN_SINGLE
        answer: dict[str, tuple[Tensor, Tensor]] = {}
        for name, gradient in self.climbed.gradients.items():
            direction = _direction(self.bound.select(first), name)
            products = (gradient[first].double() * direction).flatten(1)
            told, usual = products.sum(dim=1), products.square().sum(dim=1).sqrt()
            doubtful, agreed = first, first[:0]
            for number, attempt in enumerate(attempts):
                # Only a clip that agrees at none of them is untrue.
                reach = len(attempts) - number if attempt.last else 1
                doubtful = doubtful[: meter.affords(2 * reach, len(doubtful))]
                if len(doubtful):
                    meter.spend(2 * len(doubtful))
                    seen = self._difference(name, direction, doubtful, attempt)
                    agrees = _agrees(*seen, told[doubtful], usual[doubtful], attempt)
                    agreed, doubtful = torch.cat([agreed, doubtful[agrees]]), doubtful[~agrees]
            looked_at = torch.cat([agreed, doubtful])
            if len(looked_at):
                answer[name] = (looked_at, torch.arange(len(looked_at), device=looked_at.device) >= len(agreed))
        return answer

    def _difference(self, name: str, direction: Tensor, index: Tensor, attempt: _Attempt) -> tuple[Tensor, Tensor]:
        """The slope of the loss along a direction, and how much of it may be rounding: (b,) each."""
        start = {each: x[index].double() for each, x in self.climbed.start.items()}
        step = attempt.length * direction[index]
        higher = self._loss({**start, name: start[name] + step}, index, attempt.exactly)
        lower = self._loss({**start, name: start[name] - step}, index, attempt.exactly)
        noise = attempt.rounding * torch.maximum(higher.abs(), lower.abs()).clamp(min=1)
        return (higher - lower) / (2 * attempt.length), noise

    def _loss(self, moved: Mapping[str, Tensor], index: Tensor, exactly: bool) -> Tensor:
        """The loss (b,) of the clips at `index` at a point, in float64 where that is asked for and can be done."""
        part = self.bound.select(index)
        if exactly:
            logits = self.exact.logits({**select_inputs(self.inputs, index), **moved}, part.features)
        else:
            logits = part.confirm({name: x.to(part.clean[name]) for name, x in moved.items()})
        return rise(opened(logits), part.goal).double()


def _direction(bound: BoundVictim, name: str) -> Tensor:
    """A step of one radius in a random direction of one modality, (n, ...) float64."""
    ball = bound.balls[name]
    signs = ball.confined(direction(bound, f"audit/direction/{name}", ball.center).sign())
    return ball.step(torch.zeros_like(signs), signs, 1.0).double()


def _agrees(seen: Tensor, noise: Tensor, told: Tensor, usual: Tensor, attempt: _Attempt) -> Tensor:
    size = torch.maximum(torch.maximum(seen.abs(), told.abs()), FLOOR * usual)
    material = torch.maximum(seen.abs(), told.abs()) > torch.clamp(10 * noise, min=SLIGHTEST)
    close = (seen - told).abs() <= attempt.tolerance * size + noise
    return close | ~material if attempt.last else close & material
