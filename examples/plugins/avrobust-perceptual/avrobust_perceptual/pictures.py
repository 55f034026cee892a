"""Sizes of changes in pictures: structural similarity, and flicker."""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of the Gaussian window."""

K1, K2 = 0.01, 0.03
"""The constants that keep the quotients stable, as shares of the range of the pixels."""


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of two clips of pictures: (B,) float64, at most 1, and 1 for the same clip.

    Of each frame and colour by itself, and the mean over all of them and over every place where the window fits
    (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004, section III-B, where pictures are grey: a Gaussian window of
    11 x 11 with sigma 1.5, population variances, K1 = 0.01, K2 = 0.03). Frames that are smaller than the window get the
    largest odd window that fits.

    Args:
        first: (B, C, T, H, W) in [0, 1].
        second: likewise.

    Raises:
        ValueError: if the shapes differ, or are not of clips of pictures.
    """
    if first.shape != second.shape or first.dim() != 5:
        raise ValueError(f"two clips of pictures (B, C, T, H, W) are needed, not {first.shape} and {second.shape}")
    x, y = (each.double().transpose(1, 2).flatten(0, 2).unsqueeze(1) for each in (first, second))
    side = min(WINDOW, *first.shape[3:])
    side -= 1 - side % 2
    moments = torch.cat((x, y, x * x, y * y, x * y), dim=1)
    mean_x, mean_y, xx, yy, xy = _blurred(moments, side).unbind(dim=1)
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).reshape(len(first), -1).mean(dim=1)


def flicker(perturbation: Tensor) -> Tensor:
    """How much a perturbation (B, C, T, H, W) changes from frame to frame: (B,) float64; 0 of a single frame.

    Root mean square of the differences of successive frames, in 8-bit steps (1/255 of the range of the pixels).
    """
    if perturbation.shape[2] < 2:
        return torch.zeros(len(perturbation), dtype=torch.float64, device=perturbation.device)
    return perturbation.double().diff(dim=2).flatten(1).square().mean(dim=1).sqrt() * 255


def _blurred(x: Tensor, side: int) -> Tensor:
    """Gaussian means of pictures (N, C, H, W), where the window fits: (N, C, H - side + 1, W - side + 1)."""
    place = torch.arange(side, dtype=x.dtype, device=x.device) - (side - 1) / 2
    weights = torch.exp(-(place**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, side)
    down = F.conv2d(x, weights.unsqueeze(3), groups=x.shape[1])
    return F.conv2d(down, weights.unsqueeze(2), groups=x.shape[1])
