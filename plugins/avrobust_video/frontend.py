"""The pixel normalisation in front of a video network."""

import torch
from torch import Tensor, nn


class PixelNormalisation(nn.Module):
    """Subtract a mean and divide by a standard deviation, the same for all pixels and colours.

    Args:
        mean: in the units of the pixels, [0, 1].
        std: in the same units; positive.
    """

    def __init__(self, mean: float = 0.45, std: float = 0.225) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std must be positive, not {std}")
        self.mean = mean
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """From pixels (B, 3, T, H, W) in [0, 1] to features of the same shape; in float32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = x if x.dtype == torch.float64 else x.float()
            return (pixels - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"
