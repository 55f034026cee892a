"""The norms that a budget may name, each as a ball: linf, l2, l1 and l0."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from avrobust_core.balls import FLOAT32_HALF_ULP, Ball, Bounds, Freedom, largest, length, per_clip

L1_STEP_SHARE = 20
"""An l1 step moves at most one sample in so many: choosing them all by size would cost a sort of the whole clip."""

MAX_ROUNDS = 16
"""Rounds of the searches for a projection's multiplier: exact once the set of samples at their limits stands."""


class LinfBall(Ball):
    """No sample may move by more than the radius."""

    norm = "linf"

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, freedom: Freedom | None = None) -> None:
        super().__init__(center, radius, bounds, freedom)
        reach = per_clip(_round_down(radius, center.dtype), center)
        if freedom is not None and freedom.frames is not None:
            reach = reach * freedom.shaped(center)
        self._low = _edge(center, -reach)
        self._high = _edge(center, reach)
        if bounds is not None:
            self._low.clamp_(min=bounds[0])
            self._high.clamp_(max=bounds[1])

    def project(self, x: Tensor) -> Tensor:
        if self.freedom is not None and self.freedom.invariant:
            x = self.within(x, self.radius)
        return torch.clamp(x, self._low, self._high)

    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        reach = per_clip(radius.to(x.dtype), x)
        return self._place(self._delta(x).clamp_(-reach, reach))

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        if isinstance(length, Tensor):
            return torch.addcmul(x, gradient.sign(), self.step_radius * length)
        return torch.addcmul(x, gradient.sign(), self.step_radius, value=length)

    def gain(self, gradient: Tensor) -> Tensor:
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        return gradient.flatten(1).abs().sum(dim=1) * self.radius.to(gradient.dtype)

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        noise = torch.stack([torch.rand(self.center.shape[1:], generator=g) for g in generators])
        noise = noise.to(self.center.device).mul_(2).sub_(1)
        if self.freedom is not None and self.freedom.invariant:
            noise = noise.narrow(self.freedom.axis, 0, 1).expand_as(noise)
        return self.project(self.center + self.step_radius * noise)

    def measure(self, x: Tensor) -> Tensor:
        return self._difference(x).abs().amax(dim=1)


class L2Ball(Ball):
    """The Euclidean length of the change, over all samples of the clip, is at most the radius."""

    norm = "l2"

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, freedom: Freedom | None = None) -> None:
        super().__init__(center, radius, bounds, freedom)
        # A stored float32 is off by half an ulp of its own size in each coordinate: keep clear by all of them together.
        highest = largest(center).flatten().double() + radius
        slack = (center[0].numel() ** 0.5) * FLOAT32_HALF_ULP * highest + 1e-6 * radius
        self._reach = (radius - slack).clamp(min=0)

    def project(self, x: Tensor) -> Tensor:
        return self.within(x, self._reach)

    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        delta = self._delta(x)
        reach = per_clip(radius.to(x.dtype), x)
        share = (reach / length(delta).clamp(min=torch.finfo(x.dtype).tiny)).clamp_(max=1)
        if self.bounds is not None:
            share = self._stretched(delta, reach, share)
        return self._place(delta.mul_(share))

    def _stretched(self, delta: Tensor, reach: Tensor, share: Tensor) -> Tensor:
        """The share of `delta` at which its clamped length is the reach: at least what it would be without bounds.

        The nearest point of ball and bounds is clamp(share * delta). Each round takes the samples that `share` brings
        to their limits as fixed there; the true share is never passed, so that every round's answer is inside.
        """
        down, up = self.room
        for _ in range(MAX_ROUNDS):
            moved = delta * share
            held = torch.clamp(moved, down, up)
            free = moved == held
            if _settled(free):
                break
            spent = held.masked_fill(free, 0).flatten(1).square().sum(dim=1)
            left = delta.masked_fill(~free, 0).flatten(1).square().sum(dim=1)
            wanted = (reach.flatten().square() - spent).clamp_(min=0) / left.clamp(min=torch.finfo(delta.dtype).tiny)
            longer = per_clip(wanted.sqrt_().clamp_(max=1), delta).maximum(share)
            done = _settled(longer <= share * (1 + 1e-6))
            share = longer
            if done:
                break
        return torch.where(share < 1, share * (1 - 1e-6), share)

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        return torch.addcmul(x, self.direction(gradient), self.step_radius * length)

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient of each clip at length 1; 0 where it is 0."""
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        # Scaled by the largest entry first: the squares of a tiny gradient would vanish in float32.
        scaled = gradient / largest(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        return scaled.div_(length(scaled).clamp(min=1))

    def gain(self, gradient: Tensor) -> Tensor:
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        return length(gradient).flatten() * self.radius.to(gradient.dtype)

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = self.center.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        free = shape.numel()
        if self.freedom is not None:
            steps = 1 if self.freedom.invariant else self.freedom.steps
            free = free // shape[self.freedom.axis - 1] * steps
            noise = self.freedom.confine(noise.to(self.center.device))
        share = torch.stack([torch.rand((), generator=g) for g in generators]) ** (1 / free)
        noise, share = noise.to(self.center.device), share.to(self.center.device)
        size = length(noise).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.project(self.center + noise / size * self.step_radius * per_clip(share, noise))

    def measure(self, x: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self._difference(x), dim=1)
        return found


class L1Ball(Ball):
    """The sum of the absolute changes of all samples is at most the radius."""

    norm = "l1"

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball and the bounds together (Croce and Hein, ICML 2021, "Mind the box").

        `x` is not changed.
        """
        target = self.radius
        nearest = self.within(x, target)
        for _ in range(3):  # rounding to float32 moves each changed sample a little: measured, and taken off the radius
            excess = self.measure(nearest) - self.radius
            if _settled(excess <= 0):
                return nearest
            target = (target - 2 * excess.clamp(min=0)).clamp(min=0)
            nearest = self.within(x, target)
        over = self.measure(nearest) > self.radius
        return torch.where(per_clip(over, x), self.center, nearest)

    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        delta = self._delta(x)
        down, up = self.room
        size = delta.abs().flatten(1)
        limit = torch.where(delta > 0, up, -down).flatten(1) if self.bounds is not None else None
        shrunk = per_clip(_soft_threshold(size, limit, radius.to(x.dtype)), x)
        return self._place(delta.sign().mul_((delta.abs() - shrunk).clamp_(min=0)))

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """The samples of steepest ascent are moved to their bounds one after the other, until the length is spent.

        Without bounds that is one sample: the vertex of the ball that a linear function likes best.
        """
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        low, high = self.bounds or (-torch.inf, torch.inf)
        room = torch.where(gradient > 0, high - x, x - low).clamp_(min=0).flatten(1)
        slope = gradient.abs().flatten(1)
        count = min(slope.shape[1], max(64, slope.shape[1] // L1_STEP_SHARE))
        steepest, index = slope.masked_fill(room <= 0, 0).topk(count, dim=1)
        room = torch.where(steepest > 0, room.gather(1, index), 0)
        budget = (self.step_radius * length).flatten(1)
        before = room.nan_to_num(posinf=torch.finfo(x.dtype).max / count).cumsum(dim=1)
        before = torch.cat((torch.zeros_like(before[:, :1]), before[:, :-1]), dim=1)
        moves = torch.minimum(room, (budget - before).clamp_(min=0))
        moved = torch.zeros_like(slope).scatter_(1, index, moves).view_as(x)
        return torch.addcmul(x, moved, gradient.sign())

    def gain(self, gradient: Tensor) -> Tensor:
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        return largest(gradient).flatten() * self.radius.to(gradient.dtype)

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A point drawn uniformly from the ball, then projected: signed exponentials over their sum and one more."""
        shape = self.center.shape[1:]
        drawn = torch.stack([torch.rand(2, shape.numel() + 1, generator=g) for g in generators])
        drawn = drawn.to(self.center.device)
        sizes = -torch.log1p(-drawn[:, 0])
        if self.freedom is not None and self.freedom.frames is not None:
            free = self.freedom.shaped(self.center).expand_as(self.center).flatten(1)
            sizes = sizes * torch.cat((free, torch.ones_like(free[:, :1])), dim=1)
        shares = sizes[:, :-1] / sizes.sum(dim=1, keepdim=True)
        signs = (drawn[:, 1, :-1] > 0.5).to(shares.dtype) * 2 - 1
        return self.project(self.center + (shares * signs).view_as(self.center) * self.step_radius)

    def measure(self, x: Tensor) -> Tensor:
        return self._difference(x).abs().sum(dim=1)


class L0Ball(Ball):
    """At most `radius` samples, or frames, of the clip change; each by as much as the bounds and `cap` leave.

    Args:
        center, radius, bounds, freedom: see `Ball`; `radius` counts.
        cap: the largest change of one sample, or None.
        frame: the time axis of the batch and the steps of time that one frame has; an axis of None counts samples.
    """

    norm = "l0"

    def __init__(
        self,
        center: Tensor,
        radius: Tensor,
        bounds: Bounds,
        freedom: Freedom | None = None,
        *,
        cap: float | None = None,
        frame: tuple[int | None, int] = (None, 1),
    ) -> None:
        super().__init__(center, radius, bounds, freedom)
        self._cap = torch.inf if cap is None else cap
        self._axis, self._frame_steps = frame
        low, high = (-torch.inf, torch.inf) if bounds is None else bounds
        self._span = min(self._cap, high - low)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: the changes that are dearest to undo are kept, each cut to its bounds and cap."""
        return self.within(x, self.radius)

    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        delta = self._delta(x)
        kept = self._cut(delta)
        saved = delta.square() - (delta - kept).square()  # how much nearer the clip comes by keeping this change
        return torch.where(self._chosen(saved, radius), self.center + kept, self.center).clamp(*self._limits)

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """`x` moved along the gradient, scaled so that the steepest sample moves by `length` of its whole span."""
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        direction = gradient / largest(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        return x + direction * (self._span * length)

    def gain(self, gradient: Tensor) -> Tensor:
        """The sum of the gains of the best `radius` samples or frames, each moved as far as it may."""
        if self.freedom is not None:
            gradient = self.freedom.confine(gradient)
        whole = torch.full_like(gradient, self._span) * gradient.sign()
        gains = self._by_frame((gradient * self._cut(whole)).clamp(min=0))
        ordered = gains.sort(dim=1, descending=True).values.cumsum(dim=1)
        count = self.radius.long().clamp(max=ordered.shape[1])
        found = ordered.gather(1, (count - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(count > 0, found, 0)

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """As many samples or frames as the radius allows, chosen at random, moved uniformly within bounds and cap."""
        shape = self.center.shape[1:]
        drawn = torch.stack([torch.rand((2, *shape), generator=g) for g in generators]).to(self.center.device)
        down, up = self._reach()
        moved = down + (up - down) * drawn[:, 0]
        rank = drawn[:, 1]
        if self._axis is not None:
            rank = self._spread(self._by_frame(rank), rank)
        if self.freedom is not None and self.freedom.frames is not None:
            rank = rank * self.freedom.shaped(rank)
            moved = self.freedom.confine(moved)
        return torch.where(self._chosen(rank, self.radius), self.center + moved, self.center).clamp(*self._limits)

    def measure(self, x: Tensor) -> Tensor:
        changed = (x != self.center).to(torch.float64)
        return (self._by_frame(changed) > 0).sum(dim=1).to(torch.float64)

    def strays(self, x: Tensor) -> Tensor:
        moved = self._difference(x).abs().amax(dim=1)
        rounding = 4 * FLOAT32_HALF_ULP * largest(self.center).flatten().double().clamp(min=1)
        return super().strays(x) | (moved > self._cap + rounding)

    @property
    def _limits(self) -> tuple[float, float]:
        return self.bounds if self.bounds is not None else (-torch.inf, torch.inf)

    def _reach(self) -> tuple[Tensor, Tensor]:
        down, up = self.room
        return down.clamp(min=-self._cap), up.clamp(max=self._cap)

    def _cut(self, delta: Tensor) -> Tensor:
        return torch.clamp(delta, *self._reach())

    def _chosen(self, worth: Tensor, radius: Tensor) -> Tensor:
        """The `radius` samples or frames of highest worth, those worth nothing left out: bool, as `worth`."""
        by_frame = self._by_frame(worth)
        count = radius.long().clamp(max=by_frame.shape[1])
        most = int(count.max()) if len(count) else 0
        if most == 0:
            return torch.zeros_like(worth, dtype=torch.bool)
        top, index = by_frame.topk(most, dim=1)
        kept = (torch.arange(most, device=worth.device) < count.unsqueeze(1)) & (top > 0)
        chosen = torch.zeros_like(by_frame, dtype=torch.bool).scatter_(1, index, kept)
        return self._spread(chosen, worth)

    def _by_frame(self, values: Tensor) -> Tensor:
        """(B, ...) summed over each frame: (B, frames); samples as they are: (B, n)."""
        if self._axis is None:
            return values.flatten(1)
        by_step = values.movedim(self._axis, 1).flatten(2).sum(dim=2)
        missing = -by_step.shape[1] % self._frame_steps
        padded = torch.nn.functional.pad(by_step, (0, missing))
        return padded.view(len(values), -1, self._frame_steps).sum(dim=2)

    def _spread(self, by_frame: Tensor, like: Tensor) -> Tensor:
        """(B, frames) repeated over all samples of each frame: as `like`."""
        if self._axis is None:
            return by_frame.view_as(like)
        steps = by_frame.repeat_interleave(self._frame_steps, dim=1)[:, : like.shape[self._axis]]
        shape = [len(like), *[1] * (like.dim() - 1)]
        shape[self._axis] = -1
        return steps.view(shape).expand_as(like)


BALLS: Mapping[str, type[Ball]] = MappingProxyType({ball.norm: ball for ball in (LinfBall, L2Ball, L1Ball, L0Ball)})
"""Each norm's ball by the norm's name in a budget."""


def _soft_threshold(size: Tensor, limit: Tensor | None, radius: Tensor) -> Tensor:
    """By how much all sizes are to be lowered so that, cut at 0 and at their limits, they sum to the radius: (B,).

    The sum falls piecewise linearly as the threshold rises: Newton's steps, kept inside a bracket, end on the exact
    piece. What is returned is the bracket's feasible end.

    Args:
        size: (B, n), not negative.
        limit: (B, n), the most that may be left of each, or None.
        radius: (B,).
    """

    def left_of(threshold: Tensor) -> Tensor:
        left = (size - threshold.unsqueeze(1)).clamp_(min=0)
        return left if limit is None else torch.minimum(left, limit)

    low = torch.zeros_like(radius)
    high = size.amax(dim=1)
    inside = left_of(low).sum(dim=1) <= radius
    at = low
    for _ in range(4 * MAX_ROUNDS):
        left = left_of(at)
        total = left.sum(dim=1)
        feasible = total <= radius
        high = torch.where(feasible, torch.minimum(high, at), high)
        low = torch.where(feasible, low, torch.maximum(low, at))
        if _settled(inside | (high - low <= 1e-7 * high)):
            break
        moving = left > 0 if limit is None else (left > 0) & (left < limit)
        newton = at + (total - radius) / moving.sum(dim=1).clamp(min=1)
        # A hair beyond the exact piece's answer, or rounding would leave it on the wrong side for ever.
        newton = newton + 1e-7 * newton.abs()
        at = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    return torch.where(inside, 0, high)


def _settled(flags: Tensor) -> bool:
    """Whether all flags are true, where to ask costs nothing: elsewhere than on CPU it would wait for the device."""
    return flags.device.type == "cpu" and bool(flags.all())


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
