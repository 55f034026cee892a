"""Pictures in parts: smooth fields, things that fall, blurs, tints; all (B, C, T, H, W) float32, of any size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import ClipDraws


def field(draws: ClipDraws, like: Tensor, cells: int, moments: int) -> Tensor:
    """A smooth random field in [0, 1]: (B, 1, T, H, W).

    Args:
        draws: of the clips.
        like: (B, C, T, H, W), whose size it has.
        cells: random values along the height and the width.
        moments: random values along time; 1 for a field that stands still.
    """
    coarse = draws.uniform(1, moments, cells, cells)
    return F.interpolate(coarse, size=like.shape[2:], mode="trilinear", align_corners=True)


def clouds(draws: ClipDraws, like: Tensor, moments: int) -> Tensor:
    """A field with detail at every scale, in [0, 1]: (B, 1, T, H, W)."""
    octaves = [(3, 0.5), (6, 0.25), (12, 0.15), (24, 0.1)]
    parts = [share * field(draws, like, cells, moments) for cells, share in octaves]
    return torch.stack(parts).sum(dim=0)


def falling(plane: Tensor, frames: int, down: float, across: float) -> Tensor:
    """A plane (B, 1, H, W) that moves over the picture, and comes in again at the other side: (B, 1, T, H, W).

    Args:
        plane: at the first frame.
        frames: T.
        down: share of the height that it moves from frame to frame.
        across: share of the width.
    """
    height, width = plane.shape[2:]
    steps = [(round(t * down * height), round(t * across * width)) for t in range(frames)]
    return torch.stack([torch.roll(plane, step, dims=(2, 3)) for step in steps], dim=2)


def smeared(x: Tensor, length: int, dim: int) -> Tensor:
    """The mean over `length` neighbours along the height (3) or the width (4); edges stand for what is outside."""
    half = min(length // 2, x.shape[dim] - 1)
    if half < 1:
        return x
    flat = x.flatten(0, 2).unsqueeze(1)
    tall = dim == 3
    padded = F.pad(flat, (0, 0, half, half) if tall else (half, half, 0, 0), mode="replicate")
    size = (2 * half + 1, 1) if tall else (1, 2 * half + 1)
    return F.avg_pool2d(padded, size, stride=1).view_as(x)


def blurred(x: Tensor, share: float) -> Tensor:
    """Blurred over a share of the height and the width: two boxes, one after the other, along each."""
    for dim in (3, 4, 3, 4):
        x = smeared(x, round(share * x.shape[dim]), dim)
    return x


def colour(x: Tensor, rgb: Sequence[float]) -> Tensor:
    """A colour to add to, or multiply with, pictures: (1, C, 1, 1, 1); its mean where they are not red, green, blue."""
    values = rgb if x.shape[1] == 3 else [sum(rgb) / 3] * x.shape[1]
    return x.new_tensor(values).view(1, -1, 1, 1, 1)


def over(x: Tensor, paint: Tensor, opacity: Tensor) -> Tensor:
    """Paint laid over pictures: opacity in [0, 1]."""
    return x + (paint - x) * opacity.clamp(0, 1)


def framed(course: Tensor) -> Tensor:
    """A number for each frame, (B, T), shaped to broadcast over pictures."""
    return course[:, None, :, None, None]


def blocks_quantised(x: Tensor, coarseness: float) -> Tensor:
    """The cosine transform of 8 x 8 blocks, rounded the more coarsely the finer the detail, and back: JPEG's loss.

    Source: Wallace, "The JPEG still picture compression standard", 1992, without its colour space; the steps here rise
    linearly with the frequency, and are not the standard's table.

    Args:
        x: (B, C, T, H, W) in [0, 1].
        coarseness: the smallest step, in 1/255; the largest is 15 times it.
    """
    *_, height, width = x.shape
    flat = x.flatten(0, 2).unsqueeze(1)
    flat = F.pad(flat, (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = flat.shape[2] // 8, flat.shape[3] // 8
    blocks = flat.view(-1, rows, 8, columns, 8).transpose(2, 3)
    place = torch.arange(8, device=x.device, dtype=x.dtype)
    basis = torch.cos(math.pi / 8 * (place[None, :] + 0.5) * place[:, None]) / 2
    basis[0] /= math.sqrt(2)
    step = coarseness / 255 * (1 + place[:, None] + place[None, :])
    coded = (basis @ blocks @ basis.T / step).round() * step
    back = (basis.T @ coded @ basis).transpose(2, 3).reshape(-1, 1, rows * 8, columns * 8)
    return back[..., :height, :width].reshape(x.shape)
