"""Counts of misjudged mixtures, by class and by ratio."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float64]

BINS = 5
"""Bins of the heavier end's ratio, from 1/2 to 1."""


class Tally:
    """Counts of misjudged mixtures: by class of the heavier end, and by its ratio.

    What a tally was made from (`of`) it keeps apart: processes that go on from one state hold that in common, and their
    sum has it once.

    A mixture of two clips of one class fails where the model does not say that class: a failure of convexity. One of
    two classes fails where the model says neither. With several labels per clip, it fails where the model denies (logit
    below 0) a label that both ends have; where they share none it is not counted.

    Attributes:
        by_class: (K, 2) int64 tries and fails.
        by_ratio: (BINS, 2) int64 tries and fails.
    """

    def __init__(self, classes: int) -> None:
        self.by_class = torch.zeros(classes, 2, dtype=torch.int64)
        self.by_ratio = torch.zeros(BINS, 2, dtype=torch.int64)
        self._before = self.state_dict()

    def add(self, logits: Tensor, ratio: Tensor, first: Tensor, second: Tensor) -> None:
        """Count a batch of mixtures, on their device.

        Args:
            logits: (B, K).
            ratio: (B,) of the first end.
            first: targets of that end.
            second: those of the other.
        """
        self.by_class, self.by_ratio = self.by_class.to(logits.device), self.by_ratio.to(logits.device)
        if first.is_floating_point():
            shared = (first > 0.5) & (second > 0.5)
            failed = (shared & (logits < 0)).any(dim=1)
            counted = shared.any(dim=1)
            members = shared.long()
        else:
            said = logits.argmax(dim=1)
            failed = (said != first) & (said != second)
            counted = torch.ones_like(failed)
            members = F.one_hot(torch.where(ratio >= 0.5, first, second), len(self.by_class))
        outcomes = torch.stack([counted, counted & failed], dim=1).long()
        self.by_class += (members[:, :, None] * outcomes[:, None]).sum(dim=0)
        self.by_ratio.index_add_(0, bin_of(torch.maximum(ratio, 1 - ratio)), outcomes)

    def merge(self, others: Iterable["Tally"]) -> None:
        """The sum of all; this one included only if it is among them."""
        states = [(other.state_dict(), other._before) for other in others]
        self._before = {name: counts.clone() for name, counts in states[0][1].items()}
        self.by_class, self.by_ratio = (
            held + torch.stack([state[name] - before[name] for state, before in states]).sum(dim=0)
            for name, held in self._before.items()
        )

    def class_budget(self) -> Floats:
        """(1 + fails) / (2 + tries) of each class: (K,)."""
        return _rate(self.by_class)

    def ratio_budget(self) -> Floats:
        """The same of each bin of the ratio: (BINS,)."""
        return _rate(self.by_ratio)

    def state_dict(self) -> dict[str, Any]:
        """As tensors."""
        return {"by_class": self.by_class.cpu().clone(), "by_ratio": self.by_ratio.cpu().clone()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None) -> "Tally":
        """From a state, of which other processes hold `before` as well: by default all of it."""
        tally = cls(len(state["by_class"]))
        tally.by_class, tally.by_ratio = state["by_class"].clone(), state["by_ratio"].clone()
        tally._before = {name: counts.clone() for name, counts in (before or state).items()}
        return tally

    def __reduce__(self) -> tuple[Any, ...]:
        """Without a device, on its way to another process."""
        return Tally.of, (self.state_dict(), self._before)


def bin_of(heavier: Tensor) -> Tensor:
    """The bin of a heavier end's ratio in [1/2, 1]: int64."""
    return ((heavier - 0.5) * 2 * BINS).long().clamp(0, BINS - 1)


def _rate(counts: Tensor) -> Floats:
    tries, fails = counts.cpu().double().numpy().T
    return np.asarray((1 + fails) / (2 + tries))
