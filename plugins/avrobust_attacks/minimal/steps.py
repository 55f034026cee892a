"""What the searches for the smallest perturbation step with: leaves, momentum, schedules, sizes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_core import Region

TINY = 1e-30
"""Below this a gain is none."""


class Momentum:
    """A running mean of gradients, each clip's scaled to the same gain first, so that no step outweighs the others.

    Args:
        share: of the mean that each step keeps.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._mean: dict[str, Tensor] | None = None

    def of(self, gradients: Mapping[str, Tensor], gain: Tensor) -> dict[str, Tensor]:
        """The mean after one more step.

        Args:
            gradients: by modality.
            gain: (b,), of the region for these gradients.
        """
        scale = 1 / gain.clamp(min=TINY)
        scaled = {name: g * per_clip(scale, g) for name, g in gradients.items()}
        if self._mean is not None:
            scaled = {name: torch.lerp(g, self._mean[name], self._share) for name, g in scaled.items()}
        self._mean = scaled
        return scaled


def onto(region: Region, x: Mapping[str, Tensor], size: Tensor, lengthened: Tensor | None = None) -> dict[str, Tensor]:
    """`x` scaled about the clean clip to the region's edge at `size` (b,), then within bounds: at most that size.

    What is shorter is made longer, or only where `lengthened` (b,) is true.
    """
    found = region.size(x)
    scaled = found > 0 if lengthened is None else lengthened & (found > 0)
    factor = torch.where(scaled, size / found.clamp(min=TINY), 1).clamp(min=1)
    longer = {}
    for name, value in x.items():
        center = region.balls[name].center
        longer[name] = center + (value - center) * per_clip(factor.to(value.dtype), value)
    return region.within(longer, size)


def leaves_of(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as leaves that want gradients."""
    return {name: value.detach().requires_grad_() for name, value in x.items()}


def cosine(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1, along half a cosine."""
    return last + (first - last) * (1 + float(torch.cos(torch.tensor(torch.pi * share, dtype=torch.float64)))) / 2


def per_clip(values: Tensor, x: Tensor) -> Tensor:
    """(b,) shaped (b, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (x.dim() - 1))
