"""What a random search tries next in one modality, in each norm: where it starts, and how it changes one block."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.blocks import Blocks, Layout
from avrobust_attacks.blackbox.tracker import like
from avrobust_core import Ball

TILES = 5
"""Along each axis, the tiles of the start in l2."""

LEAST_SIDE = 3
"""Along each axis, the least length of a block in l2, where the axis has so many steps."""

LOWEST_BUMPS = 1 / 16
"""In l2, the least height of the bumps that are added, against what they are added to."""

SMALLEST_LENGTH = 1e-12
"""Below this, a perturbation over its radius is taken to be 0."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a modality must know of the others that share its ball.

    Attributes:
        spent: (B,), the squares of their perturbations over their radii, summed.
        given: whether one of them has just given up a block for the one to be changed; if not, a second block of the
            same modality does.
    """

    spent: Tensor
    given: bool


class Proposals(ABC):
    """Points to try in one modality.

    Args:
        layout: of its clips.
    """

    norm: ClassVar[str]

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    @abstractmethod
    def start_numbers(self) -> int:
        """How many random numbers each clip's start takes."""

    @property
    @abstractmethod
    def numbers(self) -> int:
        """How many random numbers each clip's next point takes."""

    @abstractmethod
    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        """The first point, (B, ...), to be projected; `uniform` (B, start_numbers) from [0, 1)."""

    @abstractmethod
    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, pool: Pool | None = None) -> Tensor:
        """`x` with one block of each clip changed, to be projected.

        Args:
            x: (B, ...).
            ball: of this modality.
            share: of the samples that a block covers.
            uniform: (B, numbers) from [0, 1).
            pool: where the modality shares its ball; None where it has one of its own.
        """


class LinfProposals(Proposals):
    """Every sample is moved by the full radius, all of a block the same way (Andriushchenko et al. 2020, section 4.2).

    It starts with stripes: a random sign for each channel and position of the last axis.
    """

    norm = "linf"

    @property
    def start_numbers(self) -> int:
        axes = self.layout.axes
        return self.layout.channels * (axes[-1].places.numel() if axes else 1)

    @property
    def numbers(self) -> int:
        return len(self.layout.axes) + self.layout.channels + 1

    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        shape = [len(uniform), *[1] * len(self.layout.shape)]
        if self.layout.channels > 1:
            shape[1] = self.layout.channels
        if self.layout.axes:
            shape[self.layout.axes[-1].dim] = self.layout.axes[-1].places.numel()
        return ball.center + ball.step_radius * _signs(uniform).view(shape)

    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, pool: Pool | None = None) -> Tensor:
        where, colours, carrier = uniform.tensor_split((len(self.layout.axes), self.numbers - 1), dim=1)
        blocks = self.layout.place(self.layout.sides(share), where)
        moves = self.layout.per_channel(_signs(colours)) * ball.step_radius
        wave = blocks.wave(carrier.squeeze(1))
        if wave is not None:
            moves = moves * wave
        mask = blocks.mask()
        changed = ball.project(torch.where(mask, ball.center + moves, x))
        # A block that is so already would waste a query: it is turned round.
        same = like((changed == x).flatten(1).all(dim=1), x)
        return torch.where(mask & same, ball.center - moves, changed)


class L2Proposals(Proposals):
    """The square of the length moves from one block to another, where two bumps are added (section 4.3 of the paper).

    It starts with a grid of such bumps, with random signs for each tile and channel. Beyond the paper, at half of the
    steps each, and by random numbers of their own: the giving block keeps a part of what it has; the bumps are lower
    than what they are added to; and the channels of a block share what they have by random weights. In the paper no
    channel ever gains on another, and no step is small.
    """

    norm = "l2"

    @property
    def start_numbers(self) -> int:
        tiles = [-(-axis.steps // -(-axis.steps // TILES)) for axis in self.layout.axes]
        return self.layout.channels * prod(tiles) + 2

    @property
    def numbers(self) -> int:
        return 2 * len(self.layout.axes) + self.layout.channels + 5

    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        layout = self.layout
        tiled = layout.tile(TILES, len(uniform))
        shape = [len(uniform), *[1] * len(layout.shape)]
        if layout.channels > 1:
            shape[1] = layout.channels
        counts = [-(-axis.steps // side) for axis, side in zip(layout.axes, tiled.sides, strict=True)]
        signs = _signs(uniform[:, :-2]).view(len(uniform), layout.channels, *counts)
        for number, (axis, side) in enumerate(zip(layout.axes, tiled.sides, strict=True)):
            shape[axis.dim] = axis.places.numel()
            signs = signs.index_select(number + 2, axis.places.clamp(min=0) // side)
        delta = (signs.reshape(shape) * _carried_bumps(tiled, uniform[:, -2:])).expand(ball.center.shape)
        return ball.center + delta * ball.step_radius / _lengths(delta).clamp(min=SMALLEST_LENGTH)

    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, pool: Pool | None = None) -> Tensor:
        layout, axes = self.layout, len(self.layout.axes)
        where, other, colours, form = uniform.tensor_split((axes, 2 * axes, 2 * axes + layout.channels), dim=1)
        receiving = layout.place(layout.sides(share, LEAST_SIDE), where)
        mask = receiving.mask()
        delta = relative(x, ball)
        inside = delta * mask
        gained = layout.channel_sums(inside.square())
        unused = 1 - delta.square().flatten(1).sum(dim=1)
        if pool is not None:
            unused = unused - pool.spent
        if pool is None or not pool.given:
            giving = layout.place(receiving.sides, other).mask() & ~mask
            part = like((2 * form[:, 0]).clamp(max=1), delta)
            gained = gained + layout.channel_sums((delta * giving).square() * part)
            delta = torch.where(giving, delta * (1 - part).sqrt(), delta)
        gained = gained + unused.clamp(min=0).unsqueeze(1) / layout.channels
        spread = gained.sum(dim=1, keepdim=True) * _shares(colours)
        gained = torch.where(form[:, 1:2] < 0.5, spread, gained)
        height = LOWEST_BUMPS ** (2 * form[:, 2] - 1).clamp(min=0)
        bumps = _carried_bumps(receiving, form[:, 3:]).expand_as(x)
        added = layout.per_channel(_signs(colours)) * self._unit(bumps) * like(height, x)
        fresh = self._unit(added + self._unit(inside))
        filled = fresh * layout.per_channel(gained.sqrt())
        return ball.center + torch.where(mask, filled, delta) * ball.step_radius

    def release(self, x: Tensor, ball: Ball, share: float, uniform: Tensor) -> Tensor:
        """`x` with one block of each clip as it was in the clean clip; arguments as those of `change`."""
        where = uniform[:, : len(self.layout.axes)]
        mask = self.layout.place(self.layout.sides(share, LEAST_SIDE), where).mask()
        return torch.where(mask, ball.center, x)

    def _unit(self, x: Tensor) -> Tensor:
        """Each channel of each clip at length 1; 0 where it is 0."""
        size = self.layout.channel_sums(x.square()).sqrt()
        return x / self.layout.per_channel(size.clamp(min=SMALLEST_LENGTH))


PROPOSALS: Mapping[str, type[Proposals]] = MappingProxyType({kind.norm: kind for kind in (LinfProposals, L2Proposals)})
"""By the name of the norm."""


def relative(x: Tensor, ball: Ball) -> Tensor:
    """The perturbation over the radius: (B, ...)."""
    return (x - ball.center) / ball.step_radius.clamp(min=torch.finfo(x.dtype).tiny)


def _carried_bumps(blocks: Blocks, uniform: Tensor) -> Tensor:
    """Bumps on a square wave where there is one; `uniform` (B, 2) from [0, 1)."""
    bumps, wave = blocks.bumps(uniform[:, 0]), blocks.wave(uniform[:, 1])
    return bumps if wave is None else bumps * wave


def _shares(uniform: Tensor) -> Tensor:
    """Random weights, (B, channels), that sum to 1 over the channels, of the numbers whose signs are the colours."""
    weights = (2 * uniform - 1).abs() + SMALLEST_LENGTH
    return weights / weights.sum(dim=1, keepdim=True)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, 1.0, -1.0)


def _lengths(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return like(found, x)
