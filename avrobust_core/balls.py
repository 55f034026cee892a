"""Balls around clean clips, cut by the media's bounds: what one modality of a batch may become.

Everything an attack needs of a norm is here: nearest point, step of steepest ascent, a random start, and the measure
in float64 by which the core checks the result. A new norm is one subclass (those of avrobust are in `norms`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Bounds = tuple[float, float] | None

FLOAT32_HALF_ULP = 2.0**-24
"""Largest relative error of rounding to float32."""


@dataclass(frozen=True, slots=True)
class Freedom:
    """Which steps of time a perturbation may touch, and whether it must be the same at all of them.

    Attributes:
        axis: the time axis of a batch (B, ...); at least 1.
        steps: how many steps of time may change.
        frames: (T,) bool, the steps of time that may change; None for all.
        invariant: whether the perturbation is the same at every step that may change.
    """

    axis: int
    steps: int
    frames: Tensor | None = None
    invariant: bool = False

    def confine(self, delta: Tensor) -> Tensor:
        """The nearest allowed perturbation: zero outside `frames`, the mean over time if invariant; differentiable."""
        if self.frames is not None:
            delta = delta * self.shaped(delta)
        if self.invariant:
            delta = (delta.sum(dim=self.axis, keepdim=True) / self.steps).expand_as(delta)
            delta = delta if self.frames is None else delta * self.shaped(delta)
        return delta

    def shaped(self, like: Tensor) -> Tensor:
        """The free steps as 1 and the others as 0, shaped to broadcast."""
        assert self.frames is not None
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return self.frames.view(shape).to(like.dtype)


class Ball(ABC):
    """The points within `radius` of `center` in one norm, within `bounds`, and within the freedom of time given.

    Args:
        center: clean clips, (B, ...) float32, any rank.
        radius: (B,) float64, not negative; 0 leaves the clip as it is, bit for bit.
        bounds: lowest and highest value, or None.
        freedom: which steps of time may change; None for all, each by itself.
    """

    norm: ClassVar[str]

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, freedom: Freedom | None = None) -> None:
        self.center = center
        self.radius = radius
        self.bounds = bounds
        self.freedom = freedom
        self.step_radius = per_clip(radius.to(center.dtype), center)
        """The radius shaped to multiply a perturbation: (B, 1, ...), in the clips' dtype."""
        self._room: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball, bounds and freedom: stored in float32, it is inside when measured in float64.

        `x` is not changed.
        """

    @abstractmethod
    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        """As `project`, for other radii (B,) and without the care for the last bits: for use on the way."""

    @abstractmethod
    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """`x` moved by `length` times the radius in the direction of steepest ascent of the norm; not projected.

        Args:
            x: (B, ...).
            gradient: (B, ...); its size does not matter; a clip whose gradient is 0 does not move.
            length: share of the radius; a number, or (B, 1, ...).
        """

    @abstractmethod
    def gain(self, gradient: Tensor) -> Tensor:
        """By how much a linear function with this gradient rises over one radius of steepest ascent: (B,) float.

        That is the radius times the dual norm of the gradient, bounds left aside.
        """

    @abstractmethod
    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A point drawn uniformly from the ball (l0, l1: see there), then projected: one generator per clip."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """The norm of x - center: (B,) float64."""

    def strays(self, x: Tensor) -> Tensor:
        """Whether a clip was changed at a step of time that may not change, or not alike at all of them: (B,) bool."""
        if self.freedom is None:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        delta = x.double() - self.center.double()
        astray = (delta - self.freedom.confine(delta)).abs()
        # What is the same at all steps of time is still rounded to float32 at each of them.
        allowed = 4 * FLOAT32_HALF_ULP * largest(self.center).clamp(min=1) if self.freedom.invariant else 0.0
        if self.freedom.frames is not None:
            fixed = (delta * (1 - self.freedom.shaped(delta))).flatten(1).abs().amax(dim=1) > 0
            return (astray > allowed).flatten(1).any(dim=1) | fixed
        return (astray > allowed).flatten(1).any(dim=1)

    def confine(self, x: Tensor) -> Tensor:
        """`x` with its perturbation confined to the freedom of time; differentiable, `x` itself where all is free."""
        return x if self.freedom is None else self.center + self.freedom.confine(x - self.center)

    def select(self, index: Tensor) -> "Ball":
        """The balls of the clips at `index` (int64 positions).

        Every tensor of a ball has the clips as its first dimension, so nothing is worked out again: for video the
        float64 arithmetic of a new ball costs more than a hundred times the selection.
        """
        selected = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(selected, name, value.index_select(0, index))
        selected._room = None
        return selected

    @property
    def room(self) -> tuple[Tensor, Tensor]:
        """How far each sample may move down (negative or 0) and up by the bounds alone: (B, ...), infinite if none.

        Where the perturbation is the same at all steps of time, as far as all of them can: 1 along the time axis.
        """
        if self._room is None:
            low, high = self.bounds or (-torch.inf, torch.inf)
            down, up = low - self.center, high - self.center
            if self.freedom is not None and self.freedom.invariant:
                if self.freedom.frames is not None:
                    chosen = self.freedom.frames.nonzero().squeeze(1).to(down.device)
                    down, up = down.index_select(self.freedom.axis, chosen), up.index_select(self.freedom.axis, chosen)
                down = down.amax(dim=self.freedom.axis, keepdim=True)
                up = up.amin(dim=self.freedom.axis, keepdim=True)
            self._room = down, up
        return self._room

    def _delta(self, x: Tensor) -> Tensor:
        """The perturbation, confined to the freedom of time; always a new tensor."""
        delta = x - self.center
        return delta if self.freedom is None else self.freedom.confine(delta)

    def _place(self, delta: Tensor) -> Tensor:
        """The center plus a confined perturbation, within the bounds; may change `delta` in place."""
        if self.bounds is None:
            return delta.add_(self.center) if delta.is_contiguous() else delta + self.center
        if self.freedom is not None and self.freedom.invariant:
            delta = torch.clamp(delta, *self.room)
            delta = delta if self.freedom.frames is None else delta * self.freedom.shaped(delta)
            return torch.add(self.center, delta).clamp_(*self.bounds)
        return torch.add(self.center, delta).clamp_(*self.bounds)

    def _difference(self, x: Tensor) -> Tensor:
        return (x.double() - self.center.double()).flatten(1)


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (like.dim() - 1))


def length(x: Tensor) -> Tensor:
    """The Euclidean length of each clip, shaped to broadcast."""
    return per_clip(torch.linalg.vector_norm(x.flatten(1), dim=1), x)


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each clip, shaped to broadcast; twice as fast as a norm, and without a copy."""
    flat = x.flatten(1)
    return per_clip(torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)), x)
