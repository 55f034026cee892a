"""The losses that gradient attacks raise: per clip, for every goal, with a gradient where the model is sure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import BatchGoal

Loss = Callable[[Tensor, BatchGoal], Tensor]
"""From logits (B, K) and the goal to a loss per clip (B,), which rises as the attack gets on."""

SMALLEST_SPREAD = 1e-12
"""Below this, the logits that DLR divides by are all the same."""


def cross_entropy(logits: Tensor, goal: BatchGoal) -> Tensor:
    """Cross-entropy in a form that does not saturate.

    Single-label: the log-odds against the clip's class, log((1 - p) / p). It rises with the cross-entropy
    -log(p) = softplus(log-odds), so each clip's gradient has the same direction; but the cross-entropy's own gradient
    rounds to 0 (in the clip's own logit) once p rounds to 1 in float32, at a margin of about 17.
    Multi-label: binary cross-entropy averaged over classes, written so that each class keeps its gradient.
    Targeted: minus the same of the wanted labels.

    Args:
        logits: (B, K) float; shifting all of a single-label clip's logits changes nothing.
        goal: the attacker's.

    Returns:
        (B,) float.
    """
    labels = goal.labels
    if goal.task == "multi-label":
        loss = (labels * F.softplus(-logits) + (1 - labels) * F.softplus(logits)).mean(dim=1)
    else:
        own = labels.unsqueeze(1)
        loss = logits.scatter(1, own, -torch.inf).logsumexp(dim=1) - logits.gather(1, own).squeeze(1)
    return -loss if goal.targeted else loss


def negative_margin(logits: Tensor, goal: BatchGoal) -> Tensor:
    """Minus the distance to the goal, in logits: the best other logit minus the best of the clip's own, if untargeted.

    A multi-label clip that has no class, or every class, has no margin: its loss is 0 and has no gradient, so that
    it stays as it is.

    Args:
        logits: (B, K) float; shifting all of a clip's logits changes nothing.
        goal: the attacker's.

    Returns:
        (B,) float.
    """
    loss = -goal.distance(logits)
    return loss if goal.task == "single-label" else loss.masked_fill(_without_margin(goal.own(logits)), 0.0)


def difference_of_logits_ratio(logits: Tensor, goal: BatchGoal) -> Tensor:
    """The margin over a spread of the logits, so that neither a shift nor a scale of them changes it (DLR).

    Croce and Hein, ICML 2020. Untargeted with one label, the spread is from the highest logit to the third (eq. 6).
    Where the logit that is raised may itself be the third, that would be a ratio of 1 without a gradient: targeted, and
    with several labels, it is from the highest to the mean of the third and the fourth (eq. 7). With fewer
    than three (four) classes there is no such logit: the margin alone is returned.

    Args:
        logits: (B, K) float.
        goal: the attacker's.

    Returns:
        (B,) float.
    """
    loss = negative_margin(logits, goal)
    if goal.targeted or goal.task == "multi-label":
        return _over_wide_spread(loss, logits)
    if logits.shape[1] < 3:
        return loss
    top = logits.topk(3, dim=1).values
    return loss / (top[:, 0] - top[:, 2]).clamp(min=SMALLEST_SPREAD)


def _without_margin(own: Tensor) -> Tensor:
    """Flag clips that have no class or every class, of a mask (B, K): (B,) bool."""
    return own.all(dim=1) | ~own.any(dim=1)


def _over_wide_spread(loss: Tensor, logits: Tensor) -> Tensor:
    """A difference of logits over the one from the highest to the mean of the third and the fourth, if there is one."""
    if logits.shape[1] < 4:
        return loss
    top = logits.topk(4, dim=1).values
    return loss / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp(min=SMALLEST_SPREAD)


@dataclass(frozen=True, slots=True)
class TowardsClass:
    """The DLR towards one class per clip (Croce and Hein, ICML 2020, eq. 7): its logit less the best of the clip's own.

    That is taken over the spread from the highest logit to the mean of the third and the fourth. With fewer than four
    classes there is no fourth: the difference alone is returned.

    Attributes:
        classes: (B,) int64, the class aimed at for each clip: none of its own.
    """

    classes: Tensor

    def __call__(self, logits: Tensor, goal: BatchGoal) -> Tensor:
        """As every `Loss`."""
        own = goal.own(logits)
        best_own = logits.masked_fill(~own, -torch.inf).amax(dim=1)
        loss = logits.gather(1, self.classes.unsqueeze(1)).squeeze(1) - best_own
        if goal.task == "multi-label":  # as in `negative_margin`
            loss = loss.masked_fill(_without_margin(own), 0.0)
        return _over_wide_spread(loss, logits)

    def select(self, index: Tensor) -> "TowardsClass":
        """The loss of the clips at `index` (int64 positions)."""
        return TowardsClass(self.classes.index_select(0, index))


def mean_rank(logits: Tensor, goal: BatchGoal) -> Tensor:
    """A smooth mean rank of the clip's own labels among all: what average precision looks at, not the best alone.

    The mean of softplus(other - own) over all pairs of an own and another label (the logistic bound on the share of
    pairs in wrong order). Targeted: minus the same of the wanted labels. 0 where a clip has no pair.

    Args:
        logits: (B, K) float; shifting all of a clip's logits changes nothing.
        goal: the attacker's.

    Returns:
        (B,) float.
    """
    own = goal.own(logits)
    pairs = own.unsqueeze(2) & ~own.unsqueeze(1)  # (B, own, other)
    apart = F.softplus(logits.unsqueeze(1) - logits.unsqueeze(2)).masked_fill(~pairs, 0)
    loss = apart.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)
    return -loss if goal.targeted else loss


def reach(logits: Tensor, goal: BatchGoal) -> Tensor:
    """With one label the cross-entropy; with several, the margin until the goal is reached, then the cross-entropy.

    The hit at rank one falls to the margin, the ranking behind it (average precision) to the cross-entropy: one after
    the other, both fall further than to either alone. It rises throughout: the margin's part is below 0, the other is
    not. A clip without a margin (it has no class, or every class) has the cross-entropy alone.

    Args:
        logits: (B, K) float.
        goal: the attacker's.

    Returns:
        (B,) float.
    """
    if goal.task == "single-label":
        return cross_entropy(logits, goal)
    settled = goal.reached(logits) | _without_margin(goal.own(logits))
    beyond = cross_entropy(logits, goal)
    beyond = 1 / (1 - beyond) if goal.targeted else beyond
    return torch.where(settled, beyond, negative_margin(logits, goal))


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "reach": reach,
        "ce": cross_entropy,
        "margin": negative_margin,
        "dlr": difference_of_logits_ratio,
        "rank": mean_rank,
    }
)
"""Each loss by its name in a configuration."""
