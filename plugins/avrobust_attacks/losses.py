"""The losses that gradient attacks raise: per clip, and with a gradient where the model is confident."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Task, margin

Loss = Callable[[Tensor, Tensor, Task], Tensor]
"""From logits (B, K), targets and task to a loss per clip (B,)."""


def cross_entropy(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Cross-entropy in a form that does not saturate.

    Single-label: the log-odds against the clip's class, log((1 - p) / p). It rises with the cross-entropy
    -log(p) = softplus(log-odds), so each clip's gradient has the same direction; but the cross-entropy's own gradient
    rounds to 0 (in the clip's own logit) once p rounds to 1 in float32, at a margin of about 17.
    Multi-label: binary cross-entropy averaged over classes, written so that each class keeps its gradient.

    Args:
        logits: (B, K) float; shifting all of a single-label clip's logits changes nothing.
        targets: (B,) int64, or (B, K) float multi-hot.
        task: decides what `targets` is.

    Returns:
        (B,) float.
    """
    if task == "multi-label":
        return (targets * F.softplus(-logits) + (1 - targets) * F.softplus(logits)).mean(dim=1)
    own = targets.unsqueeze(1)
    others = logits.scatter(1, own, -torch.inf)
    return others.logsumexp(dim=1) - logits.gather(1, own).squeeze(1)


def negative_margin(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """The best other logit minus the best of the clip's own classes: positive means misclassified.

    A multi-label clip that has no class, or every class, has no margin: its loss is 0 and has no gradient, so that
    it stays as it is.

    Args:
        logits: (B, K) float; shifting all of a clip's logits changes nothing.
        targets: (B,) int64, or (B, K) float multi-hot.
        task: decides what `targets` is.

    Returns:
        (B,) float.
    """
    loss = -margin(logits, targets, task)
    if task == "multi-label":
        own = targets > 0.5
        loss = loss.masked_fill(own.all(dim=1) | ~own.any(dim=1), 0.0)
    return loss


LOSSES: Mapping[str, Loss] = MappingProxyType({"ce": cross_entropy, "margin": negative_margin})
"""Each loss by its name in a configuration."""
