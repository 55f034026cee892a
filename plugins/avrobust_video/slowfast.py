"""SlowFast networks: a slow pathway for what is seen, a fast one for how it moves, and lateral connections.

Source: Feichtenhofer, Fan, Malik, He, "SlowFast Networks for Video Recognition", ICCV 2019 (arXiv 1812.03982). The
parameters have the names and shapes of PyTorchVideo's `slowfast_r50`; `P` below is its pathway index, 0 slow, 1 fast.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import DataError, Encoded, EncodedDims, Encoder, MediaSpec, PixelNormalisation
from avrobust_video.configs import SlowFastConfig
from avrobust_video.convolution import Residual, Stage, checked, conv_norm, normalised
from avrobust_video.pictures import PICTURES, check_side, pool_space
from avrobust_video.published import PYSLOWFAST, SLOWFAST_R50, pytorchvideo
from avrobust_video.sizes import SIZES, Size


class Stem(nn.Module):
    """The first layer of a pathway: convolution, normalisation, ReLU and an optional max-pool."""

    def __init__(self, outputs: int, temporal_kernel: int, size: Size) -> None:
        super().__init__()
        k = size.stem_kernel
        self.conv, self.norm = conv_norm(3, outputs, (temporal_kernel, k, k), (1, 2, 2))
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if size.stem_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 3, T, H, W) to (B, C, T, H', W')."""
        return checked(self.pool(F.relu_(normalised(self.conv, self.norm, x))))


class Bottleneck(nn.Module):
    """Temporal convolution, 1x3x3 convolution, 1x1x1 convolution, each normalised."""

    def __init__(self, inputs: int, inner: int, outputs: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_a, self.norm_a = conv_norm(inputs, inner, (temporal_kernel, 1, 1))
        self.conv_b, self.norm_b = conv_norm(inner, inner, (1, 3, 3), (1, stride, stride))
        self.conv_c, self.norm_c = conv_norm(inner, outputs, (1, 1, 1))
        nn.init.zeros_(self.norm_c.weight)  # each block starts as its shortcut, which helps deep stacks to train

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        x = F.relu_(normalised(self.conv_a, self.norm_a, x))
        x = F.relu_(normalised(self.conv_b, self.norm_b, x))
        return normalised(self.conv_c, self.norm_c, x)


class Basic(nn.Module):
    """A convolution over time and space and one over space, each 3x3 and normalised.

    Its last normalisation starts at 1, not at 0: in a shallow stack trained for a few epochs, blocks that start as
    their shortcut learn late.
    """

    def __init__(self, inputs: int, outputs: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_a, self.norm_a = conv_norm(inputs, outputs, (temporal_kernel, 3, 3), (1, stride, stride))
        self.conv_b, self.norm_b = conv_norm(outputs, outputs, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, T, H, W) to (B, outputs, T, H / stride, W / stride)."""
        x = F.relu_(normalised(self.conv_a, self.norm_a, x))
        return normalised(self.conv_b, self.norm_b, x)


class ResidualBlock(Residual):
    """A basic block, or a bottleneck if it puts out more channels than it has inside, and its shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, temporal_kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride, normalise=True)
        self.branch2 = (
            Basic(inputs, outputs, temporal_kernel, stride)
            if inner == outputs
            else Bottleneck(inputs, inner, outputs, temporal_kernel, stride)
        )


class FastToSlow(nn.Module):
    """The lateral connection: a time-strided convolution of the fast pathway, appended to the slow one's channels."""

    def __init__(self, fast: int, alpha: int, kernel: int) -> None:
        super().__init__()
        self.conv_fast_to_slow, self.norm = conv_norm(fast, 2 * fast, (kernel, 1, 1), (alpha, 1, 1))

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """The slow pathway's (B, C + 2 F, ceil(T / alpha), H, W) from its own C and the fast one's F channels."""
        return torch.cat([slow, F.relu_(normalised(self.conv_fast_to_slow, self.norm, fast))], dim=1)


class TwoPathways(nn.Module):
    """A step of both pathways, slow first, and the lateral connection after it, but for the last."""

    def __init__(self, slow: nn.Module, fast: nn.Module, lateral: FastToSlow | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = lateral

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """From the slow (B, C, T / alpha, H, W) and the fast (B, F, T, H, W) to the same of the next step."""
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        return (slow if self.multipathway_fusion is None else self.multipathway_fusion(slow, fast)), fast


def make_stage(depth: int, inputs: int, inner: int, outputs: int, temporal_kernel: int, stride: int) -> Stage:
    """The blocks of one pathway at one resolution; the first one strides."""
    first = ResidualBlock(inputs, inner, outputs, temporal_kernel, stride)
    return Stage([first, *(ResidualBlock(outputs, inner, outputs, temporal_kernel, 1) for _ in range(1, depth))])


def build_blocks(size: Size, alpha: int) -> nn.ModuleList:
    """The stems (block 0) and the stages (blocks 1, 2, ...) of both pathways."""
    slow, fast = size.width, size.fast_width
    kernel = size.lateral_kernel
    blocks = [TwoPathways(Stem(slow, 1, size), Stem(fast, 5, size), FastToSlow(fast, alpha, kernel))]
    for s, depth in enumerate(size.depths):
        inner, fast_inner, stride = size.width << s, size.fast_width << s, 2 if s else 1
        outer, fast_outer = inner * size.expansion, fast_inner * size.expansion
        last = s == len(size.depths) - 1
        blocks.append(
            TwoPathways(
                make_stage(depth, slow + 2 * fast, inner, outer, 1 if s < 2 else 3, stride),
                make_stage(depth, fast, fast_inner, fast_outer, 3, stride),
                None if last else FastToSlow(fast_outer, alpha, kernel),
            )
        )
        slow, fast = outer, fast_outer
    return nn.ModuleList(blocks)


def slow_frames(frames: int, alpha: int, device: torch.device) -> Tensor:
    """Return the frames that the slow pathway sees: ceil(frames / alpha), evenly from the first to the last; int64.

    Where `alpha` divides `frames` these are the frames of PyTorchVideo's PackPathway. Kept, because making them anew
    would stop a GPU's queue at every pass.
    """
    # A compiler makes them a constant of its graph, and warns of caches that it looks behind.
    return (_slow_frames if torch.compiler.is_compiling() else _kept_slow_frames)(frames, alpha, device)


def _slow_frames(frames: int, alpha: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else a tensor that is kept could not be saved for a later backward pass
        return torch.linspace(0, frames - 1, -(-frames // alpha)).long().to(device)


_kept_slow_frames = lru_cache(maxsize=64)(_slow_frames)


class SlowFast(Encoder):
    """The SlowFast encoder of a clip.

    A published network with its own head gives PyTorchVideo's logits at 32 frames, whatever the size of the pictures.
    (PySlowFast averages probabilities, not logits, over the windows of pictures above 224 pixels.)

    Args:
        config: size, and frames of the fast pathway per frame of the slow one.
        media: pictures.

    Raises:
        DataError: if the modality is not a clip of pictures, or its clips are too short or too small.
    """

    time_axis = 1

    def __init__(self, config: SlowFastConfig, media: MediaSpec) -> None:
        super().__init__()
        size = SIZES[config.size]
        media.require(*PICTURES)
        if media.shape[1] < config.alpha:
            raise DataError(
                f"clips of {media.shape[1]} frames are too short for alpha {config.alpha}, one slow frame per "
                f"{config.alpha}; use longer clips, or lower alpha"
            )
        check_side(media, size.total_stride)
        width = size.slow_out + size.fast_out
        self.dims = EncodedDims(token=width, embed=width)
        self.alpha = config.alpha
        published = config.size == "r50" and media.shape[1] == 32 and config.alpha == 4
        mark = "blocks.0.multipathway_blocks.0.conv.weight"
        self.layouts = (pytorchvideo(6, mark, SLOWFAST_R50 if published else None), PYSLOWFAST)
        self.frontend = PixelNormalisation()
        self.blocks = build_blocks(size, config.alpha)
        self.window = size.window
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, features: Tensor) -> Encoded:
        """From normalised pixels (B, 3, T, H, W) to one token per frame of the slow pathway.

        The fast pathway is averaged over the alpha frames that belong to a token: tokens (B, ceil(T / alpha), D).
        Space is averaged, or its maximum taken, as the size says; `pooled` (B, D) is the average over time of that.
        In both the slow pathway's channels come first.
        """
        fast = features
        slow = features.index_select(2, slow_frames(features.shape[2], self.alpha, features.device))
        for block in self.blocks:
            slow, fast = block(slow, fast)
        slow, fast = (pool_space(x, self.window) for x in (slow, fast))
        aligned = F.avg_pool1d(fast, self.alpha, self.alpha, ceil_mode=True)
        tokens = torch.cat([slow, aligned], dim=1).transpose(1, 2)
        pooled = torch.cat([slow.mean(dim=2), fast.mean(dim=2)], dim=1)
        return Encoded(tokens=tokens, pooled=self.dropout(pooled))
