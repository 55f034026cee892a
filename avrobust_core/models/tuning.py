"""The order in memory of an encoder's convolutions, chosen by measuring: neither is the faster one everywhere."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from avrobust_core.models.model import AVModel, channels_last

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)

TURNS = 3
"""Times that each order is measured, after a pass that does not count; the fastest decides."""

LEAST_GAIN = 0.03
"""Channels-last is taken if it saves this share of the time: less is a machine's noise."""


def choose_layouts(
    model: AVModel,
    inputs: Mapping[str, Tensor],
    lowered: Callable[[torch.device], AbstractContextManager[None]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Put the convolutions of each encoder into channels-last order where that makes attacks faster.

    Measured is a forward and a backward pass over one modality of a batch. Results differ by rounding alone.

    Args:
        model: frozen, on its device; changed in place.
        inputs: of a batch, by modality.
        lowered: the precision of attacks, on a device.
        clock: seconds.

    Returns:
        By modality whose encoder has convolutions, the seconds with channels-last over those without; below
        1 - `LEAST_GAIN` it was taken.
    """
    found = {}
    for name, encoder in model.encoders.items():
        if name not in inputs or not any(isinstance(module, CONVOLUTIONS) for module in encoder.modules()):
            continue
        before = _seconds(model, name, inputs[name], lowered, clock)
        channels_last(encoder)
        found[name] = _seconds(model, name, inputs[name], lowered, clock) / before
        if found[name] > 1 - LEAST_GAIN:
            for module in encoder.modules():
                if isinstance(module, CONVOLUTIONS):
                    module.to(memory_format=torch.contiguous_format)
    return found


def _seconds(
    model: AVModel,
    name: str,
    x: Tensor,
    lowered: Callable[[torch.device], AbstractContextManager[None]],
    clock: Callable[[], float],
) -> float:
    taken = []
    for _ in range(TURNS + 1):
        began = _now(x.device, clock)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad(), lowered(x.device):
            pooled = model.encode({name: leaf})[name].pooled
        if pooled.requires_grad:
            torch.autograd.grad(pooled.float().sum(), leaf)
        taken.append(_now(x.device, clock) - began)
    return max(min(taken[1:]), 1e-9)


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return clock()
