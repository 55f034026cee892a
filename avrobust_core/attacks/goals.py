"""Goals: what an attacker wants, and of each clip of a batch; how the labels of a targeted attack are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core.data.media import GoalName, Task
from avrobust_core.models.objectives import classification_loss, margin, own_classes
from avrobust_core.randomness import clip_generator
from avrobust_core.threats.clips import first_flagged


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of an attack run, for all clips.

    Attributes:
        name: see `GoalName`.
        target: the class's index, with `class`.
    """

    name: GoalName = "untargeted"
    target: int | None = None

    def __post_init__(self) -> None:
        if (self.name == "class") != (self.target is not None):
            raise ValueError(f"goal {self.name!r}: a target class belongs to the goal 'class', and only to it")

    @property
    def targeted(self) -> bool:
        """True if a class is aimed at."""
        return self.name != "untargeted"


@dataclass(frozen=True, slots=True)
class BatchGoal:
    """A goal, as it concerns the clips of a batch: away from their labels, or towards others.

    Attributes:
        labels: (B,) int64 or (B, K) float32 multi-hot: the clips' own (untargeted), or those wanted (targeted).
        task: decides what `labels` is.
        targeted: whether `labels` are wanted.
    """

    labels: Tensor
    task: Task
    targeted: bool = False

    def distance(self, logits: Tensor) -> Tensor:
        """The distance to the goal, in logits: (B,) float, differentiable; falls as the attack gets on.

        Untargeted: the margin, reached at 0. Targeted: minus the margin of the wanted labels, reached below 0.
        """
        found = margin(logits, self.labels, self.task)
        return -found if self.targeted else found

    def reached(self, logits: Tensor) -> Tensor:
        """Flag the clips that are where the attacker wants them: (B,) bool. A tie will do if untargeted."""
        distance = self.distance(logits)
        return distance < 0 if self.targeted else distance <= 0

    def loss(self, logits: Tensor) -> Tensor:
        """The classification loss that an attack raises, (B,): of the clips' labels, or minus that of those wanted."""
        found = classification_loss(logits, self.labels, self.task)
        return -found if self.targeted else found

    def own(self, logits: Tensor) -> Tensor:
        """The classes of `labels`, as a mask of the logits: (B, K) bool."""
        return own_classes(self.labels, logits.shape[1], self.task)

    def select(self, index: Tensor) -> "BatchGoal":
        """The goal of the clips at `index` (int64 positions)."""
        return BatchGoal(self.labels.index_select(0, index), self.task, self.targeted)


def batch_goal(goal: Goal, logits: Tensor, targets: Tensor, task: Task, ids: Sequence[str], seed: int) -> BatchGoal:
    """The goal of a batch.

    Args:
        goal: of the run.
        logits: (B, K) of the clean clips; only their shape counts, but for least-likely and runner-up.
        targets: the clips' own labels.
        task: decides what `targets` is.
        ids: the clips' ids.
        seed: of the classes drawn at random.

    Raises:
        ValueError: if every class is one of a clip's own, so that there is nothing to aim at, or if there is no such
            class as the one to aim at.
    """
    if not goal.targeted:
        return BatchGoal(targets, task)
    classes = logits.shape[1]
    own = own_classes(targets, classes, task)
    if goal.name == "class":
        assert goal.target is not None
        if not 0 <= goal.target < classes:
            raise ValueError(f"goal 'class': target {goal.target} is none of the {classes} classes, 0 to {classes - 1}")
        wanted = torch.full((len(ids),), goal.target, device=logits.device)
    else:
        full = own.all(dim=1)
        if full.any():
            raise ValueError(f"no class is left to aim at for {first_flagged(ids, full)}: they have every class")
        if goal.name == "random":
            scores = torch.stack([torch.rand(classes, generator=clip_generator(seed, i, "target")) for i in ids])
            scores = scores.to(logits.device)
        else:
            scores = -logits if goal.name == "least-likely" else logits
            scores = scores.clamp(min=torch.finfo(scores.dtype).min)  # a logit of -inf still goes before an own class
        wanted = scores.masked_fill(own, -torch.inf).argmax(dim=1)
    return BatchGoal(
        wanted if task == "single-label" else F.one_hot(wanted, classes).to(targets.dtype), task, targeted=True
    )
