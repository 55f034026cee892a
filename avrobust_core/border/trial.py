"""Whether a model answers alike twice, tried on a few clips before anything is attacked."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from avrobust_core.batches import Batch
from avrobust_core.border.answers import name_of
from avrobust_core.errors import ModelError
from avrobust_core.naming import clips_named

TRIAL_CLIPS = 4
"""So many clips are tried."""

TRIAL_PASSES = 8
"""So many passes over all of them, and one more over half: of a batch that is mirrored or not by the toss of a coin,
two passes alone would notice nothing every other time."""


def refuse_unsteady(
    model: nn.Module, forward: Callable[[Mapping[str, Tensor]], Tensor], batch: Batch, share: float
) -> None:
    """Refuse a model with randomness of its own, and one whose answer for a clip depends on its batch mates.

    Either way an attack would be judged by another model than it has seen. Buffers and every global random state are
    afterwards as they were.

    Args:
        model: in evaluation mode.
        forward: from inputs by modality to logits (B, K) float32, a plain pass.
        batch: clips, of which the first few are tried.
        share: of the largest logit, that rounding may move a logit by; see `answers.rounding`.

    Raises:
        ModelError: names the model and the clip, says how far its logits differ, and what to do.
    """
    clips = min(TRIAL_CLIPS, len(batch))
    positions = torch.arange(clips, device=batch.targets.device)
    few, half = batch.select(positions), batch.select(positions[: (clips + 1) // 2])
    with torch.no_grad(), _undisturbed(model, batch.targets.device):
        passes = torch.stack([forward(few.inputs) for _ in range(TRIAL_PASSES)])
        fewer = forward(half.inputs)
    once = passes[0]
    largest = passes.abs().amax(dim=(0, 2))
    size = largest.clamp(min=1)
    moved = (passes - once).abs().amax(dim=(0, 2))
    if (moved > share * size).any():
        worst = int((moved / size).argmax())
        raise ModelError(
            f"{name_of(model)} has randomness of its own: two passes over {clips_named([batch.ids[worst]])} differ by "
            f"{float(moved[worst]):.3g} in a logit, where the largest is {float(largest[worst]):.3g}. Attack "
            "it in expectation, with `samples` above 1 (`samples=` of evaluate, `evaluation.samples` in a spec), or "
            "switch off what is random (dropout that stays on, noise or random crops in its forward pass)"
        )
    moved, size = (fewer - once[: len(half)]).abs().amax(dim=1), size[: len(half)]
    # A smaller batch may be computed by another kernel, which rounds on other ways through the whole network.
    if (moved > 10 * share * size).any():
        worst = int((moved / size).argmax())
        raise ModelError(
            f"{name_of(model)} answers otherwise for {clips_named([batch.ids[worst]])} when fewer clips are in the "
            f"batch (a logit is {float(moved[worst]):.3g} off, where the largest is "
            f"{float(largest[worst]):.3g}): something in it takes statistics over the batch, such as batch "
            "normalisation that stays in training mode; an answer must depend on the clip alone"
        )


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Buffers, and the random states of torch, numpy and Python, are afterwards as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    python, arrays = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
