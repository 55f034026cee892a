"""A shallow video encoder: patches of space and time, projected, for fusions that do the rest themselves.

Source: the tubelets of Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021 (arXiv 2103.15691), with positions
that fit clips of any length and size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims, Encoder, MediaSpec, PixelNormalisation, sinusoids
from avrobust_video.configs import VideoPatchesConfig
from avrobust_video.convolution import checked
from avrobust_video.pictures import PICTURES


class VideoPatches(Encoder):
    """A linear map of each patch of the normalised clip, plus its position in time, height and width.

    Tokens are affine in the pixels. The last patch of each axis is filled up with mid-grey, which is 0 once normalised.

    Args:
        config: sizes of the patches and width of the tokens.
        media: pictures.

    Raises:
        DataError: if the modality is not a clip of pictures.
    """

    time_axis = 1

    def __init__(self, config: VideoPatchesConfig, media: MediaSpec) -> None:
        super().__init__()
        media.require(*PICTURES)
        self.dims = EncodedDims(token=config.width, embed=config.width)
        self.frontend = PixelNormalisation()
        self.patch = (config.patch_frames, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, self.patch, stride=self.patch)
        nn.init.xavier_uniform_(self.proj.weight.view(config.width, -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def encode(self, features: Tensor) -> Encoded:
        """From normalised pixels (B, 3, T, H, W) to tokens (B, N, D) and their mean (B, D).

        N is the number of patches, of which each axis has its size by that of a patch, rounded up: frame by frame, in
        each row by row.
        """
        missing = [-size % step for size, step in zip(features.shape[2:], self.patch, strict=True)]
        x = F.pad(features, (0, missing[2], 0, missing[1], 0, missing[0])) if any(missing) else features
        grid = checked(self.proj(x)).permute(0, 2, 3, 4, 1)
        frames, height, width = grid.shape[1:4]
        tokens = (grid + grid_positions((frames, height, width), grid.shape[4], grid)).flatten(1, 3)
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))


def grid_positions(shape: tuple[int, int, int], width: int, like: Tensor) -> Tensor:
    """Positions (T, H, W, width) of a grid: a third of the width each tells height and width, the rest time."""
    space = width // 3
    time, height, breadth = (
        sinusoids(torch.arange(steps, device=like.device), part).to(like.dtype)
        for steps, part in zip(shape, (width - 2 * space, space, space), strict=True)
    )
    parts = (time[:, None, None], height[None, :, None], breadth[None, None])
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1)
