"""Mix-up: each clip of a batch becomes a convex combination of itself and another."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Augmentation, Batch, TrainingStep, derive_seed


class Mixup(Augmentation):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412), with one ratio and one partner for all modalities of a clip.

    A clip x_i becomes lambda x_i + (1 - lambda) x_j, its targets likewise, with lambda ~ Beta(alpha, alpha) and j any
    other clip of the batch. Both are drawn from the clip's own generator for this epoch. Which clip is
    the partner depends on the set of clips in the batch, as it must, but not on their order. In a batch of one the
    clip stays as it is.

    Args:
        alpha: of the Beta distribution, > 0.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The mixed batch: inputs as before in shape, dtype and bounds; targets (B, K) float32.

        Single-label targets sum to 1; multi-label targets are the mean of two multi-hot rows, weighted.
        """
        ratio, partner = self._draw(batch, step)
        targets = batch.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, step.classes).float()
        return Batch(
            inputs={name: _mix(x, partner, ratio) for name, x in batch.inputs.items()},
            targets=_mix(targets, partner, ratio),
            ids=batch.ids,
        )

    def _draw(self, batch: Batch, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """The ratio (B,) float32 in [0, 1] and the position of the partner (B,) int64, on the batch's device."""
        order = sorted(range(len(batch)), key=batch.ids.__getitem__)
        ratio, partner = torch.ones(len(batch)), torch.arange(len(batch))
        if len(batch) > 1:
            for rank, i in enumerate(order):
                generator = np.random.default_rng(derive_seed(step.seed, batch.ids[i], f"mixup/{step.epoch}"))
                ratio[i] = generator.beta(self.alpha, self.alpha)
                partner[i] = order[(rank + 1 + int(generator.integers(len(batch) - 1))) % len(batch)]
        device = batch.targets.device
        return ratio.to(device), partner.to(device)


def _mix(x: Tensor, partner: Tensor, ratio: Tensor) -> Tensor:
    # lerp never leaves the interval between its two ends, where a sum of two rounded products may.
    return torch.lerp(x.index_select(0, partner), x, ratio.view(-1, *[1] * (x.dim() - 1)).to(x.dtype))
