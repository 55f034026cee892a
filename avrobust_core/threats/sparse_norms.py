"""The sparse norms, l1 and l0, each as a ball."""

from typing import Self

import torch
from torch import Tensor

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.threats.balls import FLOAT32_HALF_ULP, SAFETY, Ball, Bounds, TimeConstraint
from avrobust_core.threats.clips import largest, per_clip, pieces, settled

MAX_ROUNDS = {"cpu": 100}
"""Rounds of the search for an l1 projection's threshold, by type of device; on CPU it ends by itself, after two
to four where `x` is a step away from the ball, and 30 where it is far."""

DEFAULT_MAX_ROUNDS = 32

NEWTON_ROUNDS = 6
"""Rounds of that search after which every other one halves the bracket, whatever Newton's step says: where samples are
held at their bounds the sum is not convex in the threshold, and Newton's steps alone may creep."""

FIRST_STEEPEST = 256
"""Samples that an l1 step sorts by steepness at first: as a rule enough to spend its length on."""

BEYOND, MOST_BEYOND = 1e2, 1e4
"""The way that an l1 step moves a sample beyond its bound, over the step's length: for each time that the sample is
steeper than the least steep that moves; and at most."""


class L1Ball(Ball):
    """The sum of the absolute changes of all samples is at most the radius."""

    norm = "l1"

    def __init__(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None = None) -> None:
        super().__init__(center, radius, bounds, time)
        self._rounding = FLOAT32_HALF_ULP * largest(center).flatten()

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball and the bounds together (Croce and Hein, ICML 2021, "Mind the box").

        Each changed sample is counted with what rounding to float32 may add to it.
        """
        return self._nearest(x, self.radius * (1 - SAFETY), self._rounding)

    @torch.no_grad()
    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        return self._nearest(x, radius, torch.zeros_like(self._rounding))

    def _nearest(self, x: Tensor, radius: Tensor, cost: Tensor) -> Tensor:
        found = torch.empty_like(x)
        radius = radius.to(x.dtype)
        for piece in pieces(len(x), x[:1].numel(), x.device):
            center = self.center[piece]
            delta = x[piece] - center
            if self.time is not None:
                delta = self.time.of(piece).confine(delta)
            size = delta.abs()
            limit = None if self.bounds is None else _room(center, delta.sign(), self.bounds).flatten(1)
            threshold = soft_threshold(size.flatten(1), limit, radius[piece], cost[piece])
            moved = size.sub_(per_clip(threshold, size)).clamp_(min=0).copysign_(delta).add_(center)
            found[piece] = moved.clamp_(*self.limits)
        return found

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """The samples of steepest ascent are moved to their bounds one after the other, until the length is spent.

        Once projected, that is the point of the box and of the l1 ball of this length around `x` that a linear function
        likes best. Without bounds one sample moves: the vertex of the ball.

        Steep samples that are at their bounds already, or get there, are moved beyond them, further the steeper they
        are. Within the bounds that changes nothing, but the projection onto the ball lowers all changes by as much: it
        must take from the samples that are worth least before it takes from these, or steps would never come to rest
        at the optimum of a linear function.
        """
        gradient = self.confined(gradient)
        budget = (self.step_radius * length).view(-1, 1)
        found = torch.empty_like(x)
        for piece in pieces(len(x), x[:1].numel(), x.device):
            sign, slope = gradient[piece].sign(), gradient[piece].abs().flatten(1)
            if self.bounds is None:
                steepest = slope.argmax(dim=1, keepdim=True)
                moved = torch.zeros_like(slope).scatter_(1, steepest, budget[piece])
            else:
                room = _room(x[piece], sign, self.bounds).flatten(1)
                moved = _steepest_moves(slope * room.sign(), room, budget[piece])
                least = slope.masked_fill(moved <= 0, torch.inf).amin(dim=1, keepdim=True)
                steeper = (BEYOND * (slope / least - 1)).clamp_(0, MOST_BEYOND)
                moved.addcmul_(steeper * budget[piece], (moved >= room).to(moved.dtype))
            found[piece] = torch.addcmul(x[piece], moved.view_as(sign), sign)
        return found

    def gain(self, gradient: Tensor) -> Tensor:
        gradient = self.confined(gradient)
        return largest(gradient).flatten() * self.radius.to(gradient.dtype)

    @torch.no_grad()
    def sample(self, draws: ClipDraws) -> Tensor:
        """A point drawn uniformly from the ball, then projected: signed exponentials over their sum and one more."""
        noise = draws.noise(self.center.shape[1:], "laplace")
        if self.time is not None and self.time.partial:
            noise = torch.where(self.time.free(noise), noise, 0)
        size = noise.flatten(1).abs().sum(dim=1) + draws.noise((), "laplace").abs()
        return self.project(noise.mul_(self.step_radius / per_clip(size, noise)).add_(self.center))

    def measure(self, x: Tensor) -> Tensor:
        return self._difference(x).abs().sum(dim=1)

    def approach(self, x: Tensor, gradient: Tensor, size: Tensor, length: float) -> Tensor:
        reach = self.radius * size
        return self.within(torch.lerp(x, _vertex(self, gradient, reach), min(length, 1.0)), reach)

    def _noise_size(self, noise: Tensor) -> Tensor:
        return noise.abs().sum(dim=1)


class L0Ball(Ball):
    """At most `radius` samples, or frames, of the clip change; each by as much as the bounds and `cap` leave.

    Args:
        center, radius, bounds, time: see `Ball`; `radius` counts.
        cap: the largest change of one sample, or None: then there must be bounds.
        frame: the time axis of the batch and the steps of time that one frame has; an axis of None counts samples.
    """

    norm = "l0"

    def __init__(
        self,
        center: Tensor,
        radius: Tensor,
        bounds: Bounds,
        time: TimeConstraint | None = None,
        *,
        cap: float | None = None,
        frame: tuple[int | None, int] = (None, 1),
    ) -> None:
        super().__init__(center, radius, bounds, time)
        self._cap = torch.inf if cap is None else cap
        self._axis, self._frame_steps = frame
        low, high = self.limits
        self._span = min(self._cap, high - low)
        # Asked once, here: later on it would make the host wait for the device at every step.
        self._most = int(radius.max()) if len(radius) else 0

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        """The nearest point: the changes that are dearest to undo are kept, each cut to its bounds and cap."""
        return self._kept(x, self._count(self.radius), self._most)

    @torch.no_grad()
    def within(self, x: Tensor, radius: Tensor) -> Tensor:
        count = self._count(radius)
        most = int(count.max()) if len(count) and count.device.type == "cpu" else x[:1].numel()
        return self._kept(x, count, most)

    def _kept(self, x: Tensor, count: Tensor, most: int) -> Tensor:
        delta = self._delta(x)
        kept = self._cut(delta)
        saved = kept * (2 * delta - kept)  # by how much the square of the distance falls if this change is kept
        chosen = self._spread(_highest(self._by_frame(saved), count, most), x)
        return torch.addcmul(self.center, kept, chosen.to(kept.dtype)).clamp_(*self.limits)

    def step(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """`x` with up to `length` times the radius new samples (or frames) moved as far as they may along the gradient.

        Those are new that have not moved yet; the others go on along the gradient's sign, by `length` of the span that
        bounds and cap leave. Of all of these the `radius` ones of highest first-order gain are kept: from the clean
        clip a step of length 1 is the point of the ball that a linear function likes best.
        """
        gradient = self.confined(gradient)
        slope = gradient / largest(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        sign = slope.sign()
        delta = self._delta(x)
        whole = self._cut(torch.full_like(delta, self._span) * sign)
        old = self._by_frame((delta != 0).to(delta.dtype)) > 0
        count = self._count(self.radius)
        new = self._count((self.radius * (length.flatten() if isinstance(length, Tensor) else length) - 1e-6).ceil())
        gains = self._by_frame(slope * whole).masked_fill(old, 0)
        chosen = _highest(gains, torch.minimum(new, count), self._most)
        further = self._cut(delta + sign * (self._span * length))
        moved = torch.where(self._spread(old, x), further, torch.where(self._spread(chosen, x), whole, 0))
        worth = self._by_frame(slope * moved).masked_fill(~(old | chosen), -torch.inf)
        kept = self._spread(_highest(worth, count, self._most, above=-torch.inf), x)
        # Where the gradient is 0 nothing moves, `x` included that has changed more than the radius allows.
        still = per_clip(largest(slope).flatten() == 0, x)
        return torch.where(still, x, torch.where(kept, self.center + moved, self.center))

    def gain(self, gradient: Tensor) -> Tensor:
        """The sum of the gains of the best `radius` samples or frames, each moved as far as bounds and cap leave."""
        gradient = self.confined(gradient)
        whole = self._cut(torch.full_like(gradient, self._span) * gradient.sign())
        gains = self._by_frame(gradient * whole)
        best = gains.topk(min(self._most, gains.shape[1]), dim=1).values
        counted = torch.arange(best.shape[1], device=best.device) < self._count(self.radius).unsqueeze(1)
        return torch.where(counted, best, 0).sum(dim=1)

    @torch.no_grad()
    def sample(self, draws: ClipDraws) -> Tensor:
        """As many samples or frames as the radius allows, chosen at random, moved uniformly within bounds and cap."""
        down, up = self._reach()
        moved = self.confined(down + (up - down) * draws.uniform(*self.center.shape[1:]))
        free = self._by_frame(self.confined(torch.ones_like(self.center))) > 0
        rank = (1 - draws.uniform(free.shape[1])) * free
        chosen = self._spread(_highest(rank, self._count(self.radius), self._most), moved)
        return torch.where(chosen, self.center + moved, self.center).clamp(*self.limits)

    def approach(self, x: Tensor, gradient: Tensor, size: Tensor, length: float) -> Tensor:
        reach = self._floor(self.radius * size)  # a step is rounded up to whole samples, a size down
        return self.within(_vertex(self, gradient, reach), reach)

    def stretched(self, x: Tensor, size: Tensor) -> Tensor:
        return x

    @property
    def quantum(self) -> Tensor:
        return 1 / self.radius.clamp(min=1)

    def scaled(self, factor: float) -> Self:
        return self._made(self.center, self._floor(self.radius * factor), self.bounds, self.time)

    def _made(self, center: Tensor, radius: Tensor, bounds: Bounds, time: TimeConstraint | None) -> Self:
        frame = (self._axis, self._frame_steps)
        return type(self)(center, radius, bounds, time, cap=self._cap, frame=frame)

    def measure(self, x: Tensor) -> Tensor:
        changed = (x != self.center).to(torch.float32)
        return (self._by_frame(changed) > 0).sum(dim=1).to(torch.float64)

    def strays(self, x: Tensor) -> Tensor:
        moved = self._difference(x).abs().amax(dim=1)
        return super().strays(x) | (moved > self._cap + self._grain(x).flatten())

    def _floor(self, radius: Tensor) -> Tensor:
        """A radius as a whole number, (B,) float64; one that rounding has left a hair below a number is that number."""
        return (radius * (1 + 1e-9)).floor()

    def _count(self, radius: Tensor) -> Tensor:
        return self._floor(radius).long()

    def _reach(self) -> tuple[Tensor, Tensor]:
        down, up = self.room
        return down.clamp(min=-self._cap), up.clamp(max=self._cap)

    def _cut(self, delta: Tensor) -> Tensor:
        return torch.clamp(delta, *self._reach())

    def _by_frame(self, values: Tensor) -> Tensor:
        """(B, ...) summed over each frame: (B, frames); samples as they are: (B, n)."""
        if self._axis is None:
            return values.flatten(1)
        by_step = values.movedim(self._axis, 1).unsqueeze(-1).flatten(2).sum(dim=2)
        missing = -by_step.shape[1] % self._frame_steps
        padded = torch.nn.functional.pad(by_step, (0, missing))
        return padded.view(len(values), -1, self._frame_steps).sum(dim=2)

    def _spread(self, by_frame: Tensor, like: Tensor) -> Tensor:
        """(B, frames) repeated over all samples of each frame: as `like`."""
        if self._axis is None:
            return by_frame.view_as(like)
        steps = by_frame.repeat_interleave(self._frame_steps, dim=1)[:, : like.shape[self._axis]]
        return steps.view(*steps.shape, *[1] * (like.dim() - 2)).movedim(1, self._axis).expand_as(like)


def _vertex(ball: Ball, gradient: Tensor, reach: Tensor) -> Tensor:
    """The best point for a linear function within `reach` (B,) of the center, which is a step from there."""
    share = torch.where(ball.radius > 0, reach / ball.radius, 0)
    return ball.step(ball.center, gradient, per_clip(share.to(ball.center.dtype), ball.center))


def soft_threshold(size: Tensor, limit: Tensor | None, radius: Tensor, cost: Tensor) -> Tensor:
    """The threshold by which all sizes are lowered so that, cut at 0 and at their limits, they sum to the radius: (B,).

    The sum falls piecewise linearly as the threshold rises: Newton's steps, kept inside a bracket, end on the exact
    piece. What is returned is the bracket's feasible end, 0 where the sizes are feasible as they are.

    Args:
        size: (B, n), not negative.
        limit: (B, n), the most that may be left of each, or None.
        radius: (B,).
        cost: (B,), what each size that is left counts more than itself.
    """
    low, high = torch.zeros_like(radius), size.amax(dim=1)
    # Without limits the largest size alone must be brought down to the radius.
    at = low if limit is not None else (high - radius).clamp(min=0)
    done = radius <= 0
    for number in range(MAX_ROUNDS.get(size.device.type, DEFAULT_MAX_ROUNDS)):
        left = (size - at.unsqueeze(1)).clamp_(min=0)
        held = left if limit is None else torch.minimum(left, limit)
        # Counted in floats, 1 or 0: on CPU ten times as fast as bool.
        some = held.sign()
        total = held.sum(dim=1) + cost * some.sum(dim=1)
        moving = some.sum(dim=1) if limit is None else left.eq_(held).mul_(some).sum(dim=1)
        feasible = total <= radius
        high = torch.where(feasible & ~done, at, high)
        low = torch.where(feasible | done, low, at)
        # The feasible end is near enough once next to nothing of the radius is left.
        done = done | (feasible & ((radius - total <= 1e-6 * radius) | (at == 0))) | (high - low <= 2.5e-7 * high)
        if settled(done):
            break
        # A hair inside, or rounding would leave it on the wrong side for ever.
        newton = at + (total - radius * (1 - 3e-7)) / moving.clamp(min=1)
        good = (newton > low) & (newton < high) & (moving > 0)
        if limit is not None and number >= NEWTON_ROUNDS and number % 2:
            good = torch.zeros_like(good)
        at = torch.where(done, at, torch.where(good, newton, (low + high) / 2))
    return high


def _room(x: Tensor, sign: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The way of each sample in the direction of its sign until it meets its bound: not negative; 0 at sign 0.

    Without a choice between two tensors, which is slow on CPU: of the ways to both bounds, measured along the sign, the
    longer one.
    """
    low, high = bounds
    return torch.maximum((high - x).mul_(sign), (low - x).mul_(sign)).clamp_(min=0)


def _steepest_moves(slope: Tensor, room: Tensor, budget: Tensor) -> Tensor:
    """The move of each sample, (B, n): the steepest to its end, then the next, until the budget is spent.

    Args:
        slope: (B, n), not negative; samples of slope 0 do not move.
        room: (B, n), how far each may move.
        budget: (B, 1), what the moves sum to at most.
    """
    moved = torch.zeros_like(slope)
    samples = slope.shape[1]
    count = FIRST_STEEPEST if slope.device.type == "cpu" else samples
    rows = torch.arange(len(slope), device=slope.device)
    while len(rows):
        count = min(count, samples)
        part = slope if len(rows) == len(slope) else slope.index_select(0, rows)
        steepest, index = part.topk(count, dim=1)
        wanted = budget.index_select(0, rows)
        free = torch.minimum(room[rows.unsqueeze(1), index] * steepest.sign(), wanted)
        before = free.cumsum(dim=1) - free
        moves = torch.minimum(free, (wanted - before).clamp_(min=0))
        moved[rows.unsqueeze(1), index] = moves
        if count == samples:
            break
        # Only a clip whose steepest samples have not enough room needs more of them sorted.
        rows = rows[(steepest[:, -1] > 0) & (before[:, -1] + moves[:, -1] < wanted[:, 0])]
        count *= 16
    return moved


def _highest(worth: Tensor, count: Tensor, most: int, above: float = 0.0) -> Tensor:
    """Flag the `count` highest of each clip's values, of those larger than `above`: bool, as `worth`.

    Of equal values the first are taken: which ones does not depend on the other clips' counts.

    Args:
        worth: (B, n).
        count: (B,) int64.
        most: at least the largest count.
        above: see above.
    """
    most = min(most, worth.shape[1])
    if most == 0 or not len(worth):
        return torch.zeros_like(worth, dtype=torch.bool)
    count = count.clamp(max=worth.shape[1]).unsqueeze(1)
    least = worth.topk(most, dim=1).values.gather(1, (count - 1).clamp(min=0))
    higher, level = worth > least, worth == least
    places = count - higher.sum(dim=1, keepdim=True)
    return (higher | (level & (level.cumsum(dim=1, dtype=torch.int32) <= places))) & (worth > above) & (count > 0)
