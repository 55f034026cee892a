"""Grids: the values that a file keeps of a modality, 16-bit samples of sound or 8 bits of a picture's colours."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from avrobust_core.data.media import MediaSpec

_ON: Final = 1e-4
"""A value this close to one of the grid's, in steps, is that one: float32 holds few of the 255ths exactly."""

GRID_TOLERANCE: Final = 1e-4
"""The share of a radius of a step or more by which a value of the grid that lies on its edge may seem to exceed it."""

_SIGNAL_HALF: Final = 2**15
_PICTURE_LEVELS: Final = 2**8 - 1


@dataclass(frozen=True, slots=True)
class Grid:
    """The values zero + k / levels * span for whole k from `first` to `last`.

    Attributes:
        zero, span: of the modality: pictures begin at the lower bound, signals lie about the middle of theirs.
        levels: steps in a span.
        first, last: the smallest and the largest k.
    """

    zero: float
    span: float
    levels: int
    first: int
    last: int

    def index(self, x: Tensor) -> Tensor:
        """The k of the value nearest to each of `x` (any shape): int64."""
        return self._position(x).round().clamp(self.first, self.last).long()

    def values(self, index: Tensor) -> Tensor:
        """The values of these k: float32, as they are read from a file."""
        return self._values(index.float())

    def nearest(self, x: Tensor) -> Tensor:
        """`x` as a file keeps it: float32, each value the nearest one of the grid."""
        return self.values(self.index(x))  # by whole numbers, which know no -0

    def towards(self, x: Tensor, clean: Tensor) -> Tensor:
        """`x` on the grid, no value further from `clean` than it was, where the grid has such a value.

        That is the value nearest to `x` among those between the two. Where there is none, it is the one nearest to
        `clean`: less than half a step from it.

        Args:
            x: any shape, float32.
            clean: of the same shape.
        """
        at, origin = self._position(x), self._position(clean)
        own = origin.round()
        origin = torch.where((origin - own).abs() < _ON, own, origin)
        found = torch.where(at > origin, (at + _ON).floor(), (at - _ON).ceil())
        between = torch.where(at > origin, found >= origin, found <= origin) & (at != origin)
        return self._values(torch.where(between, found, own).clamp_(self.first, self.last))

    def _position(self, x: Tensor) -> Tensor:
        return (x - self.zero) * (self.levels / self.span)

    def _values(self, index: Tensor) -> Tensor:
        shares = index / self.levels
        return shares if (self.zero, self.span) == (0, 1) else self.zero + self.span * shares


def grid_of(spec: MediaSpec) -> Grid | None:
    """The grid of a modality's files, by its shape; None if its bounds are not known.

    Signals of one axis beside their channels are 16-bit samples (PCM), whose largest is one step below the upper bound;
    all else is 8-bit colours.
    """
    if spec.bounds is None:
        return None
    low, high = spec.bounds
    if len(spec.shape) <= 2:
        return Grid((low + high) / 2, (high - low) / 2, _SIGNAL_HALF, -_SIGNAL_HALF, _SIGNAL_HALF - 1)
    return Grid(low, high - low, _PICTURE_LEVELS, 0, _PICTURE_LEVELS)
