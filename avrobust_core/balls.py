"""Norm balls around clean clips, cut by the media's bounds: what one modality of a batch may become.

Everything an attack needs of a norm is here: nearest point, steepest step, a random start, and the measure in
float64 by which the core checks the result. A new norm is one subclass.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_core.budgets import Budget, Snr

FLOAT32_HALF_ULP = 2.0**-24
"""Largest relative error of rounding to float32."""


class Ball(ABC):
    """The points within `radius` of `center` in one norm, and within `bounds`.

    Args:
        center: clean clips, (B, ...) float32, any rank.
        radius: (B,) float64, not negative; 0 leaves the clip as it is, bit for bit.
        bounds: lowest and highest value, or None.
    """

    norm: ClassVar[str]

    def __init__(self, center: Tensor, radius: Tensor, bounds: tuple[float, float] | None) -> None:
        self.center = center
        self.radius = radius
        self.bounds = bounds
        self.step_radius = per_clip(radius.to(center.dtype), center)
        """The radius shaped to multiply a perturbation: (B, 1, ...), in the clips' dtype."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A point of the ball and of the bounds: the nearest for linf; for l2 nearest in the ball, then clamped.

        Stored in float32, it is inside when measured again in float64.
        """

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of unit norm that raises a linear function with this gradient the most; 0 where it is 0."""

    @abstractmethod
    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A point drawn uniformly from the ball, then clamped: one generator per clip."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """The norm of x - center: (B,) float64."""

    def select(self, index: Tensor) -> "Ball":
        """The balls of the clips at `index` (int64 positions).

        Every tensor of a ball has the clips as its first dimension, so nothing is worked out again: for video the
        float64 arithmetic of a new ball costs more than a hundred times the selection.
        """
        selected = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(selected, name, value.index_select(0, index))
        return selected

    def _difference(self, x: Tensor) -> Tensor:
        return (x.double() - self.center.double()).flatten(1)


class LinfBall(Ball):
    """No sample may move by more than the radius."""

    norm = "linf"

    def __init__(self, center: Tensor, radius: Tensor, bounds: tuple[float, float] | None) -> None:
        super().__init__(center, radius, bounds)
        reach = per_clip(_round_down(radius, center.dtype), center)
        self._low = _edge(center, -reach)
        self._high = _edge(center, reach)
        if bounds is not None:
            self._low.clamp_(min=bounds[0])
            self._high.clamp_(max=bounds[1])

    def project(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self._low, self._high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        noise = torch.stack([torch.rand(self.center.shape[1:], generator=g) for g in generators])
        noise = noise.to(self.center.device).mul_(2).sub_(1)
        return self.project(self.center + self.step_radius * noise)

    def measure(self, x: Tensor) -> Tensor:
        return self._difference(x).abs().amax(dim=1)


class L2Ball(Ball):
    """The Euclidean length of the change, over all samples of the clip, is at most the radius."""

    norm = "l2"

    def __init__(self, center: Tensor, radius: Tensor, bounds: tuple[float, float] | None) -> None:
        super().__init__(center, radius, bounds)
        # A stored float32 is off by half an ulp of its own size in each coordinate: keep clear by all of them together.
        largest = _largest(center).flatten().double() + radius
        slack = (center[0].numel() ** 0.5) * FLOAT32_HALF_ULP * largest + 1e-6 * radius
        self._reach = per_clip((radius - slack).clamp(min=0).to(center.dtype), center)

    def project(self, x: Tensor) -> Tensor:
        delta = x - self.center
        length = _length(delta)
        share = (self._reach / length.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1)
        inside = delta.mul_(share).add_(self.center)
        return inside if self.bounds is None else inside.clamp_(*self.bounds)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Scaled by the largest entry first: the squares of a tiny gradient would vanish in float32.
        scaled = gradient / _largest(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        return scaled.div_(_length(scaled).clamp(min=1))

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = self.center.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        share = torch.stack([torch.rand((), generator=g) for g in generators]) ** (1 / shape.numel())
        noise, share = noise.to(self.center.device), share.to(self.center.device)
        length = _length(noise).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.project(self.center + noise / length * self.step_radius * per_clip(share, noise))

    def measure(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self._difference(x), dim=1)
        return length


BALLS: dict[str, type[Ball]] = {ball.norm: ball for ball in (LinfBall, L2Ball)}


def make_ball(clean: Tensor, budget: Budget, bounds: tuple[float, float] | None) -> Ball:
    """The ball of one modality of a batch.

    Args:
        clean: (B, ...) float32.
        budget: norm, radius and, where given, bounds of its own.
        bounds: the media's bounds, used where the budget has none.
    """
    return BALLS[budget.norm](clean, radii(clean, budget), budget.bounds or bounds)


def radii(clean: Tensor, budget: Budget) -> Tensor:
    """The radius of each clip's ball: (B,) float64.

    For a signal-to-noise ratio it is the radius at which a perturbation that fills the ball has that ratio:
    l2: ||x||_2 10^(-snr/20); linf: rms(x) 10^(-snr/20), every sample moved by the full radius.
    """
    if not isinstance(budget.eps, Snr):
        return torch.full((len(clean),), budget.eps, dtype=torch.float64, device=clean.device)
    length: Tensor = torch.linalg.vector_norm(clean.double().flatten(1), dim=1)
    if budget.norm == "linf":
        length = length / clean[0].numel() ** 0.5
    return length * 10 ** (-budget.eps.snr_db / 20)


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _length(x: Tensor) -> Tensor:
    return per_clip(torch.linalg.vector_norm(x.flatten(1), dim=1), x)


def _largest(x: Tensor) -> Tensor:
    """The largest absolute value of each clip, shaped to broadcast; twice as fast as a norm, and without a copy."""
    flat = x.flatten(1)
    return per_clip(torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)), x)


def _round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values that are not negative, in another dtype, none of them larger than it was."""
    rounded = values.to(dtype)
    return torch.where(rounded.to(values.dtype) > values, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)


def _edge(center: Tensor, reach: Tensor) -> Tensor:
    """The sum of both, rounded towards the center: in float64 no further from it than `reach`.

    Knuth's two-sum gives what rounding the sum has lost exactly, at a fraction of the cost of float64.
    """
    edge = center + reach
    shift = edge - center
    lost = (edge - shift).neg_().add_(center).add_(reach - shift)  # center + reach = edge + lost
    passed = (lost < 0) & (reach > 0) | (lost > 0) & (reach < 0)
    return torch.where(passed, torch.nextafter(edge, center), edge)
