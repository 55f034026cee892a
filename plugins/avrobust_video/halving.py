"""A convolution that halves height and width, whose input gradient costs about what the convolution does.

Attacks want the gradient of the pictures. oneDNN, PyTorch's library on a CPU, takes three to seven times a first
layer's forward pass for it: a strided convolution of three channels gives its kernels too little to hold on to.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv3d_weight

Triple = tuple[int, int, int]
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, None]

STRIDE: Triple = (1, 2, 2)
LEAST_KERNEL = 5
"""Below this width of the kernel oneDNN's own way is as fast, or faster."""


def halved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Triple) -> Tensor:
    """`conv3d` with stride (1, 2, 2): the same bits, and the same gradients to rounding.

    Args:
        x: (B, C, T, H, W).
        weight: (O, C, kT, kH, kW); padding along time is less than kT.
        bias: (O,), or None.
        padding: along time, height and width.
    """
    wanted = x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu"
    if not wanted or min(weight.shape[3:]) < LEAST_KERNEL or torch.is_autocast_enabled("cpu"):
        return F.conv3d(x, weight, bias, STRIDE, padding)
    return cast(Tensor, _Halved.apply(x, weight, bias, padding))


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Triple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv3d(x, weight, bias, STRIDE, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> _Gradients:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        return (
            input_gradient(gradient, weight, ctx.padding, x.shape[3:]) if of_input else None,
            conv3d_weight(x, weight.shape, gradient, STRIDE, ctx.padding) if of_weight else None,  # type: ignore[no-untyped-call]
            gradient.sum(dim=(0, 2, 3, 4)) if of_bias else None,
            None,
        )


def input_gradient(gradient: Tensor, weight: Tensor, padding: Triple, size: torch.Size) -> Tensor:
    """The gradient of the input of a convolution with stride (1, 2, 2).

    The even and the odd rows and columns of the input are each a plain convolution of the output's gradient with every
    other tap of the kernel: all four become the channels of one convolution. Differentiable.

    Args:
        gradient: (B, O, T', H', W') of the output.
        weight: (O, C, kT, kH, kW).
        padding: along time, height and width.
        size: (H, W) of the input.

    Returns:
        (B, C, T, H, W).
    """
    (outputs, channels, length), (time, *space) = weight.shape[:3], padding
    taps, edges = [], []
    for kernel, pad, full, given in zip(weight.shape[3:], space, size, gradient.shape[3:], strict=True):
        before = pad % 2  # so that the first tap meets even rows
        count = (kernel + before + 1) // 2
        first = -(before + pad) // 2  # by how many rows of the output's gradient tap 0 lies after the input's pair
        edges.append((first + count - 1, (full + 1) // 2 - first - given))
        taps.append((before, 2 * count - kernel - before, count))
    (top, bottom, rows), (left, right, columns) = taps
    spread = F.pad(weight.flip(2), (left, right, top, bottom)).view(outputs, channels, length, rows, 2, columns, 2)
    mixed = spread.flip(3, 5).permute(1, 4, 6, 0, 2, 3, 5).reshape(4 * channels, outputs, length, rows, columns)
    pairs = F.conv3d(F.pad(gradient, (*edges[1], *edges[0])), mixed, padding=(length - 1 - time, 0, 0))
    batch, _, frames, height, width = pairs.shape
    whole = pairs.view(batch, channels, 2, 2, frames, height, width).permute(0, 1, 4, 5, 2, 6, 3)
    return whole.reshape(batch, channels, frames, 2 * height, 2 * width)[..., : size[0], : size[1]]
