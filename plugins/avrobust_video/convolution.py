"""Convolutions with batch normalisation, which become one convolution in evaluation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
    """A 3-D convolution that keeps the size (but for its stride), without bias, and its batch normalisation."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    # PyTorch counts all channels as outputs of one input; in a grouped convolution each input has but a few.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
    return conv, nn.BatchNorm3d(outputs)


def normalised(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """The normalised convolution of x (B, C, T, H, W): a tensor that nobody else holds.

    In evaluation the normalisation is a fixed scale and shift per channel, which goes into the convolution's weights.
    That saves a pass over the activations and, where a gradient is wanted, keeping them; the result is the same to
    rounding. It is done anew in each pass, so that the weights may change between passes and have gradients. Hooks on
    either module do not run then.

    Args:
        conv: an `nn.Conv3d` without bias.
        norm: its `nn.BatchNorm3d`.
        x: its input.
    """
    assert isinstance(conv, nn.Conv3d)
    assert isinstance(norm, nn.BatchNorm3d)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return checked(norm(conv(x)))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, 1, 1, 1, 1)
    bias = norm.bias - norm.running_mean * scale
    return F.conv3d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def checked(x: Any) -> Tensor:
    """Return a module's result, asserting that it is a tensor."""
    assert isinstance(x, Tensor)
    return x
