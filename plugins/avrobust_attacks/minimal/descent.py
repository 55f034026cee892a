"""One descent of `cw`: Adam from a given point, until each clip leaves it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from avrobust_attacks.held import select_held
from avrobust_attacks.minimal.search import Scored, SmallestSuccess
from avrobust_core import Inputs, select_inputs

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
"""Decay of Adam's moments (Kingma and Ba, arXiv 1412.6980)."""

LAST_RATE = 0.02
"""The last learning rate as a share of the first."""


class Descent(ABC):
    """Base of `Penalty` and `Shrinking`.

    Args:
        search: what is worked on; each step is scored there.
        x: the start, (b, ...) by modality.
    """

    def __init__(self, search: SmallestSuccess, x: Inputs) -> None:
        self._search = search
        self._rows = torch.arange(len(search.positions), device=search.positions.device)
        self._x = dict(x)  # the present point
        self._last = dict(x)  # of all clips that this descent began with; all else is of those that it goes on with
        self._reached = torch.zeros_like(self._rows, dtype=torch.bool)
        self._steps = 0

    def climb(self, share: float) -> tuple[Scored, dict[str, Tensor]]:
        """Score the present point, and count the step: see `SmallestSuccess.climb`."""
        scored, gradients = self._search.climb(self._x, share, confined=True)
        self._reached |= scored.reached
        self._steps += 1
        return scored, gradients

    @abstractmethod
    def step(self, share: float, learning_rate: float) -> None:
        """Score the present point, and take one step of Adam.

        Args:
            share: of all descents that is done.
            learning_rate: at share 0.
        """

    def select(self, kept: Tensor) -> None:
        """Go on with the clips at `kept` (int64 places among those of until now)."""
        gone = torch.ones_like(self._rows, dtype=torch.bool).index_fill_(0, kept, False).nonzero().squeeze(1)
        self.leave(gone)
        select_held(self, kept, but=("_last",))

    def end(self, everyone: Tensor) -> dict[str, Tensor]:
        """Score the last point, and give the next descent its start: the smallest success, or else the last point.

        Args:
            everyone: (B,) int64, the positions of all clips of `x`.
        """
        if len(self._rows):
            self._reached |= self._search.score(self._x, 1.0).reached
        self.leave(torch.arange(len(self._rows), device=self._rows.device))
        return self._search.best_or(everyone, self._last)

    def leave(self, places: Tensor) -> None:
        """Keep the present points of the clips at `places` (int64), which leave."""
        rows, x = self._rows[places], select_inputs(self._x, places)
        self._last = {name: last.index_copy(0, rows, x[name]) for name, last in self._last.items()}
