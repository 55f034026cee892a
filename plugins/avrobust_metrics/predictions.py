"""The classes of clips, whatever the task."""

import numpy as np
from numpy.typing import NDArray

from avrobust_core import Subject


def own_classes(subject: Subject) -> NDArray[np.bool_]:
    """The classes that each clip has: (N, K) bool, one per clip where the task is single-label."""
    if subject.task == "multi-label":
        return np.asarray(subject.targets > 0.5)
    return np.asarray(subject.targets[:, None] == np.arange(subject.logits.shape[1]))
