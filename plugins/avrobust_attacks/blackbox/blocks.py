"""Blocks: contiguous parts of clips of any rank, placed at random, one per clip, without a loop over clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core import Ball

CHANNELS_AT_MOST = 4
"""A clip of rank 2 is a waveform (channels, time) if its first axis is no longer than this, else a matrix."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis that blocks extend over.

    Attributes:
        dim: its number in a batch (B, ...).
        steps: how many of its positions may change.
        places: (n,) int64, the number of each position among those that may change; -steps for the others.
        own: (B, 1) int64, how many of its positions may change in each clip, where some are padded; else None.
    """

    dim: int
    steps: int
    places: Tensor
    own: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """The channels and axes of one modality's clips, in which blocks lie.

    The first axis of a clip holds the channels: each has a sign of its own. The exceptions are clips of rank 1, and
    matrices such as (frames, features), which have no channels. Blocks extend over all other axes; where the
    perturbation must be the same at all steps of time, over all of time.

    In a padded clip they lie in the part that is its own, and are as long as in a whole clip, as far as it reaches.

    Attributes:
        shape: of one clip.
        channels: with signs of their own; 1 where there is no channel axis.
        axes: that blocks extend over, in order; may be empty.
        frames: which steps of time may change, bool, shaped to broadcast, where blocks extend over all of time; else
            None.
    """

    shape: tuple[int, ...]
    channels: int
    axes: tuple[Axis, ...]
    frames: Tensor | None

    @classmethod
    def of(cls, ball: Ball) -> "Grid":
        """The grid of the clips of a ball."""
        center, time = ball.center, ball.time
        shape = tuple(center.shape[1:])
        has_channels = len(shape) >= 3 or (len(shape) == 2 and shape[0] <= CHANNELS_AT_MOST)
        axes = []
        for dim in range(2 if has_channels else 1, center.dim()):
            places = torch.arange(center.shape[dim], device=center.device)
            steps, own = center.shape[dim], None
            if time is not None and dim == time.axis:
                if time.invariant:
                    continue
                steps, counts = time.steps, time.counts
                own = counts.unsqueeze(1) if isinstance(counts, Tensor) else None
                if time.frames is not None:
                    places = torch.where(time.frames, time.frames.cumsum(0) - 1, -steps)
            axes.append(Axis(dim, steps, places, own))
        frames = None
        if time is not None and time.invariant and time.partial:
            frames = time.free(center)
        return cls(shape, shape[0] if has_channels else 1, tuple(axes), frames)

    def sides(self, share: float, least: int = 1) -> tuple[int, ...]:
        """The lengths of a block that covers a share of the samples, at least so many steps along each axis.

        Every axis is covered to the same share, as far as that goes in whole steps: what the shorter axes cover too
        much or too little of, the longer ones make good.
        """
        found = [0] * len(self.axes)
        for number, index in enumerate(sorted(range(len(found)), key=lambda i: self.axes[i].steps)):
            steps = self.axes[index].steps
            found[index] = min(max(round(steps * share ** (1 / (len(found) - number))), least), steps)
            share = min(share * steps / found[index], 1.0)
        return tuple(found)

    def place(self, sides: Sequence[int], uniform: Tensor) -> "Blocks":
        """Blocks of these lengths, one per clip.

        Args:
            sides: along each axis.
            uniform: (B, axes), from [0, 1): where they lie.
        """
        within = []
        lengths: list[int | Tensor] = []
        for number, (axis, side) in enumerate(zip(self.axes, sides, strict=True)):
            steps: int | Tensor = axis.steps if axis.own is None else axis.own
            length: int | Tensor = side if axis.own is None else axis.own.clamp(max=side)
            first = (uniform[:, number : number + 1] * (steps - length + 1)).long()
            within.append(axis.places - first)
            lengths.append(length)
        return Blocks(self, tuple(sides), tuple(lengths), tuple(within), len(uniform))

    def tile(self, most: int, clips: int) -> "Blocks":
        """All clips cut into equal blocks, at most so many along each axis; `within` starts anew in each of them."""
        sides = tuple(-(-axis.steps // most) for axis in self.axes)
        within = tuple(
            torch.where(axis.places < 0, axis.places, axis.places % side).expand(clips, -1)
            for axis, side in zip(self.axes, sides, strict=True)
        )
        return Blocks(self, sides, sides, within, clips)

    def along(self, axis: Axis, values: Tensor) -> Tensor:
        """(B, n) values at the positions of an axis, shaped to broadcast over clips."""
        shape = [len(values), *[1] * len(self.shape)]
        shape[axis.dim] = values.shape[1]
        return values.view(shape)

    def per_channel(self, values: Tensor) -> Tensor:
        """(B, channels) values shaped to broadcast over clips."""
        if self.channels == 1:
            return values.view(-1, *[1] * len(self.shape))
        return values.view(*values.shape, *[1] * (len(self.shape) - 1))

    def channel_sums(self, x: Tensor) -> Tensor:
        """The sum of each channel of each clip: (B, channels)."""
        return x.flatten(1).sum(dim=1, keepdim=True) if self.channels == 1 else x.flatten(2).sum(dim=2)


@dataclass(frozen=True, slots=True)
class Blocks:
    """One block in each clip.

    Attributes:
        grid: of the clips.
        sides: along each axis, in a clip that is not padded.
        lengths: the same in each clip: a number, or (B, 1) int64.
        within: for each axis, (B, n) int64 positions inside the block, from 0; negative or beyond the side outside.
        clips: B.
    """

    grid: Grid
    sides: tuple[int, ...]
    lengths: tuple[int | Tensor, ...]
    within: tuple[Tensor, ...]
    clips: int

    def mask(self) -> Tensor:
        """Flag the samples in their clip's block: bool, shaped to broadcast over channels."""
        device = self.within[0].device if self.within else None
        found = torch.ones((self.clips, *[1] * len(self.grid.shape)), dtype=torch.bool, device=device)
        for axis, side, within in zip(self.grid.axes, self.lengths, self.within, strict=True):
            found = found & self.grid.along(axis, (within >= 0) & (within < side))
        return found if self.grid.frames is None else found & self.grid.frames

    def wave(self, uniform: Tensor) -> Tensor | None:
        """A square wave over each block along its only axis: its half period log-uniform from 1 to the block's length.

        Signals of one axis are carried by oscillations: a block of one sign is a constant offset, which no filter bank
        sees. None where blocks have more than one axis, or none.

        Args:
            uniform: (B,), from [0, 1): the half period.
        """
        if len(self.grid.axes) != 1:
            return None
        length = self.lengths[0]
        longest = length.clamp(min=1).float() if isinstance(length, Tensor) else float(length)
        half = (longest ** uniform.unsqueeze(1)).round().long()
        up = (self.within[0].clamp(min=0) // half) % 2 == 0
        return self.grid.along(self.grid.axes[0], torch.where(up, 1.0, -1.0))

    def bumps(self, uniform: Tensor) -> Tensor:
        """Two neighbouring bumps of opposite sign that fill the block: float, shaped to broadcast; 0 outside.

        As in section 4.3 of the paper: each falls from its centre with the largest distance d along any axis, as the
        sum of 1 / (k + 1)^2 over k >= d.

        Args:
            uniform: (B,), from [0, 1): the axis along which the two are neighbours.
        """
        inside = self.mask()
        if not self.within:
            return inside.float()
        split = (uniform * len(self.within)).long().unsqueeze(1)
        furthest = max(self.sides)
        distance = torch.zeros((), dtype=torch.int64, device=inside.device)
        sign = torch.ones((), device=inside.device)
        for number, (axis, side) in enumerate(zip(self.grid.axes, self.lengths, strict=True)):
            within, first = self.within[number], side // 2
            halved = (split == number) & (side > 1)
            second = halved & (within >= first)
            centre = torch.where(halved, torch.where(second, first + (side - first) // 2, first // 2), side // 2)
            apart = self.grid.along(axis, (within - centre).abs().clamp(max=furthest))
            distance = torch.maximum(distance, apart)
            sign = sign * self.grid.along(axis, torch.where(second, -1.0, 1.0))
        return _falling(furthest, inside.device)[distance] * sign * inside


def _falling(furthest: int, device: torch.device) -> Tensor:
    """Sums of 1 / (k + 1)^2 over k from d to `furthest`, for d from 0 to `furthest`."""
    steps = 1 / torch.arange(1, furthest + 2, dtype=torch.float32, device=device) ** 2
    return steps.flip(0).cumsum(0).flip(0)
