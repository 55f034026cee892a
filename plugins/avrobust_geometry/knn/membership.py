"""Membership of reference rows in classes, asked for a tile of pairs at a time."""

from typing import Protocol

import torch
from torch import Tensor


class Membership(Protocol):
    """Tells which reference rows have the classes of some pairs."""

    def same(self, cls: Tensor, start: int, stop: int) -> Tensor | bool:
        """Flag which of the reference rows from start to stop have each of the classes.

        Args:
            cls: (P,) classes.
            start: the first row.
            stop: the row after the last.

        Returns:
            (P, stop - start) bool; or True or False where that holds for the whole tile.
        """

    def counts(self, cls: Tensor) -> Tensor:
        """The number of reference rows that have each class, (P,) int64."""


class SingleLabel:
    """Reference rows of one class each, sorted by it, so that most tiles are of one answer.

    Args:
        labels: (M,) int64, ascending.
        device: of the tiles.
    """

    def __init__(self, labels: Tensor, device: torch.device) -> None:
        self._sorted = labels.cpu()
        self._labels = labels.to(device)

    def same(self, cls: Tensor, start: int, stop: int) -> Tensor | bool:
        low, high = self._sorted[start], self._sorted[stop - 1]
        least, most = cls.aminmax()
        if bool(most < low) or bool(least > high):
            return False
        if bool(least == most) and bool(low == high):
            return True
        return cls.to(self._labels.device)[:, None] == self._labels[None, start:stop]

    def counts(self, cls: Tensor) -> Tensor:
        return torch.searchsorted(self._sorted, cls, right=True) - torch.searchsorted(self._sorted, cls)


class MultiLabel:
    """Reference rows of any number of classes each.

    Args:
        labels: (M, K) bool.
        device: of the tiles.
    """

    def __init__(self, labels: Tensor, device: torch.device) -> None:
        self._has = labels.T.contiguous().to(device)
        self._totals = labels.sum(dim=0).cpu()

    def same(self, cls: Tensor, start: int, stop: int) -> Tensor | bool:
        return self._has[:, start:stop].index_select(0, cls.to(self._has.device))

    def counts(self, cls: Tensor) -> Tensor:
        return self._totals[cls]
