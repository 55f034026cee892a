"""Parts of a step of the searches for the smallest perturbation: momentum, schedules, sizes."""

import torch
from torch import Tensor

from avrobust_core import Inputs, Region, per_clip

TINY = 1e-30
"""Below this a gain is taken to be 0."""


def averaged(mean: Inputs, gradients: Inputs, gain: Tensor, share: float) -> dict[str, Tensor]:
    """A running mean of gradients after one more, each clip's scaled to the same gain: no step outweighs the others.

    Args:
        mean: by modality, so far; empty before the first step.
        gradients: by modality.
        gain: (b,), of the region for these gradients.
        share: of the mean that each step keeps.
    """
    scale = 1 / gain.clamp(min=TINY)
    scaled = {name: g * per_clip(scale, g) for name, g in gradients.items()}
    return {name: torch.lerp(g, mean[name], share) for name, g in scaled.items()} if mean else scaled


def onto(region: Region, x: Inputs, size: Tensor, lengthened: Tensor | None = None) -> dict[str, Tensor]:
    """`x` scaled about the clean clip to the region's edge at `size` (b,), then within bounds: at most that size.

    What is shorter is made longer, or only where `lengthened` (b,) is true.
    """
    return region.within(region.stretched(x, size, lengthened), size)


def cosine(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1, along half a cosine."""
    return last + (first - last) * (1 + float(torch.cos(torch.tensor(torch.pi * share, dtype=torch.float64)))) / 2
