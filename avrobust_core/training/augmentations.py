"""What a training augmentation is: it may choose the clips of an epoch, change batches, encodings and losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.data.media import MediaSpec, Task

Gather = Callable[[Any], list[Any]]
"""From this process's object to those of all processes, in the order of their ranks; every process must call it."""


@dataclass(slots=True)
class Cost:
    """Passes through the model, in clips: one clip through the whole model once is one forward.

    The training loop counts its own; an augmentation adds what it spends beside.

    Attributes:
        forwards: forward passes.
        backwards: backward passes.
    """

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """Where training stands when an augmentation is called.

    Attributes:
        epoch: from 0.
        seed: of this fit; draw random numbers with `clip_generator(seed, clip_id, f"{purpose}/{epoch}")`.
        model: the model in training mode; an `AVModel` in every study.
        classes: K.
        task: decides what targets look like.
        epochs: how many there will be.
        replay: from 0: how often this very batch was learned from before; see `Augmentation.replays`.
        media: what each modality is; its bounds hold for what is learned from, too.
        cost: add to it what is spent beside the loop's own pass.
    """

    epoch: int
    seed: int
    model: nn.Module
    classes: int
    task: Task
    epochs: int = 1
    replay: int = 0
    media: Mapping[str, MediaSpec] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class Passed:
    """One training pass, before its backward pass.

    Attributes:
        batch: what was learned from, with the targets of the loss.
        encoded: what the fusion was given, by modality; with gradients.
        logits: (B, K), with gradients.
    """

    batch: Batch
    encoded: Mapping[str, Encoded]
    logits: Tensor


class Augmentation:
    """How clips are learned from. Override what you need; a list of augmentations is applied in order, each time.

    In an epoch: `order`; then for each batch `__call__` on the inputs, `encodings` between encoders and fusion, `loss`
    after the logits; at last `end_epoch`. What is kept from one epoch to the next belongs into `state_dict`.

    Attributes:
        replays: optimiser steps on each batch; with several in one list, their product.
    """

    replays: int = 1

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """The clips of an epoch: (n,) positions within `clips`, read in this order; a clip may come more than once.

        None, as here, for the order as it is. A batch is a run of neighbours in this order, so that clips that belong
        together can meet. The same for every process; a function of the state and of `step` alone.

        Args:
            clips: ids of the training clips, in the order that the epoch would have.
            step: where training stands; its model is not to be called.
        """
        return None

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch with other inputs or targets; `batch` itself is not changed.

        Inputs stay within the media's bounds. Single-label targets may become soft: (B, K) float that sum to 1.
        """
        return batch

    def encodings(
        self, encoded: Mapping[str, Encoded], batch: Batch, step: TrainingStep
    ) -> tuple[Mapping[str, Encoded], Batch]:
        """The encodings with other values, and the batch with the targets that then hold; neither is changed in place.

        They are those of the pass that training makes anyway, so that looking at them costs nothing.
        """
        return encoded, batch

    def loss(self, losses: Tensor, passed: Passed, step: TrainingStep) -> Tensor:
        """The losses (B,) that are minimised, from those of before; both differentiable."""
        return losses

    def after_backward(self, batch: Batch, step: TrainingStep) -> None:
        """Look at gradients: those of inputs that `__call__` returned as leaves that require one."""

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """Learn from the epoch. Afterwards the state is the same in every process."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs, as tensors, numbers, strings, lists and dicts; empty if nothing is kept."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
