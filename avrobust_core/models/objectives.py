"""Correctness and the per-clip losses that training and attacks share, for single and multi-label."""

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core.data.media import Task


def classification_loss(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Cross-entropy (single-label), or binary cross-entropy averaged over classes (multi-label), per clip.

    Args:
        logits: (B, K) float.
        targets: (B,) int64, or (B, K) float: soft targets (single-label) or multi-hot (multi-label).
        task: decides the loss: soft targets and multi-hot targets look alike.

    Returns:
        (B,) float, not reduced, so that no clip depends on its batch mates.
    """
    if task == "multi-label":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


def own_classes(targets: Tensor, classes: int, task: Task) -> Tensor:
    """Each clip's own classes: (B, classes) bool.

    Args:
        targets: (B,) int64, or (B, classes) float (a class is the clip's own where it exceeds 0.5).
        classes: how many there are.
        task: decides what `targets` is.
    """
    return targets > 0.5 if task == "multi-label" else F.one_hot(targets, classes).bool()


def margin(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Best logit of the clip's own classes minus the best of all others: negative or zero means misclassified.

    Args:
        logits: (B, K) float; shifting all by a constant changes nothing.
        targets: (B,) int64, or (B, K) float multi-hot (a class is the clip's own where it exceeds 0.5).
        task: decides what `targets` is.

    Returns:
        (B,) float; +inf where a clip has every class, -inf where it has none.
    """
    own = own_classes(targets, logits.shape[1], task)
    best_own = logits.masked_fill(~own, -torch.inf).amax(dim=1)
    best_other = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return best_own - best_other


def correct(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Flag clips whose highest logit is of one of their own classes: (B,) bool. A tie is not correct.

    For several labels per clip this is the hit at rank one: it needs no threshold.
    """
    return margin(logits, targets, task) > 0
