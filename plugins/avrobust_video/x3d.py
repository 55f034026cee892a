"""X3D networks: one pathway, expanded along every axis, of convolutions that each see one channel.

Source: Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020 (arXiv 2004.04730). The
parameters have the names and shapes of PyTorchVideo's `x3d_xs`, `x3d_s`, `x3d_m` and `x3d_l`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims, Encoder, MediaSpec, PixelNormalisation
from avrobust_video.configs import X3dConfig
from avrobust_video.convolution import Residual, Stage, checked, conv_norm, normalised
from avrobust_video.pictures import PICTURES, check_side, windows
from avrobust_video.published import pytorchvideo

WIDTHS: Final = ((24, 54, 8), (48, 108, 8), (96, 216, 16), (192, 432, 32))
"""Per stage: channels between blocks, inside them, and of the squeeze."""

EMBED: Final = 2048
"""Width of the embedding."""

TOTAL_STRIDE: Final = 32
"""Input pixels per pixel of the last map: the stem and each stage halve height and width."""


SIZES: Final[Mapping[str, tuple[tuple[int, ...], tuple[int, int, int]]]] = MappingProxyType(
    {
        "xs": ((3, 5, 11, 7), (4, 5, 5)),
        "s": ((3, 5, 11, 7), (13, 5, 5)),
        "m": ((3, 5, 11, 7), (16, 7, 7)),
        "l": ((5, 10, 25, 15), (16, 10, 10)),
    }
)
"""By size: blocks per stage, and the window (frames, height, width) in pixels of the last map.

The window is that of the clips that the published network was trained on: it pools over windows of that size, one step
apart.
"""


class SeparateConv(nn.Module):
    """The stem's convolution: over space, then over time in each channel by itself.

    The published names are the wrong way round: `conv_t` is the one over space.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(3, outputs, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv_xy, _ = conv_norm(outputs, outputs, (5, 1, 1), groups=outputs)
        nn.init.kaiming_normal_(self.conv_t.weight, mode="fan_out", nonlinearity="relu")


class Stem(nn.Module):
    """The first layer: a separate convolution, normalised, and a ReLU."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = SeparateConv(outputs)
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 3, T, H, W) to (B, C, T, H / 2, W / 2)."""
        return F.relu_(normalised(self.conv.conv_xy, self.norm, self.conv.conv_t(x)))


class SqueezeExcitation(nn.Module):
    """A gate per channel, from the means of all channels (Hu, Shen, Sun, arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1), nn.ReLU(), nn.Conv3d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, T, H, W) to the same, each channel times its gate."""
        return x * checked(self.block(x.mean(dim=(2, 3, 4), keepdim=True)))


class Bottleneck(nn.Module):
    """A pointwise convolution, a 3x3x3 one in each channel by itself, gated or not, and a pointwise one."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, squeezed: int | None) -> None:
        super().__init__()
        self.conv_a, self.norm_a = conv_norm(inputs, inner, (1, 1, 1))
        self.conv_b, norm_b = conv_norm(inner, inner, (3, 3, 3), (1, stride, stride), groups=inner)
        self.norm_b = nn.Sequential(norm_b, nn.Identity() if squeezed is None else SqueezeExcitation(inner, squeezed))
        self.conv_c, self.norm_c = conv_norm(inner, outputs, (1, 1, 1))
        nn.init.zeros_(self.norm_c.weight)  # each block starts as its shortcut, which helps deep stacks to train

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        x = F.relu_(normalised(self.conv_a, self.norm_a, x))
        norm, gate = self.norm_b
        x = checked(gate(normalised(self.conv_b, cast(nn.BatchNorm3d, norm), x)))
        return normalised(self.conv_c, self.norm_c, F.silu(x))


class ResidualBlock(Residual):
    """A bottleneck and its shortcut, which is normalised where the width changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, squeezed: int | None) -> None:
        super().__init__(inputs, outputs, stride, normalise=inputs != outputs)
        self.branch2 = Bottleneck(inputs, inner, outputs, stride, squeezed)


class ProjectedPool(nn.Module):
    """The pooling over windows, and the convolutions before and after it."""

    def __init__(self, inputs: int, inner: int, window: tuple[int, int, int]) -> None:
        super().__init__()
        self.pre_conv, self.pre_norm = conv_norm(inputs, inner, (1, 1, 1))
        self.post_conv = nn.Conv3d(inner, EMBED, 1, bias=False)
        self.window = window
        nn.init.kaiming_normal_(self.post_conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maps that are pooled (B, inner, T, H, W), and the mean of their windows' embeddings (B, EMBED)."""
        maps = F.relu_(normalised(self.pre_conv, self.pre_norm, x))
        embedded = F.relu_(checked(self.post_conv(windows(maps, self.window))))
        return maps, embedded.mean(dim=(2, 3, 4))


class X3d(Encoder):
    """The X3D encoder of a clip of any length.

    A published network with its own head gives PyTorchVideo's logits before its softmax. On clips larger than those
    that the network was trained on it averages over windows; PyTorchVideo does so with logits if its activation is
    taken away, and else with probabilities.

    Args:
        config: size.
        media: pictures.

    Raises:
        DataError: if the modality is not a clip of pictures, or these are too small.
    """

    time_axis = 1
    layouts = (pytorchvideo(5, "blocks.0.conv.conv_t.weight"),)

    def __init__(self, config: X3dConfig, media: MediaSpec) -> None:
        super().__init__()
        media.require(*PICTURES)
        check_side(media, TOTAL_STRIDE)
        depths, window = SIZES[config.size]
        self.dims = EncodedDims(token=WIDTHS[-1][1], embed=EMBED)
        self.frontend = PixelNormalisation()
        inputs = WIDTHS[0][0]
        blocks: list[nn.Module] = [Stem(inputs)]
        for depth, (outputs, inner, squeezed) in zip(depths, WIDTHS, strict=True):
            first = ResidualBlock(inputs, inner, outputs, 2, squeezed)  # every other one is gated
            rest = (ResidualBlock(outputs, inner, outputs, 1, None if i % 2 else squeezed) for i in range(1, depth))
            blocks.append(Stage([first, *rest]))
            inputs = outputs
        head = nn.Sequential(OrderedDict(pool=ProjectedPool(inputs, WIDTHS[-1][1], window)))
        self.blocks = nn.ModuleList([*blocks, head])
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, features: Tensor) -> Encoded:
        """From normalised pixels (B, 3, T, H, W) to a token per frame and the published embedding.

        Tokens (B, T, 432) are means over space of the maps before the pooling; `pooled` (B, 2048) is the mean over the
        windows' embeddings.
        """
        *trunk, head = self.blocks
        x = features
        for block in trunk:
            x = block(x)
        maps, pooled = head(x)
        return Encoded(tokens=maps.mean(dim=(3, 4)).transpose(1, 2), pooled=checked(self.dropout(pooled)))
