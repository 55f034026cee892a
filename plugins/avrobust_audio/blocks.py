"""Blocks of convolutions, and how they are computed when nothing in them learns."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import made_once, scale_and_shift


class ConvBlock(nn.Module):
    """Convolutions that keep the size, each with batch normalisation and ReLU, named as in PANNs' checkpoints.

    Args:
        inputs: channels that come in.
        outputs: channels of every convolution.
        kernel: odd side of the square kernels.
        layers: how many convolutions: `conv1`, `bn1`, `conv2`, `bn2`, ...
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, layers: int = 2) -> None:
        super().__init__()
        self.layers = layers
        convs = []
        for i in range(1, layers + 1):
            conv = nn.Conv2d(inputs if i == 1 else outputs, outputs, kernel, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(outputs))
            convs.append(conv)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, frames, bands) to (B, outputs, frames, bands)."""
        for i in range(1, self.layers + 1):
            conv, norm = self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")
            x = conv_norm_relu(x, cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
        return x


def conv_norm_relu(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """ReLU of the normalised convolution of x (B, C, H, W).

    In evaluation mode, where no gradient of the parameters is asked for, the normalisation is a constant scale and
    shift of each channel. Neither then needs its input for the backward pass, so that an attack keeps one map per
    convolution instead of two.
    """
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in (*conv.parameters(), *norm.parameters()))
    if norm.training or learns:
        return F.relu(norm(conv(x)), inplace=True)
    # Into the kernels where they are smaller than a map; by the clip's size alone, so that batch mates decide nothing.
    if x.shape[2] * x.shape[3] > conv.weight[0].numel():

        def folded() -> tuple[Tensor, Tensor]:
            scale, shift = scale_and_shift(norm)
            return conv.weight * scale.view(-1, 1, 1, 1), shift

        weight, shift = made_once((conv.weight, *norm.parameters(), *norm.buffers()), folded)
        return F.conv2d(x, weight, shift, padding=cast(tuple[int, int], conv.padding)).relu_()
    scale, shift = scale_and_shift(norm)
    y: Tensor = conv(x)
    return y.mul_(scale.view(-1, 1, 1)).add_(shift.view(-1, 1, 1)).relu_()
