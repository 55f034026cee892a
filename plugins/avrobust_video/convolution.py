"""Convolutions with batch normalisation, which become one convolution in evaluation, and residual blocks of them."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import made_once, scale_and_shift
from avrobust_video.halving import STRIDE, halved


def conv_norm(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1), groups: int = 1
) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
    """A 3-D convolution that keeps the size (but for its stride), without bias, and its batch normalisation."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    # PyTorch counts all channels as outputs of one input; in a grouped convolution each input has but a few.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
    return conv, nn.BatchNorm3d(outputs)


def normalised(conv: nn.Conv3d, norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """The normalised convolution of x (B, C, T, H, W): a tensor that nobody else holds.

    In evaluation the normalisation is a fixed scale and shift per channel, which goes into the convolution's weights.
    That saves a pass over the activations and, where a gradient is wanted, keeping them; the result is the same to
    rounding. It is done anew in each pass, so that the weights may change between passes and have gradients, but where
    they are known to be constant (`made_once`). Hooks on either module do not run then, nor at any time on a
    convolution that halves pictures, whose gradient is our own.

    Args:
        conv: without bias.
        norm: its normalisation.
        x: its input.
    """
    halves = conv.stride == STRIDE and conv.groups == 1
    if norm.training:
        return checked(norm(halved(x, conv.weight, None, _padding(conv)) if halves else conv(x)))

    def folded() -> tuple[Tensor, Tensor]:
        scale, shift = scale_and_shift(norm)
        return conv.weight * scale.view(-1, 1, 1, 1, 1), shift

    weight, shift = made_once((conv.weight, *norm.parameters(), *norm.buffers()), folded)
    if halves:
        return halved(x, weight, shift, _padding(conv))
    return F.conv3d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def _padding(conv: nn.Conv3d) -> tuple[int, int, int]:
    time, height, width = map(int, conv.padding)
    return time, height, width


class Residual(nn.Module):
    """A branch, which a subclass makes, and its shortcut: a convolution where the shape changes.

    Args:
        inputs: channels that come in.
        outputs: channels of the branch.
        stride: of the branch, along height and width.
        normalise: the shortcut's convolution.
    """

    branch2: nn.Module

    def __init__(self, inputs: int, outputs: int, stride: int, *, normalise: bool) -> None:
        super().__init__()
        self.projects, self.normalises = inputs != outputs or stride != 1, normalise
        if self.projects:
            self.branch1_conv, norm = conv_norm(inputs, outputs, (1, 1, 1), (1, stride, stride))
            if normalise:
                self.branch1_norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        shortcut = x
        if self.projects and self.normalises:
            shortcut = normalised(self.branch1_conv, self.branch1_norm, x)
        elif self.projects:
            shortcut = self.branch1_conv(x)
        return F.relu_(checked(self.branch2(x)).add_(shortcut))


class Stage(nn.Module):
    """The residual blocks of one pathway at one resolution, one after another."""

    def __init__(self, blocks: Iterable[Residual]) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        return checked(self.res_blocks(x))


def checked(x: Any) -> Tensor:
    """Return a module's result, asserting that it is a tensor."""
    assert isinstance(x, Tensor)
    return x
