"""The distance to the goal as the searches for the smallest perturbation lower it: smooth over classes."""

import torch
from torch import Tensor

from avrobust_core import Goal


def softened(logits: Tensor, goal: Goal, sharpness: Tensor) -> Tensor:
    """The distance to the goal with the highest of the other logits replaced by a smooth one, in logits: (B,).

    The plain distance pulls towards one class only, and changes its mind from step to step: smooth, it falls towards
    wherever many classes are near, as the cross-entropy does, which ends in better minima. The sharper it is, the
    nearer to the plain one.

    Args:
        logits: (B, K).
        goal: the attacker's.
        sharpness: (B,), over one logit: 1 is the cross-entropy's.
    """
    best = own_logit(logits, goal)
    others = (logits * sharpness.unsqueeze(1)).masked_fill(own_classes(goal, logits), -torch.inf).logsumexp(
        dim=1
    ) / sharpness
    return others - best if goal.targeted else best - others


def own_logit(logits: Tensor, goal: Goal) -> Tensor:
    """The highest logit among the goal's own classes, (B,): an untargeted one lowers it, a targeted one raises it."""
    return logits.masked_fill(~own_classes(goal, logits), -torch.inf).amax(dim=1)


def own_classes(goal: Goal, logits: Tensor) -> Tensor:
    """Which of the logits (B, K) are the goal's own classes, (B, K) bool."""
    if goal.task == "multi-label":
        return goal.labels > 0.5
    return torch.nn.functional.one_hot(goal.labels, logits.shape[1]).bool()
