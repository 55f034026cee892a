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

SAFETY = 1e-6
"""The share of a radius that is kept clear for what float32 sums are wrong by."""

NORM_BLOCK = 512
"""Samples whose squares are summed in float32."""

PIECE = 2**18
"""Samples worked on at a time on CPU: a few tensors of this size fit into a core's cache."""


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
        whole = delta
        if self.frames is not None:
            delta = torch.where(self._free(whole), delta, 0)  # not a product: 0 times infinity is no number
        if self.invariant:
            delta = (delta.sum(dim=self.axis, keepdim=True) / self.steps).expand_as(whole)
            delta = delta if self.frames is None else torch.where(self._free(whole), delta, 0)
        return delta

    def shaped(self, like: Tensor) -> Tensor:
        """The free steps as 1 and the others as 0, shaped to broadcast."""
        return self._free(like).to(like.dtype)

    def samples(self, shape: torch.Size) -> int:
        """How many samples of a clip of this shape may change, each by itself."""
        steps = 1 if self.invariant else self.steps
        return shape.numel() // shape[self.axis - 1] * steps

    def _free(self, like: Tensor) -> Tensor:
        assert self.frames is not None
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return self.frames.view(shape)


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
        self._checksum = _checksum(center)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball, bounds and freedom: stored in float32, it is inside when measured in float64.

        `x` is not changed. No gradient flows through it: what is differentiable is `confine`.
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
        allowed = self._grain(x) if self.freedom.invariant else torch.zeros_like(delta)
        if self.freedom.frames is not None:
            allowed = allowed * self.freedom.shaped(delta)
        return (astray > allowed).flatten(1).any(dim=1)

    def altered(self) -> Tensor:
        """Whether a clean clip was changed in place since the ball was made: (B,) bool."""
        return _checksum(self.center) != self._checksum

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
        """The perturbation, confined to the freedom of time; always a new tensor, laid out in full."""
        delta = x - self.center
        return delta if self.freedom is None else self.freedom.confine(delta).contiguous()

    def _grain(self, x: Tensor) -> Tensor:
        """What rounding to float32 may add up to in one sample, several times over: shaped to broadcast, float64."""
        return 4 * FLOAT32_HALF_ULP * torch.maximum(largest(self.center), largest(x)).double()

    def _difference(self, x: Tensor) -> Tensor:
        return (x.double() - self.center.double()).flatten(1)


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (like.dim() - 1))


def clip_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each clip, (B,) float64, right to about 3e-7 of itself without a copy in float64.

    One float32 sum over a whole video is wrong by up to several thousandths, which would pass for, or hide, a violation
    of the budget: so the squares are summed in short blocks, and the blocks in float64.
    """
    flat = x.flatten(1)
    whole = flat.shape[1] // NORM_BLOCK * NORM_BLOCK
    blocks = flat[:, :whole].reshape(len(flat), whole // NORM_BLOCK, NORM_BLOCK)
    sums: Tensor = torch.linalg.vector_norm(blocks, dim=2).double().square().sum(dim=1)
    if whole < flat.shape[1]:
        sums = sums + torch.linalg.vector_norm(flat[:, whole:], dim=1).double().square()
    return sums.sqrt()


def pieces(clips: int, samples: int, device: torch.device) -> list[slice]:
    """Slices of a batch of so many clips of so many samples each, to be worked through one by one.

    On CPU each piece stays in the cache through all passes over it; elsewhere the whole batch is one piece.
    """
    step = max(1, PIECE // max(1, samples)) if device.type == "cpu" else max(1, clips)
    return [slice(first, first + step) for first in range(0, clips, step)]


def settled(flags: Tensor) -> bool:
    """Whether all flags are true, where to ask costs nothing: elsewhere than on CPU it would wait for the device."""
    return flags.device.type == "cpu" and bool(flags.all())


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each clip, shaped to broadcast; twice as fast as a norm, and without a copy."""
    flat = x.flatten(1)
    return per_clip(torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)), x)


def _checksum(x: Tensor) -> Tensor:
    """The sum of each clip's bit patterns, (B,) int64: exact, whatever the order of the sum."""
    flat = x.detach().flatten(1).contiguous()
    if flat.shape[1] * flat.element_size() % 8 == 0:
        return flat.view(torch.int64).sum(dim=1)
    return flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()]).sum(dim=1, dtype=torch.int64)
