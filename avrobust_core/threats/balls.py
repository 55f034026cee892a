"""Balls around clean clips, cut by the media's bounds: what one modality of a batch may become.

Everything an attack needs of a norm is here: nearest point, step of steepest ascent, a random start, and the measure
in float64 by which the core checks the result. A new norm is one subclass; avrobust's own are in `dense_norms` and
`sparse_norms`.
"""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.threats.budgets import NormName
from avrobust_core.threats.clips import checksum, largest, per_clip

Bounds = tuple[float, float] | None

FLOAT32_HALF_ULP = 2.0**-24
"""Largest relative error of rounding to float32."""

SAFETY = 1e-6
"""The share of a radius that is kept clear for what float32 sums are wrong by."""

TINY = 1e-30
"""Below this a norm is taken to be 0."""


@dataclass(frozen=True, slots=True)
class TimeConstraint:
    """The steps of time that a perturbation may touch, and whether it must be the same at all of them.

    Attributes:
        axis: the time axis of a batch (B, ...); at least 1.
        steps: how many steps of time may change in a clip without padding.
        frames: (T,) bool, the steps of time that may change; None for all.
        invariant: whether the perturbation is the same at every step that may change.
        own: (B,) int64, how many steps at its beginning are each clip's own; the rest is padding, and may not change.
            None where no clip is padded.
    """

    axis: int
    steps: int
    frames: Tensor | None = None
    invariant: bool = False
    own: Tensor | None = None

    @property
    def partial(self) -> bool:
        """True if there are steps of time that may not change."""
        return self.frames is not None or self.own is not None

    @property
    def counts(self) -> int | Tensor:
        """How many steps of time may change: of every clip, or (B,) int64 where some are padded."""
        if self.own is None:
            return self.steps
        return self.own if self.frames is None else functional.pad(self.frames.cumsum(0), (1, 0))[self.own]

    def confine(self, delta: Tensor) -> Tensor:
        """The nearest allowed perturbation: zero where not `free`, the mean over time if invariant; differentiable."""
        whole = delta
        if self.partial:
            delta = torch.where(self.free(whole), delta, 0)  # not a product: 0 times infinity is NaN
        if self.invariant:
            counts = self.counts
            if isinstance(counts, Tensor):
                counts = per_clip(counts.clamp(min=1).to(delta.dtype), delta)
            delta = (delta.sum(dim=self.axis, keepdim=True) / counts).expand_as(whole)
            delta = torch.where(self.free(whole), delta, 0) if self.partial else delta
        return delta

    def free(self, like: Tensor) -> Tensor:
        """Flag the steps of time that may change: bool, shaped to broadcast over clips `like` (B, ...)."""
        number = self._number(like)
        free = number >= 0 if self.own is None else number < per_clip(self.own, like)
        return free if self.frames is None else free & self.frames.view(number.shape)

    def padding(self, like: Tensor) -> Tensor | None:
        """Flag the steps of time that are padding: bool, shaped to broadcast over clips `like`; None where none are."""
        return None if self.own is None else self._number(like) >= per_clip(self.own, like)

    def of(self, clips: slice | Tensor) -> "TimeConstraint":
        """The constraint on some of the clips: a slice, or int64 positions."""
        return self if self.own is None else replace(self, own=self.own[clips])

    def samples(self, shape: torch.Size) -> int | Tensor:
        """The number of samples of a clip of this shape that may change, each by itself; as `counts`."""
        steps = self.counts
        if self.invariant:
            steps = steps.clamp(max=1) if isinstance(steps, Tensor) else 1
        return shape.numel() // shape[self.axis - 1] * steps

    def _number(self, like: Tensor) -> Tensor:
        """The number of each step of time, from 0: int64, shaped to broadcast."""
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return torch.arange(like.shape[self.axis], device=like.device).view(shape)


class Ball(ABC):
    """The points within `radius` of `center` in one norm, within `bounds`, and within the constraint on time.

    Attributes:
        norm: its name in a budget; for the core, and for errors. An attack need not ask for it.
        smooth: whether the norm has a derivative everywhere but at the center.

    Args:
        center: clean clips, (B, ...) float32, any rank.
        radius: (B,) float64, not negative; 0 leaves the clip as it is, bit for bit.
        bounds: lowest and highest value, or None.
        time: which steps of time may change; None for all, each by itself.
    """

    norm: ClassVar[NormName]
    smooth: ClassVar[bool] = False

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None = None) -> None:
        self.center = center
        self.radius = radius
        self.bounds = bounds
        self.limits = bounds or (-torch.inf, torch.inf)
        """The bounds, infinite where there are none."""
        self.time = time
        self.step_radius = per_clip(radius.to(center.dtype), center)
        """The radius shaped to multiply a perturbation: (B, 1, ...), in the clips' dtype."""
        self._checksum = checksum(center)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball within bounds and constraint on time.

        Stored in float32, it is inside when measured in float64. `x` is not changed, and no gradient flows through it:
        what is differentiable is `confine`.
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
        """The rise of a linear function with this gradient over one radius of steepest ascent: (B,) float.

        That is the radius times the dual norm of the gradient, bounds left aside.
        """

    @abstractmethod
    def sample(self, draws: ClipDraws) -> Tensor:
        """A point drawn uniformly from the ball (l0: see there), then projected: (B, ...), by draws of its clips."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """The norm of x - center: (B,) float64."""

    def approach(self, x: Tensor, gradient: Tensor, size: Tensor, length: float) -> Tensor:
        """`x` after a step towards the best point of the ball scaled by `size`, and back inside that ball.

        The best point is that of a linear function with this gradient. A step of steepest ascent leads there, but where
        the ball has vertices (l1, l0): of a point between them the projection keeps what has the longest way to go,
        whatever it gains, and so a vertex is approached in a straight line.

        Args:
            x: (B, ...).
            gradient: (B, ...), as of `step`.
            size: (B,) float64, in radii.
            length: of the step over `size`, or, towards a vertex, the share of the way: 1 at most, and all of it in l0.
        """
        moved = self.step(x, gradient, per_clip((size * length).to(x.dtype), x))
        return self.within(moved, self.radius * size)

    def stretched(self, x: Tensor, size: Tensor) -> Tensor:
        """`x` (B, ...) with each clip's perturbation made longer, up to `size` (B,) radii; in l0 `x` itself."""
        norm = self.measure(x)
        factor = torch.where(norm > 0, self.radius * size / norm.clamp(min=TINY), 1).clamp(min=1)
        longer = self.center + (x - self.center) * per_clip(factor.to(x.dtype), x)
        return self.within(longer, self.radius * size)

    def filled(self, noise: Tensor) -> Tensor:
        """The center plus noise (B, ...), confined to what time allows, and of the size that fills the ball.

        l2, l1: its norm is the radius. linf: its root mean square over the samples that may change is. Not projected.

        Raises:
            TypeError: in l0, whose perturbations have no size.
        """
        noise = self.confined(noise)
        size = self._noise_size(noise.flatten(1)).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.center + noise / per_clip(size, noise) * self.step_radius

    def _noise_size(self, noise: Tensor) -> Tensor:
        raise TypeError(f"noise cannot fill a ball in {self.norm}")

    def pooled(self, values: Tensor) -> Tensor:
        """(B, ...) values summed over the samples that share one limit: (B, 1, ...), or in linf (B, ...) unchanged."""
        return per_clip(values.flatten(1).sum(dim=1), values)

    @property
    def quantum(self) -> Tensor:
        """The smallest change of the size, in radii, that means anything, (B,) float64: of one count in l0, else 0."""
        return torch.zeros_like(self.radius)

    def around(self, center: Tensor, radius: Tensor, bounds: Bounds) -> Self:
        """A ball of the same norm and budget around other clips, which are not padded.

        Args:
            center: (b, ...).
            radius: (b,).
            bounds: as of the class.
        """
        time = self.time
        if time is not None and time.own is not None:
            time = replace(time, own=None) if time.frames is not None or time.invariant else None
        return self._made(center, radius, bounds, time)

    def scaled(self, factor: float) -> Self:
        """The same ball with its radius multiplied by `factor`; a count (l0) is rounded down."""
        return self._made(self.center, self.radius * factor, self.bounds, self.time)

    def _made(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None) -> Self:
        return type(self)(center, radius, bounds, time)

    def strays(self, x: Tensor) -> Tensor:
        """Flag clips changed at a step of time that may not change, or not alike at all of them: (B,) bool."""
        if self.time is None:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        delta = x.double() - self.center.double()
        astray = (delta - self.time.confine(delta)).abs()
        # What is the same at all steps of time is still rounded to float32 at each of them.
        allowed = self._grain(x) if self.time.invariant else torch.zeros_like(delta)
        if self.time.partial:
            allowed = torch.where(self.time.free(delta), allowed, 0)
        return (astray > allowed).flatten(1).any(dim=1)

    def overruns(self, x: Tensor) -> Tensor:
        """Flag clips changed in their padding: (B,) bool."""
        padding = None if self.time is None else self.time.padding(x)
        if padding is None:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return ((x != self.center) & padding).flatten(1).any(dim=1)

    def altered(self) -> Tensor:
        """Flag the clean clips that were changed in place since the ball was made: (B,) bool."""
        return checksum(self.center) != self._checksum

    def confine(self, x: Tensor) -> Tensor:
        """`x` with its perturbation `confined`; differentiable, `x` itself where all of time is free."""
        return x if self.time is None else self.center + self.time.confine(x - self.center)

    def confined(self, delta: Tensor) -> Tensor:
        """A perturbation or gradient (B, ...) confined to what the constraint on time allows; itself without one."""
        return delta if self.time is None else self.time.confine(delta)

    def unpadded(self, delta: Tensor) -> Tensor:
        """A perturbation or gradient (B, ...) that is 0 in the clips' padding; itself where there is none."""
        padding = None if self.time is None else self.time.padding(delta)
        return delta if padding is None else delta.masked_fill(padding, 0)

    def select(self, index: Tensor) -> Self:
        """The balls of the clips at `index` (int64 positions).

        Every tensor of a ball has the clips as its first dimension, so nothing is worked out again: for video the
        float64 arithmetic of a new ball costs more than a hundred times the selection.
        """
        selected = copy(self)
        selected.time = None if self.time is None else self.time.of(index)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(selected, name, value.index_select(0, index))
        vars(selected).pop("room", None)
        return selected

    @cached_property
    def room(self) -> tuple[Tensor, Tensor]:
        """The room of each sample, down (negative or 0) and up, by the bounds alone: (B, ...), infinite without bounds.

        Where the perturbation is the same at all steps of time, as far as all of them can: 1 along the time axis.
        """
        low, high = self.limits
        down, up = low - self.center, high - self.center
        if self.time is not None and self.time.invariant:
            if self.time.partial:
                free = self.time.free(self.center)
                down, up = torch.where(free, down, -torch.inf), torch.where(free, up, torch.inf)
            down = down.amax(dim=self.time.axis, keepdim=True)
            up = up.amin(dim=self.time.axis, keepdim=True)
        return down, up

    def _delta(self, x: Tensor) -> Tensor:
        """The perturbation, confined; always a new tensor, laid out in full."""
        return self.confined(x - self.center).contiguous()

    def _grain(self, x: Tensor) -> Tensor:
        """The most that rounding to float32, several times over, adds to one sample: shaped to broadcast, float64."""
        return 4 * FLOAT32_HALF_ULP * torch.maximum(largest(self.center), largest(x)).double()

    def _difference(self, x: Tensor) -> Tensor:
        return (x.double() - self.center.double()).flatten(1)
