"""Accuracy: is the highest logit, or one of the k highest, of the right class?"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from avrobust_core import AvrobustError, Measurement, Metric, Subject, share
from avrobust_metrics.configs import AccuracyConfig
from avrobust_metrics.predictions import own_classes


class Accuracy(Metric):
    """Top-k accuracy (single-label) or hit at rank one (multi-label), with intervals over clips, or groups of them.

    Single-label: a clip counts for "top-k" if fewer than k other classes have a logit at least as high as its own
    class's: a tie counts against the clip, as it does for an attack. Per class: "recall", the top-1 accuracy of the
    class's clips. Multi-label: a clip counts for "hit@1" if its highest logit is of one of its own classes (no
    threshold is needed); per class: the share of hits among the clips that have the class.

    Args:
        config: each k; those not below the number of classes are left out.
    """

    under_attack: ClassVar[bool] = True

    def __init__(self, config: AccuracyConfig) -> None:
        self.top = config.top

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if every k is left out.
        """
        own = own_classes(subject)
        rank = _rank(subject.logits, own)
        if subject.task == "multi-label":
            hits, per_class = {"hit@1": rank < 1}, "hit@1"
        else:
            hits, per_class = {f"top-{k}": rank < k for k in self._below(len(subject.classes))}, "recall"
        return Measurement(
            values={
                name: share(hit, confidence=subject.confidence, groups=subject.groups) for name, hit in hits.items()
            },
            per_class={
                per_class: {
                    name: float((rank[own[:, c]] < 1).mean()) if own[:, c].any() else float("nan")
                    for c, name in enumerate(subject.classes)
                }
            },
        )

    def _below(self, classes: int) -> list[int]:
        kept = [k for k in self.top if k < classes]
        if not kept:
            raise AvrobustError(
                f"metric 'accuracy': top: {list(self.top)} leaves nothing to measure, because the data set has only "
                f"{classes} classes; name a k below {classes}"
            )
        return kept


def _rank(logits: NDArray[np.float32], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of other classes at least as high as the best of the clip's own: (N,); K where it has none."""
    best = np.where(own, logits, -np.inf).max(axis=1)
    rank = ((logits >= best[:, None]) & ~own).sum(axis=1)
    return np.asarray(np.where(own.any(axis=1), rank, logits.shape[1]))
