"""Windowed frames of a waveform with reflected ends, and the way back in few passes.

PyTorch reflects and unfolds in two operations, whose gradients take twice as long. Attacks take this way back at every
step.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F


def windowed_frames(x: Tensor, window: Tensor, hop: int, before: int) -> Tensor:
    """Frames of a waveform whose ends are reflected (the end samples are not repeated), times a window.

    It is linear in x, and differentiable in x as often as is wanted; the window is a constant.

    Args:
        x: (B, T) float, T more than `before` and than len(window) - before.
        window: (L,).
        hop: samples from one frame to the next.
        before: samples of the first frame that lie before the waveform, 0 to L. The rest of L is appended after it.

    Returns:
        (B, T // hop + 1, L).
    """
    return cast(Tensor, _Frames.apply(x, window, hop, before))


class _Frames(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Tensor, hop: int, before: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.sizes = hop, before, x.shape[1]
        last, after = x.shape[1] - 1, len(window) - before
        reflected = torch.cat([x[:, 1 : before + 1].flip(1), x, x[:, last - after : last].flip(1)], dim=1)
        return reflected.unfold(1, len(window), hop) * window

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (window,) = ctx.saved_tensors
        hop, before, samples = ctx.sizes
        return cast(Tensor, _Overlaid.apply(gradients[0], window, hop, before, samples)), None, None, None


class _Overlaid(torch.autograd.Function):
    """The transpose of `_Frames`: windowed frames (B, N, L) added up to (B, T), what lies outside folded back."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, window: Tensor, hop: int, before: int, samples: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.sizes = hop, before
        last, after = samples - 1, len(window) - before
        long = _added(frames * window, hop, samples + len(window))
        x = long[:, before : before + samples].clone()
        x[:, 1 : before + 1] += long[:, :before].flip(1)
        x[:, last - after : last] += long[:, before + samples :].flip(1)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (window,) = ctx.saved_tensors
        return windowed_frames(gradients[0], window, *ctx.sizes), None, None, None, None


def _added(frames: Tensor, hop: int, samples: int) -> Tensor:
    """Frames (B, N, L) added up where they overlap: (B, samples), 0 where there are none."""
    count, length = frames.shape[1:]
    parts = -(-length // hop)
    cut = F.pad(frames, (0, parts * hop - length)).reshape(len(frames), count, parts, hop)
    steps = max(count + parts - 1, -(-samples // hop))
    long = frames.new_zeros(len(frames), steps, hop)
    for part in range(parts):
        long[:, part : part + count] += cut[:, :, part]
    return long.flatten(1)[:, :samples]
