"""The pixel normalisation in front of a video network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelNormalisation(nn.Module):
    """Subtract a mean and divide by a standard deviation, the same for all pixels, or one per colour.

    The defaults are those of the published SlowFast and X3D networks.

    Args:
        mean: in the units of the pixels, [0, 1]; one number, or three for red, green and blue.
        std: in the same units; positive.
    """

    means: Tensor
    stds: Tensor

    def __init__(self, mean: float | Sequence[float] = 0.45, std: float | Sequence[float] = 0.225) -> None:
        super().__init__()
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        if not min(self.std) > 0:
            raise ValueError(f"std must be positive, not {std}")
        self.register_buffer("means", torch.tensor(self.mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("stds", torch.tensor(self.std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From pixels (B, 3, T, H, W) in [0, 1] to features of the same shape; in float32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = x if x.dtype == torch.float64 else x.float()
            if len(self.mean) == len(self.std) == 1:  # by numbers: exact in float64 too
                return (pixels - self.mean[0]) / self.std[0]
            return (pixels - self.means) / self.stds

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


def _numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    numbers = (float(value),) if isinstance(value, (int, float)) else tuple(map(float, value))
    if len(numbers) not in (1, 3):
        raise ValueError(f"{name} must be one number or three, not {len(numbers)}")
    return numbers
