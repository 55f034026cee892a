"""Optimiser steps: passes over the parts of a batch, the gradient of all its clips, and the average of the weights."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning_fabric import Fabric
from torch import nn

from avrobust_core.data.batches import Batch
from avrobust_core.deadline import limited
from avrobust_core.errors import AvrobustError
from avrobust_core.naming import clips_named
from avrobust_core.training.augmentations import Augmentation, TrainingStep
from avrobust_core.training.average import WeightAverage
from avrobust_core.training.learner import Learned, Learner
from avrobust_core.training.optimization import make_optimizer, schedule
from avrobust_core.training.settings import Regime


class Steps:
    """A model with its optimiser and augmentations, as a step needs them.

    Args:
        fabric: launched.
        module: the model; moved to the device.
        regime: the optimiser's settings.
        augmentations: built, in order.
        batch_timeout: seconds that a pass may take; None for no limit.

    Attributes:
        model: the module, wrapped for precision and processes.
        optimizer: of its parameters, wrapped likewise.
        learner: the model with its augmentations.
        average: of the weights; None where there is none.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        regime: Regime,
        augmentations: Sequence[Augmentation],
        batch_timeout: float | None,
    ) -> None:
        self.fabric = fabric
        self.regime = regime
        self.batch_timeout = batch_timeout
        self.model, self.optimizer = fabric.setup(module, make_optimizer(module, regime))
        self.learner = Learner(self.model, augmentations)
        self.average = WeightAverage(module, regime.ema) if regime.ema is not None else None

    def seed(self, seed: int) -> None:
        """Seed torch's global generators, from which dropout draws."""
        if self.fabric.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device: 0.8 ms
        else:
            torch.manual_seed(seed)

    def learn(
        self, part: Batch, step: TrainingStep, where: str, clips: int, *, earlier: Learned | None, last: bool
    ) -> Learned:
        """A pass over a part of a batch, forward and backward.

        Args:
            part: of this process's clips.
            step: where training stands.
            where: the same, in words.
            clips: in the whole step. Gradients are summed over parts and averaged over processes, so that this weight
                makes of them the gradient of the mean loss of all clips, however they are shared out.
            earlier: the same part's pass before, of a replay.
            last: whether the step's gradient is whole after this part, so that processes exchange it.

        Raises:
            AvrobustError: if the device's memory does not hold it.
        """
        try:
            with nullcontext() if last else self.fabric.no_backward_sync(self.model):
                with self.limited(where, part):
                    learned = self.learner.learn(part, step, earlier=earlier)
                self.fabric.backward(learned.losses.sum() / (clips / self.fabric.world_size))
            learned.after_backward()
        except torch.OutOfMemoryError as error:
            raise AvrobustError(_too_large(len(part), self.regime.accumulate)) from error
        return learned

    def update(self, done: int, total: int) -> None:
        """One optimiser step, the gradient clipped, at the learning rate of this step.

        Args:
            done: steps before it.
            total: of the fit.
        """
        rate = self.regime.learning_rate * schedule(done, total, self.regime.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.regime.gradient_clip is not None:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.regime.gradient_clip,
                error_if_nonfinite=False,  # it would wait for the device at every step; the epoch's loss tells
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()

    def limited(self, where: str, batch: Batch) -> AbstractContextManager[None]:
        """What ends work on a batch that takes too long."""
        return limited(self.batch_timeout, lambda: f"fitting: {where} ({clips_named(batch.ids)})", last_resort=False)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the model has the weights that are measured and kept."""
        return nullcontext() if self.average is None else self.average.in_place()


def _too_large(clips: int, accumulate: int) -> str:
    """The sentence where memory does not hold so many clips, with so many parts to a batch."""
    if clips == 1:
        return (
            "the device's memory does not hold one clip while it is learned from: take shorter clips, a smaller model, "
            "or engine.precision: bf16-mixed"
        )
    return (
        f"the device's memory does not hold {clips} clips while they are learned from: set accumulate: "
        f"{2 * accumulate} in the training regime, so that each batch is learned from in more parts"
    )
