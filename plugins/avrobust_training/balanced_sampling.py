"""Balanced sampling: clips of rare classes are drawn more often."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import Augmentation, DataError, TrainingStep, derive_seed
from avrobust_training.configs import BalancedSamplingConfig


class BalancedSampling(Augmentation):
    """Draws each epoch's clips with replacement, with the weights usual for AudioSet (Gong et al. 2021, PSLA).

    A clip's weight is the sum over its labels of 1000 / (n + 0.01), n being the number of training clips with the
    label. An epoch has as many clips as without; some come several times, others not at all.

    Args:
        config: of `balanced-sampling`.
    """

    def __init__(self, config: BalancedSamplingConfig) -> None:
        self.config = config
        self._weights: tuple[tuple[str, ...], NDArray[np.float64]] | None = None

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64]:
        """(n,) positions of the clips that are drawn.

        Raises:
            DataError: if the data set does not know its labels before its media are read.
        """
        if self._weights is None or set(self._weights[0]) != set(clips):
            names = tuple(sorted(set(clips)))
            labels = step.labels(names)
            if labels is None:
                raise DataError(
                    "balanced-sampling: this data set does not state its labels (Dataset.label_matrix): leave it out"
                )
            self._weights = names, clip_weights(labels)
        names, weights = self._weights
        rng = np.random.default_rng(derive_seed(step.seed, "balanced-sampling", step.epoch))
        place = {clip: position for position, clip in enumerate(clips)}
        drawn = rng.choice(len(names), size=len(clips), p=weights / weights.sum())
        return np.array([place[names[i]] for i in drawn], np.int64)


def clip_weights(labels: Any) -> NDArray[np.float64]:
    """The weight of each clip.

    Args:
        labels: (n, K) sparse, zeros and ones.
    """
    counts = np.asarray(labels.sum(axis=0), np.float64).ravel()
    weights: NDArray[np.float64] = np.asarray(labels @ (1000.0 / (counts + 0.01)), np.float64)
    return weights
