"""Membership of reference rows in classes, asked for a tile of pairs at a time."""

import torch
from torch import Tensor


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
        """Tell which of the reference rows start to stop have each of the classes.

        Args:
            cls: (P,) classes.
            start: the first row.
            stop: the row after the last.

        Returns:
            (P, stop - start) bool; or True or False where that holds for the whole tile.
        """
        low, high = self._sorted[start], self._sorted[stop - 1]
        least, most = cls.aminmax()
        if bool(most < low) or bool(least > high):
            return False
        if bool(least == most) and bool(low == high):
            return True
        return cls.to(self._labels.device)[:, None] == self._labels[None, start:stop]

    def has(self, rows: Tensor, cls: Tensor) -> Tensor:
        """True for each of these reference rows that has the class beside it, (P,) bool."""
        return self._sorted[rows] == cls

    def counts(self, cls: Tensor) -> Tensor:
        """The number of reference rows that have each class, (P,) int64."""
        return torch.searchsorted(self._sorted, cls, right=True) - torch.searchsorted(self._sorted, cls)


class MultiLabel:
    """Reference rows of any number of classes each; answers as `SingleLabel` does.

    Args:
        labels: (M, K) bool.
        device: of the tiles.
    """

    def __init__(self, labels: Tensor, device: torch.device) -> None:
        self._labels = labels.cpu()
        self._has = labels.T.contiguous().to(device)

    def same(self, cls: Tensor, start: int, stop: int) -> Tensor | bool:
        """(P, stop - start) bool."""
        return self._has[:, start:stop].index_select(0, cls.to(self._has.device))

    def has(self, rows: Tensor, cls: Tensor) -> Tensor:
        """(P,) bool."""
        return self._labels[rows, cls]

    def counts(self, cls: Tensor) -> Tensor:
        """(P,) int64."""
        return self._labels.sum(dim=0)[cls]
