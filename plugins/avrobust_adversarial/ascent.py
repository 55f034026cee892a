"""The inner maximisation: some steps of steepest ascent, of which the last iterate is taken."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Attack, AttackResult, BatchGoal, BoundVictim, joint_gradient, leaves_of

Objective = Callable[[Tensor], Tensor]
"""From logits (B, K) to what is raised, (B,)."""


class LastIterate(Attack):
    """Projected gradient ascent as training uses it (Madry et al. 2018, arXiv 1706.06083, section 2).

    Every clip is moved at every step, one that is misclassified already too: the aim is the highest loss, where an
    attack for evaluation stops at the first success. That costs one forward and one backward pass per step and clip,
    and nothing more: the last iterate is not looked at, and `success` is False throughout.

    Args:
        steps: gradient steps.
        step_size: length of each as a share of each modality's radius.
        random_start: from a point drawn from the region, from the clip's own random numbers; else from the clean clip.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, steps: int, step_size: float, *, random_start: bool = True) -> None:
        self.steps = steps
        self.step_size = step_size
        self.random_start = random_start

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if no gradient reaches the attacked modalities.
        """
        start = drawn(victim) if self.random_start else victim.clean
        x = ascend(victim, label_loss(victim.goal), start, steps=self.steps, step_size=self.step_size)
        return AttackResult(x, unknown(victim))


def ascend(
    victim: BoundVictim, objective: Objective, start: Mapping[str, Tensor], *, steps: int, step_size: float
) -> dict[str, Tensor]:
    """Steps of steepest ascent, each projected onto the region: the last iterate, by attacked modality.

    Args:
        victim: the clips.
        objective: to be raised.
        start: inside the region; not changed.
        steps: their number.
        step_size: of each, in the region's size.

    Raises:
        AvrobustError: if no gradient reaches the attacked modalities.
    """
    x = dict(start)
    for _ in range(steps):
        x = victim.region.project(victim.region.step(x, gradients(victim, objective, x), step_size))
    return x


def gradients(victim: BoundVictim, objective: Objective, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each clip's objective at `x`, by attacked modality: one forward and one backward pass.

    Raises:
        AvrobustError: if the logits do not depend on any of them.
    """
    leaves = leaves_of(x)
    with torch.enable_grad():
        raised = objective(victim(leaves))
    return joint_gradient(raised, leaves)


def drawn(victim: BoundVictim) -> dict[str, Tensor]:
    """A random point of the region, each clip's from its own random numbers."""
    return victim.sample("start")


def unknown(victim: BoundVictim) -> Tensor:
    """The success of clips whose last iterate was not looked at: (B,) bool, False."""
    return torch.zeros(len(victim), dtype=torch.bool, device=victim.device)


def label_loss(goal: BatchGoal) -> Objective:
    """The classification loss of the clips' labels, in a form whose gradient does not vanish where the model is sure.

    Single-label: the log-odds against the label, which rise with the cross-entropy. The gradient has the same direction
    for each clip, and so the same steps; but where the label's probability rounds to 1 the cross-entropy's own is 0,
    and a clip that the model is sure of would not be attacked at all. Multi-label: binary cross-entropy, averaged over
    classes, by softplus of the logits for the same reason; targets may be soft.
    """
    labels = goal.labels

    def raised(logits: Tensor) -> Tensor:
        if goal.task == "multi-label":
            terms = torch.lerp(F.softplus(logits), F.softplus(-logits), labels.to(logits.dtype))
            return terms.mean(dim=1)
        picked = labels.unsqueeze(1)
        others = logits.scatter(1, picked, -torch.inf)
        return others.logsumexp(dim=1) - logits.gather(1, picked).squeeze(1)

    return raised
