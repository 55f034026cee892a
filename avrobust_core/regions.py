"""Regions: what all attacked modalities of a batch together may become, under each kind of threat.

Attacks work on regions, so that one attack serves every threat: balls side by side, or one ball shared by all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_core.balls import Ball, Bounds, Freedom, per_clip
from avrobust_core.budgets import Budget, Snr, ThreatKind
from avrobust_core.errors import DataError
from avrobust_core.norms import BALLS, L0Ball, L2Ball

Inputs = Mapping[str, Tensor]
"""The attacked modalities by name, each (B, ...)."""

Generators = Callable[[str], Sequence[torch.Generator]]
"""From a modality's name to one generator per clip."""


class Region(ABC):
    """The points that an attack may return; `size` 1 is its edge.

    Args:
        balls: by attacked modality. In a shared region, the ball that each could fill if it were attacked alone.
    """

    kind: ClassVar[ThreatKind]

    def __init__(self, balls: Mapping[str, Ball]) -> None:
        self.balls = dict(balls)

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean clips: not to be changed in place."""
        return {name: ball.center for name, ball in self.balls.items()}

    @abstractmethod
    def project(self, x: Inputs) -> dict[str, Tensor]:
        """The nearest point of the region; inside when measured again in float64. `x` is not changed."""

    @abstractmethod
    def within(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        """The nearest point of the region scaled by `size` (B,), without the care for the last bits."""

    @abstractmethod
    def step(self, x: Inputs, gradients: Inputs, length: float | Tensor) -> dict[str, Tensor]:
        """`x` moved by the step of steepest ascent of size `length` (a number, or (B,)); not projected."""

    @abstractmethod
    def gain(self, gradients: Inputs) -> Tensor:
        """By how much a linear function with these gradients rises over a step of size 1: (B,) float."""

    @abstractmethod
    def sample(self, generators: Generators) -> dict[str, Tensor]:
        """A random point of the region, each clip's from its own generators."""

    @abstractmethod
    def size(self, x: Inputs) -> Tensor:
        """The smallest factor by which the region must be scaled to hold `x`: (B,) float64; 0 for the clean clip.

        Infinite where a modality was changed that has a radius of 0.
        """

    def confine(self, x: Inputs) -> dict[str, Tensor]:
        """`x` confined to the steps of time that may change; differentiable."""
        return {name: ball.confine(x[name]) for name, ball in self.balls.items()}

    def select(self, index: Tensor) -> "Region":
        """The region of the clips at `index` (int64 positions)."""
        return type(self)({name: ball.select(index) for name, ball in self.balls.items()})

    def _shares(self, x: Inputs) -> Tensor:
        """Each modality's norm over its radius: (M, B) float64."""
        return torch.stack([_share(ball.measure(x[name]), ball.radius) for name, ball in self.balls.items()])


class SeparateRegion(Region):
    """A ball for each modality: all of them may be filled at the same time."""

    kind = "separate"

    def project(self, x: Inputs) -> dict[str, Tensor]:
        return {name: ball.project(x[name]) for name, ball in self.balls.items()}

    def within(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        return {name: ball.within(x[name], ball.radius * size) for name, ball in self.balls.items()}

    def step(self, x: Inputs, gradients: Inputs, length: float | Tensor) -> dict[str, Tensor]:
        return {
            name: ball.step(x[name], gradients[name], _shaped(length, x[name])) for name, ball in self.balls.items()
        }

    def gain(self, gradients: Inputs) -> Tensor:
        return torch.stack([ball.gain(gradients[name]) for name, ball in self.balls.items()]).sum(dim=0)

    def sample(self, generators: Generators) -> dict[str, Tensor]:
        return {name: ball.sample(generators(name)) for name, ball in self.balls.items()}

    def size(self, x: Inputs) -> Tensor:
        return self._shares(x).amax(dim=0)


class SharedRegion(Region):
    """One l2 ball for all modalities: the squares of their norms, each over its radius, sum to 1 at most."""

    kind = "shared"

    def project(self, x: Inputs) -> dict[str, Tensor]:
        # Each modality's own projection keeps clear of float32's rounding; a hair off the sum covers the squares'.
        inside = self.within(x, torch.full_like(next(iter(self.balls.values())).radius, 1 - 1e-6))
        inside = {name: ball.project(inside[name]) for name, ball in self.balls.items()}
        over = self.size(inside)
        # Rounding to float32 adds to every modality: what it added is taken off once more.
        tight = self.within(inside, (1 - 2 * (over - 1).clamp(min=0) - 1e-6).clamp(min=0))
        size = self.size(tight)
        return {
            name: torch.where(
                per_clip(over <= 1, x[name]),
                inside[name],
                torch.where(per_clip(size <= 1, x[name]), tight[name], ball.center),
            )
            for name, ball in self.balls.items()
        }

    def within(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        """Radially, towards the clean clip, then within the bounds: the nearest point where all radii are equal."""
        bounded = {name: ball.within(x[name], torch.full_like(size, torch.inf)) for name, ball in self.balls.items()}
        share = (size / self.size(bounded).clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
        return {
            name: ball.center + (bounded[name] - ball.center) * per_clip(share.to(ball.center.dtype), ball.center)
            for name, ball in self.balls.items()
        }

    def step(self, x: Inputs, gradients: Inputs, length: float | Tensor) -> dict[str, Tensor]:
        gains = torch.stack([ball.gain(gradients[name]) for name, ball in self.balls.items()])
        shares = gains / gains.amax(dim=0).clamp(min=torch.finfo(gains.dtype).tiny)
        shares = shares / torch.linalg.vector_norm(shares, dim=0).clamp(min=1)
        return {
            name: ball.step(x[name], gradients[name], per_clip(share, x[name]) * _shaped(length, x[name]))
            for share, (name, ball) in zip(shares, self.balls.items(), strict=True)
        }

    def gain(self, gradients: Inputs) -> Tensor:
        gains = torch.stack([ball.gain(gradients[name]) for name, ball in self.balls.items()])
        found: Tensor = torch.linalg.vector_norm(gains, dim=0)
        return found

    def sample(self, generators: Generators) -> dict[str, Tensor]:
        """Uniform in the shared ball: a normal direction over all modalities, at the share of a ball of their sum."""
        noise: dict[str, Tensor] = {}
        shares: list[Tensor] = []
        samples = 0
        for name, ball in self.balls.items():
            assert isinstance(ball, L2Ball)
            drawn = generators(name)
            raw = torch.stack([torch.randn(ball.center.shape[1:], generator=g) for g in drawn]).to(ball.center.device)
            noise[name] = raw if ball.freedom is None else ball.freedom.confine(raw)
            if not shares:
                shares = [torch.rand((), generator=g) for g in drawn]
            samples += ball.center[0].numel()
        size = torch.stack([x.flatten(1).square().sum(dim=1) for x in noise.values()]).sum(dim=0).sqrt()
        share = (torch.stack(shares) ** (1 / samples)).to(size.device) / size.clamp(min=torch.finfo(size.dtype).tiny)
        return self.project(
            {
                name: ball.center + noise[name] * per_clip(share, noise[name]) * ball.step_radius
                for name, ball in self.balls.items()
            }
        )

    def size(self, x: Inputs) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self._shares(x), dim=0)
        return found


REGIONS: Mapping[ThreatKind, type[Region]] = {region.kind: region for region in (SeparateRegion, SharedRegion)}
"""Each kind of threat's region."""


def make_ball(clean: Tensor, budget: Budget, bounds: Bounds, time_axis: int | None = None) -> Ball:
    """The ball of one modality of a batch.

    Args:
        clean: (B, ...) float32.
        budget: norm, radius and, where given, bounds of its own.
        bounds: the media's bounds, used where the budget has none.
        time_axis: of one clip, without the batch; None if it has none.

    Raises:
        DataError: if the budget needs a time axis that is not known, or frames that the clips do not have; or if
            nothing limits how far an l0 perturbation may move a sample.
    """
    limits = budget.bounds or bounds
    freedom = _freedom(clean, budget, time_axis)
    radius = radii(clean, budget)
    if budget.norm == "l0":
        if limits is None and budget.cap is None:
            raise DataError("an l0 budget needs `cap` where neither it nor the data set states bounds")
        axis = time_axis + 1 if budget.per == "frame" and time_axis is not None else None
        return L0Ball(clean, radius, limits, freedom, cap=budget.cap, frame=(axis, budget.frame_steps))
    return BALLS[budget.norm](clean, radius, limits, freedom)


def _freedom(clean: Tensor, budget: Budget, time_axis: int | None) -> Freedom | None:
    if not budget.needs_time:
        return None
    if time_axis is None:
        raise DataError(
            "the budget speaks of time (frames, time_invariant or per: frame), but the time axis is not known: "
            "the data set's MediaSpec, or for space: features the encoder, must state `time_axis`"
        )
    if budget.frames is None and not budget.time_invariant:
        return None
    axis = time_axis + 1
    length = clean.shape[axis]
    frames = None
    if budget.frames is not None:
        beyond = [f"[{first}, {end}]" for first, end in budget.frames if end > length]
        if beyond:
            raise DataError(f"frames {', '.join(beyond)} lie beyond the {length} steps of time that the clips have")
        frames = torch.zeros(length, dtype=torch.bool, device=clean.device)
        for first, end in budget.frames:
            frames[first:end] = True
    return Freedom(axis, length if frames is None else int(frames.sum()), frames, budget.time_invariant)


def radii(clean: Tensor, budget: Budget) -> Tensor:
    """The radius of each clip's ball: (B,) float64.

    For a signal-to-noise ratio it is the radius at which a perturbation that fills the ball has that ratio, so that
    its power is 10^(-snr/10) of the clip's: l2: ||x||_2 10^(-snr/20); linf: rms(x) 10^(-snr/20), every sample moved
    by the full radius; l1: n rms(x) 10^(-snr/20), spread evenly over all n samples.
    """
    if not isinstance(budget.eps, Snr):
        return torch.full((len(clean),), budget.eps, dtype=torch.float64, device=clean.device)
    length: Tensor = torch.linalg.vector_norm(clean.double().flatten(1), dim=1)
    if budget.norm == "linf":
        length = length / clean[0].numel() ** 0.5
    if budget.norm == "l1":
        length = length * clean[0].numel() ** 0.5
    return length * 10 ** (-budget.eps.snr_db / 20)


def _share(norm: Tensor, radius: Tensor) -> Tensor:
    return torch.where(norm > 0, norm / radius, 0)


def _shaped(length: float | Tensor, like: Tensor) -> float | Tensor:
    return per_clip(length.to(like.dtype), like) if isinstance(length, Tensor) else length
