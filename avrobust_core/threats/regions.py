"""Regions: what all attacked modalities of a batch together may become, under each kind of threat.

Attacks work on regions, so that one attack serves every threat: balls side by side, or one ball shared by all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.errors import DataError
from avrobust_core.threats.balls import SAFETY, TINY, Ball, Bounds, TimeConstraint
from avrobust_core.threats.budgets import Budget, NormName, Snr, ThreatKind
from avrobust_core.threats.clips import Inputs, clip_norm, per_clip
from avrobust_core.threats.dense_norms import BALLS, L2Ball
from avrobust_core.threats.l2_projection import nearest
from avrobust_core.threats.sparse_norms import L0Ball

SMOOTHING = 8
"""Exponent of the norm over the modalities' shares that stands for the largest of them where a derivative is asked."""

DrawsOf = Callable[[str], ClipDraws]
"""From a modality's name to draws of its clips."""


class Region:
    """The points that an attack may return; `size` 1 is its edge. Here a ball for each modality, all filled at once.

    Args:
        balls: by attacked modality. In a shared region, the ball that each could fill if it were attacked alone.
    """

    kind: ClassVar[ThreatKind] = "separate"

    def __init__(self, balls: Mapping[str, Ball]) -> None:
        self.balls = dict(balls)

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean clips: not to be changed in place."""
        return {name: ball.center for name, ball in self.balls.items()}

    @property
    def norms(self) -> frozenset[NormName]:
        """The norms of its balls, as a budget names them: what an attack must support."""
        return frozenset(ball.norm for ball in self.balls.values())

    @property
    def smooth(self) -> bool:
        """True if all its balls are: see `Ball.smooth`."""
        return all(ball.smooth for ball in self.balls.values())

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The modalities that share one ball, group by group."""
        return tuple((name,) for name in self.balls)

    def project(self, x: Inputs) -> dict[str, Tensor]:
        """The nearest point of the region; inside when measured again in float64. `x` is not changed."""
        return {name: ball.project(x[name]) for name, ball in self.balls.items()}

    def within(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        """The nearest point of the region scaled by `size` (B,), without the care for the last bits."""
        return {name: ball.within(x[name], ball.radius * size) for name, ball in self.balls.items()}

    def step(self, x: Inputs, gradients: Inputs, length: float | Tensor) -> dict[str, Tensor]:
        """`x` moved by the step of steepest ascent of size `length` (a number, or (B,)); not projected."""
        return {
            name: ball.step(x[name], gradients[name], _shaped(length, x[name])) for name, ball in self.balls.items()
        }

    def gain(self, gradients: Inputs) -> Tensor:
        """The rise of a linear function with these gradients over a step of size 1: (B,) float."""
        return torch.stack([ball.gain(gradients[name]) for name, ball in self.balls.items()]).sum(dim=0)

    def sample(self, draws: DrawsOf) -> dict[str, Tensor]:
        """A random point of the region, each clip's from its own draws."""
        return {name: ball.sample(draws(name)) for name, ball in self.balls.items()}

    def size(self, x: Inputs) -> Tensor:
        """The smallest factor by which the region must be scaled to hold `x`: (B,) float64; 0 for the clean clip.

        Infinite where a modality was changed that has a radius of 0.
        """
        return self._shares(x).amax(dim=0)

    def size_slopes(self, x: Inputs) -> Tensor:
        """The derivative of the squared size by each modality's squared share of its radius: (M, B) float64.

        Where the size is the largest share, a step on it would move one modality at a time: there the norm of the
        shares with the exponent `SMOOTHING` stands for it.
        """
        shares = self._shares(x)
        if len(shares) == 1:
            return torch.ones_like(shares)
        shares = shares.nan_to_num(posinf=0).clamp(min=TINY)
        relative = shares / shares.amax(dim=0)
        whole = (relative**SMOOTHING).sum(dim=0)
        return relative ** (SMOOTHING - 2) * whole ** (2 / SMOOTHING - 1)

    def replaced(self, x: Inputs, name: str, new: Tensor) -> dict[str, Tensor]:
        """`x`, a point of the region, with one modality replaced, and projected as far as that one's ball reaches."""
        return {**x, name: self.balls[name].project(new)}

    def approach(self, x: Inputs, gradients: Inputs, size: Tensor, length: float) -> dict[str, Tensor]:
        """`x` after a step towards the best point of the region scaled by `size` (B,): see `Ball.approach`."""
        return {name: ball.approach(x[name], gradients[name], size, length) for name, ball in self.balls.items()}

    def levelled(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        """`x` of size `size` (B,), with each modality's perturbation made as long as costs no size."""
        if len(self.balls) == 1:
            return dict(x)
        return {name: ball.stretched(x[name], size) for name, ball in self.balls.items()}

    def stretched(self, x: Inputs, size: Tensor, where: Tensor | None = None) -> dict[str, Tensor]:
        """`x` scaled about the clean clip to `size` (B,) where it is smaller; not projected.

        Args:
            x: by modality, (B, ...).
            size: (B,) float64.
            where: (B,) bool, which clips; all by default.
        """
        found = self.size(x)
        longer = found > 0 if where is None else where & (found > 0)
        factor = torch.where(longer, size / found.clamp(min=TINY), 1).clamp(min=1)
        return {
            name: ball.center + (x[name] - ball.center) * per_clip(factor.to(x[name].dtype), x[name])
            for name, ball in self.balls.items()
        }

    @property
    def quantum(self) -> Tensor:
        """The smallest change of the size that means anything, (B,) float64: one count if all balls count, else 0."""
        return torch.stack([ball.quantum for ball in self.balls.values()]).amin(dim=0)

    def confine(self, x: Inputs) -> dict[str, Tensor]:
        """`x` confined to what each ball's constraint on time allows; differentiable."""
        return {name: ball.confine(x[name]) for name, ball in self.balls.items()}

    def select(self, index: Tensor) -> Self:
        """The region of the clips at `index` (int64 positions)."""
        return type(self)({name: ball.select(index) for name, ball in self.balls.items()})

    def scaled(self, factor: float) -> Self:
        """The region of the same clips with every radius multiplied by `factor`; see `Ball.scaled`."""
        return type(self)({name: ball.scaled(factor) for name, ball in self.balls.items()})

    def _shares(self, x: Inputs) -> Tensor:
        """Each modality's norm over its radius: (M, B) float64."""
        norms = torch.stack([ball.measure(x[name]) for name, ball in self.balls.items()])
        return torch.where(norms > 0, norms / torch.stack([ball.radius for ball in self.balls.values()]), 0)


class SharedRegion(Region):
    """One l2 ball for all modalities: the squares of their norms, each over its radius, sum to 1 at most.

    Points are nearest in that metric, each modality measured in its radius: with equal radii the plain Euclidean one.

    Raises:
        TypeError: if a ball is not l2.
    """

    kind = "shared"

    def __init__(self, balls: Mapping[str, Ball]) -> None:
        super().__init__(balls)
        self._l2 = {name: ball for name, ball in self.balls.items() if isinstance(ball, L2Ball)}
        if len(self._l2) < len(self.balls):
            raise TypeError("a shared region is made of l2 balls only")
        self._radius = radius = torch.stack([ball.radius for ball in self._l2.values()])  # (M, B) float64
        rounding = torch.stack([ball.rounding for ball in self._l2.values()])
        self._weights = torch.where(radius > 0, 1 / radius, 0)
        # Rounding to float32 must not use up what belongs to the others: a modality whose radius it fills stays clean.
        self._firm_weights = torch.where(rounding > radius / 2, 0, self._weights)
        self._reach = 1 - SAFETY - torch.linalg.vector_norm(rounding * self._firm_weights, dim=0)

    def project(self, x: Inputs) -> dict[str, Tensor]:
        return self._nearest(x, self._firm_weights, self._reach)

    def within(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        return self._nearest(x, self._weights, size.double())

    @torch.no_grad()
    def _nearest(self, x: Inputs, weights: Tensor, reach: Tensor) -> dict[str, Tensor]:
        found = nearest(list(self.balls.values()), [x[name] for name in self.balls], weights, reach.clamp(min=0))
        return dict(zip(self.balls, found, strict=True))

    def step(self, x: Inputs, gradients: Inputs, length: float | Tensor) -> dict[str, Tensor]:
        polar = [ball.polar(gradients[name]) for name, ball in self._l2.items()]
        gains = torch.stack([norm * size for _, norm, size in polar]) * self._radius
        shares = gains / torch.linalg.vector_norm(gains, dim=0).clamp(min=torch.finfo(gains.dtype).tiny)
        moved = {}
        for name, (direction, norm, _), reach in zip(self.balls, polar, self._radius * shares, strict=True):
            scale = per_clip((reach / norm).to(direction.dtype), direction)
            moved[name] = torch.addcmul(x[name], direction, scale * _shaped(length, direction))
        return moved

    def gain(self, gradients: Inputs) -> Tensor:
        gains = torch.stack([ball.gain(gradients[name]) for name, ball in self.balls.items()])
        found: Tensor = torch.linalg.vector_norm(gains.double(), dim=0).to(gains.dtype)
        return found

    @torch.no_grad()
    def sample(self, draws: DrawsOf) -> dict[str, Tensor]:
        """Uniform in the shared ball: a normal direction over all modalities, at the share of a ball of their sum."""
        own = {name: draws(name) for name in self.balls}
        noise = {
            name: ball.confined(own[name].noise(ball.center.shape[1:], "gaussian")).contiguous()
            for name, ball in self.balls.items()
        }
        drawn = next(iter(own.values())).uniform().double()
        open_to = self._weights > 0  # a modality of radius 0 adds no dimension to the ball
        norms = torch.stack([clip_norm(each) for each in noise.values()]) * open_to
        dimensions = torch.stack(
            [torch.as_tensor(ball.samples, device=norms.device).expand(norms.shape[1]) for ball in self._l2.values()]
        )
        samples = (open_to * dimensions).sum(dim=0)
        share = drawn ** (1 / samples.clamp(min=1))
        share = share / torch.linalg.vector_norm(norms, dim=0).clamp(min=torch.finfo(norms.dtype).tiny)
        return self.project(
            {
                name: noise[name].mul_(per_clip((share * ball.radius).float(), noise[name])).add_(ball.center)
                for name, ball in self._l2.items()
            }
        )

    def size(self, x: Inputs) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self._shares(x), dim=0)
        return found

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (tuple(self.balls),)

    def size_slopes(self, x: Inputs) -> Tensor:
        return torch.ones_like(self._weights)

    def replaced(self, x: Inputs, name: str, new: Tensor) -> dict[str, Tensor]:
        return self.project({**x, name: new})

    def approach(self, x: Inputs, gradients: Inputs, size: Tensor, length: float) -> dict[str, Tensor]:
        return self.within(self.step(x, gradients, size * length), size)

    def levelled(self, x: Inputs, size: Tensor) -> dict[str, Tensor]:
        return dict(x)


REGIONS: Mapping[ThreatKind, type[Region]] = {region.kind: region for region in (Region, SharedRegion)}
"""Each kind of threat's region."""


PADDING_ROUNDING = 1e-7
"""The share of a clip's time that rounding a share of padding, to float32 in packed clips, may add to its own."""


def make_ball(
    clean: Tensor, budget: Budget, bounds: Bounds, time_axis: int | None = None, padded: Sequence[float] = ()
) -> Ball:
    """The ball of one modality of a batch.

    Args:
        clean: (B, ...) float32.
        budget: norm, radius and, where given, bounds of its own.
        bounds: the media's bounds, used where the budget has none.
        time_axis: of one clip, without the batch; None if it has none.
        padded: of each clip, the share of its time, at the end, that is padding and may not change; empty for none.

    Raises:
        DataError: if the budget, or padding, needs a time axis that is not known; if the budget names frames that the
            clips do not have; or if nothing limits how far an l0 perturbation may move a sample.
    """
    limits = budget.bounds or bounds
    axis = batch_axis(clean, time_axis) if budget.needs_time or any(padded) else None
    time = None
    if axis is not None:
        time = time_constraint(clean, axis, padded, budget.frames, invariant=budget.time_invariant)
    radius = radii(clean, budget, time)
    if budget.norm == "l0":
        if limits is None and budget.cap is None:
            raise DataError("an l0 budget needs `cap` where neither it nor the data set states bounds")
        frame = (axis if budget.per == "frame" else None, budget.frame_steps)
        return L0Ball(clean, radius, limits, time, cap=budget.cap, frame=frame)
    return BALLS[budget.norm](clean, radius, limits, time)


def batch_axis(clean: Tensor, time_axis: int | None) -> int:
    """The axis of a batch that is time, from that of one clip, which may count from the end.

    Raises:
        DataError: if it is not known, or the clips do not have it.
    """
    if time_axis is None:
        raise DataError(
            "clips are padded, or the budget speaks of time (frames, time_invariant or per: frame), but the time axis "
            "is not known: the data set's MediaSpec (`media` of evaluate), or for space: features the encoder, must "
            "state `time_axis`"
        )
    rank = clean.dim() - 1
    if not -rank <= time_axis < rank:
        raise DataError(f"time_axis {time_axis} is none of the {rank} axes of a clip of shape {tuple(clean.shape[1:])}")
    return time_axis % rank + 1


def own_steps(padded: Sequence[float], length: int) -> list[int]:
    """Of each clip, how many of its steps of time are its own: a step that is so in part is.

    Args:
        padded: the share of each clip's time that is padding.
        length: steps of time.
    """
    return [math.ceil((1 - share - PADDING_ROUNDING) * length) if share else length for share in padded]


def time_constraint(
    clean: Tensor,
    axis: int,
    padded: Sequence[float],
    ranges: Sequence[tuple[int, int]] | None = None,
    *,
    invariant: bool = False,
) -> TimeConstraint | None:
    """The constraint on time of padding and a budget together; None where neither says anything.

    Args:
        clean: (B, ...).
        axis: of the batch.
        padded: of each clip, the share of its time that is padding; empty for none.
        ranges: the steps that the budget allows to change; None for all.
        invariant: whether it asks for the same perturbation at all of them.

    Raises:
        DataError: if the clips do not have these steps.
    """
    if ranges is None and not invariant and not any(padded):
        return None
    length = clean.shape[axis]
    own = torch.tensor(own_steps(padded, length), device=clean.device) if any(padded) else None
    frames = None
    if ranges is not None:
        beyond = [f"[{first}, {end}]" for first, end in ranges if end > length]
        if beyond:
            raise DataError(f"frames {', '.join(beyond)} lie beyond the {length} steps of time that the clips have")
        frames = torch.zeros(length, dtype=torch.bool, device=clean.device)
        for first, end in ranges:
            frames[first:end] = True
    steps = length if frames is None else int(frames.sum())
    return TimeConstraint(axis, steps, frames, invariant, own)


def radii(clean: Tensor, budget: Budget, time: TimeConstraint | None = None) -> Tensor:
    """The radius of each clip's ball: (B,) float64.

    For a signal-to-noise ratio it is the radius at which a perturbation that fills the ball has that ratio, so that
    its power is 10^(-snr/10) of the clip's: l2: ||x||_2 10^(-snr/20); linf: rms(x) 10^(-snr/20), every sample moved
    by the full radius; l1: n rms(x) 10^(-snr/20), spread evenly over all n samples. Padding, of which `time` may tell,
    is none of the clip's.
    """
    if not isinstance(budget.eps, Snr):
        return torch.full((len(clean),), budget.eps, dtype=torch.float64, device=clean.device)
    heard = clean.double()
    samples: float | Tensor = clean[:1].numel()
    padding = None if time is None else time.padding(clean)
    if padding is not None:
        heard = heard.masked_fill(padding, 0)
        samples = (~padding).expand_as(clean).flatten(1).sum(dim=1).clamp(min=1).double()
    length: Tensor = torch.linalg.vector_norm(heard.flatten(1), dim=1)
    if budget.norm == "linf":
        length = length / samples**0.5
    if budget.norm == "l1":
        length = length * samples**0.5
    return length * 10 ** (-budget.eps.snr_db / 20)


def _shaped(length: float | Tensor, like: Tensor) -> float | Tensor:
    return per_clip(length.to(like.dtype), like) if isinstance(length, Tensor) else length
