"""Nearest points of a Euclidean ball cut by bounds, over one modality or several that share the ball."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avrobust_core.threats.balls import Ball
from avrobust_core.threats.clips import clip_norm, per_clip, pieces, settled

MAX_ROUNDS = {"cpu": 50}
"""Rounds of the search for the share, by type of device. Each round's answer is inside, and the next one nearer: three
to five are enough as a rule, and on CPU the search ends by itself."""

DEFAULT_MAX_ROUNDS = 8


def nearest(balls: Sequence[Ball], x: Sequence[Tensor], weights: Tensor, reach: Tensor) -> list[Tensor]:
    """The nearest points of a ball over all modalities together, and of each one's bounds and constraint on time.

    Nearest in the metric of the ball, the sum over modalities of (weight ||difference||)^2. There the nearest point is
    clamp(share * perturbation) with one share for all modalities: the largest, up to 1, with which the ball holds it.

    Args:
        balls: M balls: center, bounds and constraint on time of each modality.
        x: M tensors (B, ...).
        weights: (M, B) float64; a modality of weight 0 stays at its center.
        reach: (B,) float64, the radius of the ball in its metric.
    """
    clips, device = len(reach), reach.device
    found = [torch.empty_like(each) for each in x]
    for piece in pieces(clips, sum(each[:1].numel() for each in x), device):
        parts = [
            _Part(ball, each[piece], piece, weight[piece], into[piece])
            for ball, each, weight, into in zip(balls, x, weights, found, strict=True)
        ]
        share = _common_share(parts, reach[piece])
        for part in parts:
            part.place(share)
    return found


class _Part:
    """Some clips of one modality: their perturbation, and shares of it within the bounds.

    The perturbation is written into `into`, where the nearest point takes its place: new memory costs more than sums.
    """

    def __init__(self, ball: Ball, x: Tensor, piece: slice, weight: Tensor, into: Tensor) -> None:
        self.center = ball.center[piece]
        self.bounds, self.limits = ball.bounds, ball.limits
        self.weight = weight
        self.delta = torch.sub(x, self.center, out=into)
        if ball.time is not None:
            self.delta.copy_(ball.time.of(piece).confine(self.delta.clone()))
        # Where the perturbation is the same at all steps of time, the tightest of their limits holds for all.
        self.room = None
        if ball.time is not None and ball.time.invariant and ball.bounds is not None:
            self.room = ball.room[0][piece], ball.room[1][piece]

    def square(self) -> Tensor:
        """The weighted square of the whole perturbation, bounds left aside: (b,)."""
        return (self.weight * clip_norm(self.delta)).square()

    def place(self, share: Tensor) -> None:
        """Turn the perturbation into the center plus this share of it, within the bounds."""
        moved = self.delta.mul_(self._shaped(share))
        if self.room is not None:
            moved.clamp_(*self.room)
        moved.add_(self.center).clamp_(*self.limits)

    def split(self, share: Tensor) -> tuple[Tensor, Tensor] | None:
        """The weighted squares of what is held at the bounds, and of the whole perturbation where it is not: (b,) each.

        None if it is known that nothing is held.
        """
        if self.bounds is None:
            return None
        if self.room is not None:
            moved = self.delta * self._shaped(share)
            held = torch.clamp(moved, *self.room)
        else:
            moved = torch.addcmul(self.center, self.delta, self._shaped(share))
            held = moved.clamp(*self.bounds)
        # 1 or 0, as floats: on CPU they are ten times as fast as bool, and need no memory here.
        beyond = moved.ne_(held)
        if settled(beyond.flatten(1).sum(dim=1) == 0):
            return None
        if self.room is None:
            held.sub_(self.center)
        spent = clip_norm(held.mul_(beyond))
        left = clip_norm(torch.addcmul(self.delta, self.delta, beyond, value=-1))
        return (self.weight * spent).square(), (self.weight * left).square()

    def _shaped(self, share: Tensor) -> Tensor:
        return per_clip(torch.where(self.weight > 0, share, 0).to(self.delta.dtype), self.delta)


def _common_share(parts: Sequence[_Part], reach: Tensor) -> Tensor:
    """The largest share, up to 1, of all perturbations that the ball holds once they are cut to their bounds: (b,).

    Each round takes the samples that the share so far brings to their bounds as held there, which gives a share that is
    never too large (the squared length is concave in the squared share: these are Newton's steps from below).
    """
    tiny = torch.finfo(torch.float64).tiny
    free = [part.square() for part in parts]
    whole = torch.stack(free).sum(dim=0).sqrt()
    share = (reach / whole.clamp(min=tiny)).clamp(max=1)
    done = (share >= 1) | (reach <= 0)
    for _ in range(MAX_ROUNDS.get(reach.device.type, DEFAULT_MAX_ROUNDS)):
        if settled(done):
            break
        splits = [part.split(share) for part in parts]
        if all(split is None for split in splits):
            break
        spent, left = torch.zeros_like(reach), torch.zeros_like(reach)
        for split, square in zip(splits, free, strict=True):
            spent = spent if split is None else spent + split[0]
            left = left + (square if split is None else split[1])
        longer = ((reach.square() - spent).clamp(min=0) / left.clamp(min=tiny)).sqrt().clamp(max=1)
        # A clip that is done stays as it is, so that no further round for another one moves its last bits.
        done = done | (longer <= share * (1 + 1e-6))
        share = torch.where(done, share, longer)
    return share
