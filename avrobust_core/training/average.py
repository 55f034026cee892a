"""The exponential moving average of a model's weights, which takes their place where a fit is measured and kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The moving average of all parameters over optimiser steps.

    After step t (from 0) it is d times itself plus 1 - d times the weights, d being the decay or, if that is less,
    (1 + t) / (10 + t): so the initial weights do not linger in it. Buffers, such as the statistics of batch
    normalisation, are not averaged: with the average go the model's own, as they are.

    Args:
        model: on its device.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = [parameter.detach() for parameter in model.parameters()]
        self._averages = [weight.clone() for weight in self._weights]

    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, self.updates)  # type: ignore[no-untyped-call]
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the average for its weights."""
        kept = [weight.clone() for weight in self._weights]
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(kept)

    def state_dict(self) -> dict[str, Any]:
        """The averages in the order of the parameters, and the number of updates."""
        return {"updates": self.updates, "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: if it is of another number of parameters.
            RuntimeError: from torch, if a shape does not fit.
        """
        for average, value in zip(self._averages, state["averages"], strict=True):
            average.copy_(value)
        self.updates = state["updates"]

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)
