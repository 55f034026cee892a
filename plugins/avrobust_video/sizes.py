"""The sizes of the SlowFast network, as data; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Widths, depths and strides of a SlowFast network.

    Stage s (from 0) has blocks of inner width `width * 2**s` in the slow pathway, and `1 / beta_inverse` of that in the
    fast one. The first block of each stage but the first halves height and width, and so do the stems. The first
    convolution of a block sees 3 frames, but one in the slow pathway's first two stages.

    Attributes:
        width: channels of the slow stem; a multiple of beta_inverse.
        beta_inverse: slow channels per fast channel; the paper's 1 / beta.
        depths: blocks per stage.
        expansion: output channels of a block per inner channel. 4 for bottleneck blocks (temporal, 1x3x3 and 1x1x1
            convolution, as in ResNet-50), 1 for basic ones (two 3x3 convolutions, as in ResNet-18, which learns from
            far fewer clips at small widths).
        stem_kernel: spatial kernel of both stems.
        stem_pool: whether a 3x3 max-pool of stride 2 follows each stem.
        lateral_kernel: frames that one lateral connection sees (section 3.4 of the paper, "time-strided convolution").
        window: side of the windows, one pixel apart, over which the published network takes means before it averages
            these: on maps larger than it was trained on, pixels at the border count less. None for the maximum over
            all pixels, which finds small things on large backgrounds.
    """

    width: int
    beta_inverse: int
    depths: tuple[int, ...]
    expansion: int = 1
    stem_kernel: int = 7
    stem_pool: bool = False
    lateral_kernel: int = 7
    window: int | None = None

    @property
    def fast_width(self) -> int:
        """Channels of the fast stem."""
        return self.width // self.beta_inverse

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last stage, along height and width."""
        return 1 << (len(self.depths) + self.stem_pool)

    @property
    def slow_out(self) -> int:
        """Channels that leave the slow pathway."""
        return self.width * self.expansion << (len(self.depths) - 1)

    @property
    def fast_out(self) -> int:
        """Channels that leave the fast pathway."""
        return self.slow_out // self.beta_inverse


R50: Final = Size(width=64, beta_inverse=8, depths=(3, 4, 6, 3), expansion=4, stem_pool=True, window=7)

SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "tiny": Size(width=16, beta_inverse=2, depths=(1, 1, 1), stem_kernel=5),
        "small": Size(width=32, beta_inverse=4, depths=(2, 2, 2, 2)),
        "r50": R50,
        "r101": replace(R50, depths=(3, 4, 23, 3), lateral_kernel=5),
    }
)
"""The sizes by name. `r50` and `r101` are slowfast_r50 and slowfast_r101 of PyTorchVideo (SlowFast 8x8)."""
