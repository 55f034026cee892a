"""X3D networks: one pathway, expanded along every axis, of convolutions that each see one channel.

Source: Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020 (arXiv 2004.04730). The
parameters have the names and shapes of PyTorchVideo's `x3d_xs`, `x3d_s`, `x3d_m` and `x3d_l`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims, Encoder, MediaSpec, PixelNormalisation
from avrobust_video.configs import X3dConfig
from avrobust_video.convolution import checked, conv_norm, normalised
from avrobust_video.pictures import PICTURES, check_side, windows
from avrobust_video.published import pytorchvideo

WIDTHS: Final = ((24, 54, 8), (48, 108, 8), (96, 216, 16), (192, 432, 32))
"""Per stage: channels between blocks, inside them, and of the squeeze."""

EMBED: Final = 2048
"""Width of the embedding."""

TOTAL_STRIDE: Final = 32
"""Input pixels per pixel of the last map: the stem and each stage halve height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The differences between the sizes.

    Attributes:
        depths: blocks per stage.
        window: frames, height and width, in pixels of the last map, of the clips that the published network was trained
            on: it pools over windows of that size, one step apart.
    """

    depths: tuple[int, int, int, int]
    window: tuple[int, int, int]


EXPANSIONS: Final[Mapping[str, Expansion]] = MappingProxyType(
    {
        "xs": Expansion(depths=(3, 5, 11, 7), window=(4, 5, 5)),
        "s": Expansion(depths=(3, 5, 11, 7), window=(13, 5, 5)),
        "m": Expansion(depths=(3, 5, 11, 7), window=(16, 7, 7)),
        "l": Expansion(depths=(5, 10, 25, 15), window=(16, 10, 10)),
    }
)
"""The sizes."""


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
        x = checked(self.norm_b[1](normalised(self.conv_b, self.norm_b[0], x)))
        return normalised(self.conv_c, self.norm_c, F.silu(x))


class ResidualBlock(nn.Module):
    """A bottleneck and its shortcut: a convolution where the size changes, normalised where the width does."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, squeezed: int | None) -> None:
        super().__init__()
        self.widens, self.strides = inputs != outputs, stride != 1
        if self.widens or self.strides:
            self.branch1_conv, norm = conv_norm(inputs, outputs, (1, 1, 1), (1, stride, stride))
            if self.widens:
                self.branch1_norm = norm
        self.branch2 = Bottleneck(inputs, inner, outputs, stride, squeezed)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        shortcut = x
        if self.widens:
            shortcut = normalised(self.branch1_conv, self.branch1_norm, x)
        elif self.strides:
            shortcut = self.branch1_conv(x)
        return F.relu_(checked(self.branch2(x)).add_(shortcut))


class Stage(nn.Module):
    """The residual blocks at one resolution; the first one strides, and every other one is gated."""

    def __init__(self, depth: int, inputs: int, inner: int, outputs: int, squeezed: int) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(
            *(
                ResidualBlock(outputs if i else inputs, inner, outputs, 1 if i else 2, None if i % 2 else squeezed)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / 2, W / 2)."""
        return checked(self.res_blocks(x))


class ProjectedPool(nn.Module):
    """The convolutions before and after the pooling."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.pre_conv, self.pre_norm = conv_norm(inputs, inner, (1, 1, 1))
        self.post_conv = nn.Conv3d(inner, EMBED, 1, bias=False)
        nn.init.kaiming_normal_(self.post_conv.weight, mode="fan_out", nonlinearity="relu")

    def before(self, x: Tensor) -> Tensor:
        """The maps that are pooled: (B, inner, T, H, W)."""
        return F.relu_(normalised(self.pre_conv, self.pre_norm, x))

    def after(self, x: Tensor) -> Tensor:
        """From windows (B, inner, T', H', W') to their embeddings of width `EMBED`."""
        return F.relu_(checked(self.post_conv(x)))


class Head(nn.Module):
    """The published head without its classifier."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.pool = ProjectedPool(inputs, inner)


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
        expansion = EXPANSIONS[config.size]
        self.dims = EncodedDims(token=WIDTHS[-1][1], embed=EMBED)
        self.frontend = PixelNormalisation()
        self.window = expansion.window
        inputs = WIDTHS[0][0]
        blocks: list[nn.Module] = [Stem(inputs)]
        for depth, (outputs, inner, squeezed) in zip(expansion.depths, WIDTHS, strict=True):
            blocks.append(Stage(depth, inputs, inner, outputs, squeezed))
            inputs = outputs
        self.trunk = len(blocks)
        self.blocks = nn.ModuleList([*blocks, Head(inputs, WIDTHS[-1][1])])
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, features: Tensor) -> Encoded:
        """From normalised pixels (B, 3, T, H, W) to a token per frame and the published embedding.

        Tokens (B, T, 432) are means over space of the maps before the pooling; `pooled` (B, 2048) is the mean over the
        windows' embeddings.
        """
        x = features
        for block in self.blocks[: self.trunk]:
            x = block(x)
        pool = self.blocks[self.trunk].get_submodule("pool")
        assert isinstance(pool, ProjectedPool)
        maps = pool.before(x)
        pooled = pool.after(windows(maps, self.window)).mean(dim=(2, 3, 4))
        return Encoded(tokens=maps.mean(dim=(3, 4)).transpose(1, 2), pooled=checked(self.dropout(pooled)))
