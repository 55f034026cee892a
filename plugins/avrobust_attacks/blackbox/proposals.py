"""Proposals of a random search in one modality, in each norm: where it starts, and how it changes one block."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.blocks import Blocks, Grid
from avrobust_core import Ball, BoundVictim, per_clip

TILES = 5
"""Along each axis, the tiles of the start in l2."""

LOWEST_BUMPS = 1 / 16
"""In l2, the least height of the bumps that are added, against what they are added to."""

SMALLEST_LENGTH = 1e-12
"""Below this, a perturbation over its radius is taken to be 0."""


@dataclass(frozen=True, slots=True)
class Others:
    """The modalities that share a ball with the one to be changed.

    Attributes:
        spent: (B,), the squares of their perturbations over their radii, summed; None if there are none.
        given: whether one of them has just given up a block for the one to be changed; if not, a second block of the
            same modality does.
    """

    spent: Tensor | None = None
    given: bool = False


class Proposals(ABC):
    """Points to try in one modality.

    Attributes:
        least_side: along each axis, the least length of a block, where the axis has so many steps.
        grid: see below.
        start_numbers: how many random numbers each clip's start takes.
        numbers: how many each clip's next point takes.

    Args:
        grid: of its clips, and of no others.
    """

    least_side: ClassVar[int] = 1
    start_numbers: int
    numbers: int

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    @abstractmethod
    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        """The first point, (B, ...), to be projected; `uniform` (B, start_numbers) from [0, 1)."""

    @abstractmethod
    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, others: Others) -> Tensor:
        """`x` with one block of each clip changed, to be projected.

        Args:
            x: (B, ...).
            ball: of this modality.
            share: of the samples that a block covers.
            uniform: (B, numbers) from [0, 1).
            others: the modalities that share its ball.
        """

    def release(self, x: Tensor, ball: Ball, share: float, uniform: Tensor) -> Tensor:
        """`x` with one block of each clip as it was in the clean clip; arguments as those of `change`."""
        where = uniform[:, : len(self.grid.axes)]
        mask = self.grid.place(self.grid.sides(share, self.least_side), where).mask()
        return torch.where(mask, ball.center, x)


class LinfProposals(Proposals):
    """Every sample is moved by the full radius, all of a block the same way (Andriushchenko et al. 2020, section 4.2).

    It starts with stripes: a random sign for each channel and position of the last axis.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.start_numbers = grid.channels * (grid.axes[-1].places.numel() if grid.axes else 1)
        self.numbers = len(grid.axes) + grid.channels + 1

    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        shape = [len(uniform), *[1] * len(self.grid.shape)]
        if self.grid.channels > 1:
            shape[1] = self.grid.channels
        if self.grid.axes:
            shape[self.grid.axes[-1].dim] = self.grid.axes[-1].places.numel()
        return ball.center + ball.step_radius * _signs(uniform).view(shape)

    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, others: Others) -> Tensor:
        where, colours, carrier = uniform.tensor_split((len(self.grid.axes), self.numbers - 1), dim=1)
        blocks = self.grid.place(self.grid.sides(share), where)
        moves = self.grid.per_channel(_signs(colours)) * ball.step_radius
        wave = blocks.wave(carrier.squeeze(1))
        if wave is not None:
            moves = moves * wave
        mask = blocks.mask()
        changed = ball.project(torch.where(mask, ball.center + moves, x))
        # A block that is so already would waste a query: it takes the other sign.
        same = per_clip((changed == x).flatten(1).all(dim=1), x)
        return torch.where(mask & same, ball.center - moves, changed)


class L2Proposals(Proposals):
    """The square of the length moves from one block to another, where two bumps are added (section 4.3 of the paper).

    It starts with a grid of such bumps, with random signs for each tile and channel. Beyond the paper, at half of the
    steps each, and by random numbers of their own: the giving block keeps a part of what it has; the bumps are lower
    than what they are added to; and the channels of a block share what they have by random weights. In the paper no
    channel ever gains on another, and no step is small.
    """

    least_side = 3

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        tiles = [-(-axis.steps // -(-axis.steps // TILES)) for axis in grid.axes]
        self.start_numbers = grid.channels * prod(tiles) + 2
        self.numbers = 2 * len(grid.axes) + grid.channels + 5

    def start(self, ball: Ball, uniform: Tensor) -> Tensor:
        grid = self.grid
        tiled = grid.tile(TILES, len(uniform))
        shape = [len(uniform), *[1] * len(grid.shape)]
        if grid.channels > 1:
            shape[1] = grid.channels
        counts = [-(-axis.steps // side) for axis, side in zip(grid.axes, tiled.sides, strict=True)]
        signs = _signs(uniform[:, :-2]).view(len(uniform), grid.channels, *counts)
        for number, (axis, side) in enumerate(zip(grid.axes, tiled.sides, strict=True)):
            shape[axis.dim] = axis.places.numel()
            signs = signs.index_select(number + 2, axis.places.clamp(min=0) // side)
        delta = (signs.reshape(shape) * _carried_bumps(tiled, uniform[:, -2:])).expand(ball.center.shape)
        delta = ball.unpadded(delta)
        return ball.center + delta * ball.step_radius / _lengths(delta).clamp(min=SMALLEST_LENGTH)

    def change(self, x: Tensor, ball: Ball, share: float, uniform: Tensor, others: Others) -> Tensor:
        grid, axes = self.grid, len(self.grid.axes)
        where, other, colours, form = uniform.tensor_split((axes, 2 * axes, 2 * axes + grid.channels), dim=1)
        receiving = grid.place(grid.sides(share, self.least_side), where)
        mask = receiving.mask()
        delta = relative(x, ball)
        inside = delta * mask
        gained = grid.channel_sums(inside.square())
        unused = 1 - delta.square().flatten(1).sum(dim=1)
        if others.spent is not None:
            unused = unused - others.spent
        if not others.given:
            giving = grid.place(receiving.sides, other).mask() & ~mask
            part = per_clip((2 * form[:, 0]).clamp(max=1), delta)
            gained = gained + grid.channel_sums((delta * giving).square() * part)
            delta = torch.where(giving, delta * (1 - part).sqrt(), delta)
        gained = gained + unused.clamp(min=0).unsqueeze(1) / grid.channels
        spread = gained.sum(dim=1, keepdim=True) * _shares(colours)
        gained = torch.where(form[:, 1:2] < 0.5, spread, gained)
        height = LOWEST_BUMPS ** (2 * form[:, 2] - 1).clamp(min=0)
        bumps = _carried_bumps(receiving, form[:, 3:]).expand_as(x)
        added = grid.per_channel(_signs(colours)) * self._unit(bumps) * per_clip(height, x)
        fresh = self._unit(added + self._unit(inside))
        filled = fresh * grid.per_channel(gained.sqrt())
        return ball.center + torch.where(mask, filled, delta) * ball.step_radius

    def _unit(self, x: Tensor) -> Tensor:
        """Each channel of each clip at length 1; 0 where it is 0."""
        size = self.grid.channel_sums(x.square()).sqrt()
        return x / self.grid.per_channel(size.clamp(min=SMALLEST_LENGTH))


def proposals_for(victim: BoundVictim) -> dict[str, Proposals]:
    """Those that suit each ball's norm, linf or l2, by attacked modality."""
    return {name: (L2Proposals if ball.smooth else LinfProposals)(Grid.of(ball)) for name, ball in victim.balls.items()}


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
    return per_clip(found, x)
