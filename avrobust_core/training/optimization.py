"""The optimiser: the parameters that decay, and the learning rate at each step."""

import math
from typing import Any

import torch
from torch import nn

from avrobust_core.training.settings import Regime


def make_optimizer(model: nn.Module, regime: Regime) -> torch.optim.Optimizer:
    """The optimiser that a regime names, over a model's parameters."""
    groups = parameter_groups(model, regime.weight_decay)
    if regime.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=regime.learning_rate)
    momentum = 0.9 if regime.momentum is None else regime.momentum
    return torch.optim.SGD(groups, lr=regime.learning_rate, momentum=momentum, nesterov=regime.nesterov)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that decay, and those that do not: biases and the scales of normalisation (one dimension or none)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def schedule(step: int, total: int, warmup: float) -> float:
    """The learning rate's factor at one step, in (0, 1]: linear warm-up, then a cosine down to 0 after the last step.

    Args:
        step: from 0.
        total: steps in all.
        warmup: share of the steps over which it rises.
    """
    rising = max(1, round(warmup * total)) if warmup > 0 else 0
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
