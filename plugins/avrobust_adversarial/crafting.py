"""The model in training as a victim: frozen, as it was afterwards, and every pass through it counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from avrobust_core import Batch, Task, TrainingStep, Victim, counting, derive_seed, hard_targets

Mode = Literal["eval", "train"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Synchronised ones stay in evaluation mode: processes do not attack in step."""


@contextmanager
def crafting(step: TrainingStep, purpose: str, mode: Mode = "eval") -> Iterator[Victim]:
    """The model of a training step, to be attacked inside the block; flags and buffers are as they were afterwards.

    Args:
        step: its cost grows by every clip's pass through the model inside the block.
        purpose: of the random numbers that attacks draw.
        mode: eval, or train for batch normalisation by the batch's own statistics.
    """
    model = step.model
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.training]
    seed = derive_seed(step.seed, purpose, step.epoch, step.replay)
    victim = Victim(model, media=step.media, task=step.task, seed=seed)
    with victim.frozen(), counting(model, step.cost):
        if mode == "eval":
            yield victim
            return
        kept = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers(recurse=False)]
        for module in norms:
            module.train()
        try:
            yield victim
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def to_attack(batch: Batch, task: Task) -> Batch:
    """The batch as attacks want it: inputs without a history, and one class for each single-label clip.

    Soft single-label targets, as mix-up leaves them, become the heavier label.
    """
    inputs = {name: x.detach() for name, x in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=hard_targets(batch.targets, task))
