"""The sizes of the SlowFast network, as data; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Widths, depths and strides of a SlowFast network.

    Stage s (from 0) has bottleneck blocks of inner width `width * 2**s` and output width four times that in the slow
    pathway, and `1 / beta_inverse` of both in the fast pathway.

    Attributes:
        width: channels of the slow stem.
        beta_inverse: slow channels per fast channel; the paper's 1 / beta.
        depths: bottleneck blocks per stage.
        stem_kernel: spatial kernel of both stems.
        stem_stride: spatial stride of both stems.
        stem_pool: whether a 3x3 max-pool of stride 2 follows each stem.
        spatial_strides: per stage, on its first block.
        slow_temporal_kernels: per stage, of the first convolution of each block.
        fast_temporal_kernels: the same for the fast pathway.
    """

    width: int
    beta_inverse: int
    depths: tuple[int, ...]
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    spatial_strides: tuple[int, ...]
    slow_temporal_kernels: tuple[int, ...]
    fast_temporal_kernels: tuple[int, ...]

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
    def slow_out(self) -> int:
        """Channels that leave the slow pathway."""
        return self.width * 4 << (len(self.depths) - 1)

    @property
    def fast_out(self) -> int:
        """Channels that leave the fast pathway."""
        return self.slow_out // self.beta_inverse


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "tiny": Layout(
            width=16,
            beta_inverse=2,
            depths=(1, 1, 1),
            stem_kernel=5,
            stem_stride=2,
            stem_pool=False,
            spatial_strides=(2, 2, 2),
            slow_temporal_kernels=(1, 1, 3),
            fast_temporal_kernels=(3, 3, 3),
        ),
        "small": Layout(
            width=32,
            beta_inverse=4,
            depths=(2, 2, 2, 2),
            stem_kernel=7,
            stem_stride=2,
            stem_pool=False,
            spatial_strides=(1, 2, 2, 2),
            slow_temporal_kernels=(1, 1, 3, 3),
            fast_temporal_kernels=(3, 3, 3, 3),
        ),
        "r50": Layout(
            width=64,
            beta_inverse=8,
            depths=(3, 4, 6, 3),
            stem_kernel=7,
            stem_stride=2,
            stem_pool=True,
            spatial_strides=(1, 2, 2, 2),
            slow_temporal_kernels=(1, 1, 3, 3),
            fast_temporal_kernels=(3, 3, 3, 3),
        ),
    }
)
"""The layouts by size. `r50` is slowfast_r50 of PyTorchVideo (SlowFast 8x8, R50)."""
