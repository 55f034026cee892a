"""The dense norms, linf and l2, each as a ball; and the table of all norms that a budget may name."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.threats.balls import FLOAT32_HALF_ULP, SAFETY, Ball, Bounds, TimeConstraint
from avrobust_core.threats.clips import clip_norm, largest, per_clip, pieces
from avrobust_core.threats.l2_projection import nearest
from avrobust_core.threats.sparse_norms import L0Ball, L1Ball


class LinfBall(Ball):
    """No sample may move by more than the radius."""

    norm = "linf"

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None = None) -> None:
        super().__init__(center, radius, bounds, time)
        self._low = self._high = center.new_empty(len(center), 0)  # made when first needed; training needs none

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        if self.time is not None and self.time.invariant:
            x = self.within(x, self.radius)
        if self._low.shape != self.center.shape:
            self._set_edges()
        return torch.clamp(x, self._low, self._high)

    def _set_edges(self) -> None:
        center, time = self.center, self.time
        reach = per_clip(_round_down(self.radius, center.dtype), center)
        self._low, self._high = torch.empty_like(center), torch.empty_like(center)
        for piece in pieces(len(center), center[:1].numel(), center.device):
            part = reach[piece]
            if time is not None and time.partial:
                part = torch.where(time.of(piece).free(center[piece]), part, 0)
            self._high[piece] = _upper_edge(center[piece], part)
            self._low[piece] = _upper_edge(-center[piece], part).neg_()
        self._low.clamp_(min=self.limits[0])
        self._high.clamp_(max=self.limits[1])

    @torch.no_grad()
    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        reach = per_clip(radius.to(x.dtype), x)
        delta = self._delta(x)
        # A clamp between two tensors that broadcast takes four times as long.
        torch.minimum(torch.maximum(delta, -reach, out=delta), reach, out=delta)
        if self.time is not None and self.time.invariant:
            delta.clamp_(*self.room)
        return delta.add_(self.center).clamp_(*self.limits)

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        gradient = self.confined(gradient)
        if isinstance(length, Tensor):
            return torch.addcmul(x, gradient.sign(), self.step_radius * length)
        return torch.addcmul(x, gradient.sign(), self.step_radius, value=length)

    def gain(self, gradient: Tensor) -> Tensor:
        gradient = self.confined(gradient)
        return gradient.flatten(1).abs().sum(dim=1) * self.radius.to(gradient.dtype)

    @torch.no_grad()
    def sample(self, draws: ClipDraws) -> Tensor:
        if self.time is not None:
            shape = list(self.center.shape[1:])
            if self.time.invariant:
                shape[self.time.axis - 1] = 1
            return self.project(self.center + self.step_radius * draws.noise(shape, "uniform"))
        # Clear of the edge by all that rounding may add: so the edges need not be made, nor read.
        highest: float | Tensor = max(map(abs, self.limits))
        if highest == torch.inf:
            highest = largest(self.center).flatten().double()
        reach = (self.radius * (1 - SAFETY) - FLOAT32_HALF_ULP * highest).clamp(min=0)
        return draws.around(self.center, reach, self.limits)

    def measure(self, x: Tensor) -> Tensor:
        return self._difference(x).abs().amax(dim=1)

    def pooled(self, values: Tensor) -> Tensor:
        return values

    def _noise_size(self, noise: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(noise, dim=1)
        return length / (noise != 0).sum(dim=1).clamp(min=1).sqrt()


class L2Ball(Ball):
    """The Euclidean length of the change, over all samples of the clip, is at most the radius."""

    norm = "l2"
    smooth = True

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None = None) -> None:
        super().__init__(center, radius, bounds, time)
        self.rounding = FLOAT32_HALF_ULP * clip_norm(center)
        """(B,) float64: the Euclidean norm of what rounding to float32 can move a clip by, its own size taken off."""

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        # Each stored sample is off by half an ulp of its own size: keep clear by all of them together.
        return self.within(x, self._firm_radius)

    @property
    def _firm_radius(self) -> Tensor:
        """What is left of the radius for a perturbation before it is stored: (B,) float64, not negative."""
        return (self.radius * (1 - SAFETY) - self.rounding).clamp(min=0)

    @torch.no_grad()
    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        reach = radius.clamp(min=0)
        return nearest((self,), (x,), torch.ones_like(reach).unsqueeze(0), reach)[0]

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        direction, norm, _ = self.polar(gradient)
        return torch.addcmul(x, direction, self.step_radius * length / per_clip(norm.to(x.dtype), x))

    def polar(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A confined gradient's direction, the direction's norm (at least 1, but for 0), and what it was divided by.

        The norm of the gradient is the product of the two numbers, (B,) float64 each. The squares of a tiny gradient
        would vanish in float32: so it is divided by its largest entry first.
        """
        gradient = self.confined(gradient)
        size = largest(gradient)
        direction = gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)
        return direction, clip_norm(direction).clamp(min=1), size.flatten().double()

    def gain(self, gradient: Tensor) -> Tensor:
        _, norm, size = self.polar(gradient)
        return (norm * size * self.radius).to(gradient.dtype)

    @torch.no_grad()
    def sample(self, draws: ClipDraws) -> Tensor:
        noise = self.confined(draws.noise(self.center.shape[1:], "gaussian")).contiguous()
        samples = self.samples
        power = 1 / samples.clamp(min=1).double() if isinstance(samples, Tensor) else 1 / samples
        share = draws.uniform().double() ** power
        share = share / clip_norm(noise).clamp(min=torch.finfo(noise.dtype).tiny)
        reach = per_clip((share * self._firm_radius).to(noise.dtype), noise)
        if self.time is not None and self.time.invariant:
            return self.project(noise.mul_(reach).add_(self.center))
        # It is inside already, and stays so where it is cut at the bounds.
        for piece in pieces(len(noise), noise[:1].numel(), noise.device):
            noise[piece].mul_(reach[piece]).add_(self.center[piece]).clamp_(*self.limits)
        return noise

    @property
    def samples(self) -> int | Tensor:
        """The dimension of the ball: the samples that may change, each by itself; (B,) where some are padded."""
        shape = self.center.shape[1:]
        return shape.numel() if self.time is None else self.time.samples(shape)

    def measure(self, x: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self._difference(x), dim=1)
        return found

    def _noise_size(self, noise: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(noise, dim=1)
        return length


BALLS: Mapping[str, type[Ball]] = MappingProxyType({ball.norm: ball for ball in (LinfBall, L2Ball, L1Ball, L0Ball)})
"""Each norm's ball by the norm's name in a budget."""


def _round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values that are not negative, in another dtype, none of them larger than it was."""
    rounded = values.to(dtype)
    return torch.where(rounded.to(values.dtype) > values, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)


def _upper_edge(center: Tensor, reach: Tensor) -> Tensor:
    """The sum of both, `reach` not negative, rounded down where needed: in float64 no further from the center than it.

    Knuth's two-sum gives what rounding the sum has lost exactly, at a fraction of the cost of float64.
    """
    edge = center + reach
    shift = edge - center
    lost = (edge - shift).neg_().add_(center).add_(reach - shift)  # center + reach = edge + lost
    passed = lost.sign_().clamp_(max=0)  # -1 where rounding went up
    return torch.addcmul(edge, passed, edge.abs(), value=2 * FLOAT32_HALF_ULP).maximum(center)
