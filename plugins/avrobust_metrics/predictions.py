"""What every metric here asks of the predictions before it measures them."""

import numpy as np
from numpy.typing import NDArray

from avrobust_core import AvrobustError, Subject, first_of


def require_finite(metric: str, subject: Subject) -> None:
    """Refuse logits that are not finite: compared with anything they are false, and would count as whatever suits.

    Args:
        metric: its name, for the error.
        subject: whose logits to check.

    Raises:
        AvrobustError: names the clips.
    """
    broken = ~np.isfinite(subject.logits).all(axis=1)
    if broken.any():
        names = first_of(subject.ids[i] for i in np.flatnonzero(broken))
        raise AvrobustError(
            f"metric {metric!r}: the model's logits are not finite for {names}; "
            "look at the model's training (did its loss become NaN?) or at these clips"
        )


def own_classes(subject: Subject) -> NDArray[np.bool_]:
    """Which classes each clip has: (N, K) bool, one per clip where the task is single-label."""
    if subject.task == "multi-label":
        return np.asarray(subject.targets > 0.5)
    own = np.zeros(subject.logits.shape, dtype=np.bool_)
    own[np.arange(len(own)), subject.targets] = True
    return own
