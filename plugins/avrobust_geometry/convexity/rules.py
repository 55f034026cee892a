"""Rules for when a point is of a class: the highest logit, or a logit above the class's own threshold."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.inputs import Floats


class Highest:
    """Single-label: the class's logit exceeds all others; a tie is outside."""

    def margins(self, logits: Tensor, cls: Tensor) -> Tensor:
        """The margins in logits by which points lie inside their classes: (B,), from (B, K) and (B,) int64."""
        column = cls.unsqueeze(1)
        own = logits.gather(1, column).squeeze(1)
        return own - logits.scatter(1, column, -torch.inf).amax(dim=1)

    def holds(self, margins: Floats) -> NDArray[np.bool_]:
        """True for points with these margins that are of their class."""
        return np.asarray(margins > 0)


class AtLeast:
    """A score reaches the class's own threshold: the logit, or the class's log-odds under the softmax.

    Args:
        thresholds: (K,); NaN for a class that no point is of.
        softmax: whether scores are log(p / (1 - p)) under the softmax, for logits that may all be shifted.
    """

    def __init__(self, thresholds: Floats, *, softmax: bool = False) -> None:
        self.thresholds = torch.from_numpy(np.asarray(thresholds, dtype=np.float64))
        self._softmax = softmax

    def margins(self, logits: Tensor, cls: Tensor) -> Tensor:
        """As those of `Highest`."""
        column = cls.unsqueeze(1)
        score = logits.gather(1, column).squeeze(1).double()
        if self._softmax:
            score = score - logits.double().scatter(1, column, -torch.inf).logsumexp(dim=1)
        return score - self.thresholds.to(cls.device)[cls]

    def holds(self, margins: Floats) -> NDArray[np.bool_]:
        """As `Highest`'s."""
        return np.asarray(margins >= 0)


Rule = Highest | AtLeast
"""Tells from logits if points are of a class."""


def best_thresholds(logits: NDArray[np.floating], own: NDArray[np.bool_]) -> Floats:
    """For each class the threshold at which "logit >= threshold" has the highest F1: (K,).

    It lies half-way between two neighbouring logits, and just at the lowest where all clips are best taken for the
    class. Of equally good ones the highest is taken. NaN for a class that no clip has.

    Args:
        logits: (N, K), finite.
        own: (N, K), each clip's classes.
    """
    found = np.full(logits.shape[1], np.nan)
    for c in np.flatnonzero(own.any(axis=0)):
        order = np.argsort(-logits[:, c], kind="stable")
        scores = logits[order, c].astype(np.float64)
        hits = np.cumsum(own[order, c])
        taken = np.arange(1, len(scores) + 1)
        f1 = 2 * hits / (taken + hits[-1])
        # A cut between equal logits is none.
        f1[:-1][scores[1:] == scores[:-1]] = -1
        cut = int(f1.argmax())
        found[c] = scores[cut] if cut + 1 == len(scores) else (scores[cut] + scores[cut + 1]) / 2
    return found
