"""The sizes of the SlowFast network, as data; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Widths, depths and strides of a SlowFast network.

    Stage s (from 0) has blocks of inner width `width * 2**s` in the slow pathway, and `1 / beta_inverse` of that in the
    fast one; bottleneck blocks put out four times their inner width, basic blocks as much as it.

    Attributes:
        width: channels of the slow stem.
        beta_inverse: slow channels per fast channel; the paper's 1 / beta.
        block: "bottleneck" (temporal, 1x3x3 and 1x1x1 convolution, as in ResNet-50) or "basic" (two 3x3 convolutions,
            as in ResNet-18, which learns from far fewer clips at small widths).
        depths: blocks per stage.
        stem_kernel: spatial kernel of both stems.
        stem_stride: spatial stride of both stems.
        stem_pool: whether a 3x3 max-pool of stride 2 follows each stem.
        spatial_strides: per stage, on its first block.
        slow_temporal_kernels: per stage, of the first convolution of each block.
        fast_temporal_kernels: the same for the fast pathway.
        spatial_pool: how a frame becomes a token: "mean", or "max", which finds small things on large backgrounds.
        window: side of the windows, one pixel apart, over which the published network takes means before it averages
            these: on maps larger than it was trained on, pixels at the border count less. None for the plain mean.
        lateral_kernel: frames that one lateral connection sees (section 3.4 of the paper, "time-strided convolution").
    """

    width: int
    beta_inverse: int
    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    spatial_strides: tuple[int, ...]
    slow_temporal_kernels: tuple[int, ...]
    fast_temporal_kernels: tuple[int, ...]
    spatial_pool: Literal["mean", "max"]
    window: int | None = None
    lateral_kernel: int = 7

    def __post_init__(self) -> None:
        stages = len(self.depths)
        if (
            not stages
            == len(self.spatial_strides)
            == len(self.slow_temporal_kernels)
            == len(self.fast_temporal_kernels)
        ):
            raise ValueError("depths, spatial strides and temporal kernels must be given for the same number of stages")
        if self.width % self.beta_inverse:
            raise ValueError(f"width {self.width} is not a multiple of beta_inverse {self.beta_inverse}")

    @property
    def fast_width(self) -> int:
        """Channels of the fast stem."""
        return self.width // self.beta_inverse

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last stage, along height and width."""
        total = self.stem_stride * (2 if self.stem_pool else 1)
        for stride in self.spatial_strides:
            total *= stride
        return total

    @property
    def expansion(self) -> int:
        """Output channels of a block per inner channel."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def slow_out(self) -> int:
        """Channels that leave the slow pathway."""
        return self.width * self.expansion << (len(self.depths) - 1)

    @property
    def fast_out(self) -> int:
        """Channels that leave the fast pathway."""
        return self.slow_out // self.beta_inverse


R50: Final = Size(
    width=64,
    beta_inverse=8,
    block="bottleneck",
    depths=(3, 4, 6, 3),
    stem_kernel=7,
    stem_stride=2,
    stem_pool=True,
    spatial_strides=(1, 2, 2, 2),
    slow_temporal_kernels=(1, 1, 3, 3),
    fast_temporal_kernels=(3, 3, 3, 3),
    spatial_pool="mean",
    window=7,
)

SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "tiny": Size(
            width=16,
            beta_inverse=2,
            block="basic",
            depths=(1, 1, 1),
            stem_kernel=5,
            stem_stride=2,
            stem_pool=False,
            spatial_strides=(1, 2, 2),
            slow_temporal_kernels=(1, 1, 3),
            fast_temporal_kernels=(3, 3, 3),
            spatial_pool="max",
        ),
        "small": Size(
            width=32,
            beta_inverse=4,
            block="basic",
            depths=(2, 2, 2, 2),
            stem_kernel=7,
            stem_stride=2,
            stem_pool=False,
            spatial_strides=(1, 2, 2, 2),
            slow_temporal_kernels=(1, 1, 3, 3),
            fast_temporal_kernels=(3, 3, 3, 3),
            spatial_pool="max",
        ),
        "r50": R50,
        "r101": replace(R50, depths=(3, 4, 23, 3), lateral_kernel=5),
    }
)
"""The sizes by name. `r50` and `r101` are slowfast_r50 and slowfast_r101 of PyTorchVideo (SlowFast 8x8)."""
