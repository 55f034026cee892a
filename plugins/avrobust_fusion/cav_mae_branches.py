"""CAV-MAE's encoders: a transformer for the filter bank, and one for a picture.

Source: Gong, Rouditchenko, Liu, Harwath, Karlinsky, Kuehne, Glass, "Contrastive Audio-Visual Masked Autoencoder", ICLR
2023 (arXiv 2210.07839), sections 3.3 and 4, and its checkpoints, whose names the parameters have, but for the letter of
the modality. Its pre-training is left out.
"""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from avrobust_core import (
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    KaldiFbank,
    MediaSpec,
    PatchEmbed,
    PixelNormalisation,
    VitLayer,
    linear,
    sinusoids,
)
from avrobust_fusion.cav_mae_layouts import Side, branch_layout
from avrobust_fusion.configs import PATCH, CavMaeAudioConfig, CavMaeConfig, CavMaeVideoConfig


class MiddlePicture(PixelNormalisation):
    """The middle picture of a clip, normalised with ImageNet's statistics.

    CAV-MAE reads one picture. Of ten per clip, its evaluation takes the sixth unless told otherwise; averaging logits
    over pictures is not done here.
    """

    def __init__(self) -> None:
        super().__init__(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def forward(self, x: Tensor) -> Tensor:
        """From pixels (B, 3, T, H, W) in [0, 1] to normalised ones of frame T // 2: (B, 3, H, W), float32 at least."""
        middle = x.shape[2] // 2
        return super().forward(x[:, :, middle : middle + 1]).squeeze(2)


class LoneHead(nn.Module):
    """The published model's way with one modality alone: joint layers with that modality's norms, and a classifier.

    Args:
        config: sizes.
        classes: K.
    """

    def __init__(self, config: CavMaeConfig, classes: int) -> None:
        super().__init__()
        self.blocks_u = nn.ModuleList(VitLayer(config.width, config.heads) for _ in range(config.joint_depth))
        self.norm = nn.LayerNorm(config.width)
        self.mlp_head = nn.Sequential(nn.LayerNorm(config.width), linear(config.width, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens (B, T, D) to logits (B, K)."""
        for block in self.blocks_u:
            tokens = block(tokens)
        return cast(Tensor, self.mlp_head(self.norm(tokens).mean(dim=1)))


class CavMaeBranch(Encoder):
    """One modality's layers, from patches to tokens.

    A model with this encoder alone classifies as the published one does of this modality alone. Positions are learned,
    and there are as many as patches: a checkpoint for clips of another length or size does not fit.

    Args:
        config: sizes.
        frontend: from the raw input to a map of the given channels.
        channels: of the map.
        grid: patches down and across.
    """

    side: ClassVar[Side]

    def __init__(self, config: CavMaeConfig, frontend: nn.Module, *, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.dims = EncodedDims(token=config.width, embed=config.width)
        self.layouts = (branch_layout(self.side),)
        self.frontend = frontend
        self.config = config
        self.patch_embed = PatchEmbed(channels, config.width, PATCH, (PATCH, PATCH))
        self.pos_embed = nn.Parameter(grid_positions(*grid, config.width)[None])
        self.modality = nn.Parameter(torch.empty(1, 1, config.width))
        self.blocks = nn.ModuleList(VitLayer(config.width, config.heads) for _ in range(config.depth))
        nn.init.normal_(self.modality, std=0.02)

    def encode(self, features: Tensor) -> Encoded:
        """From maps (B, C, H, W) to tokens (B, N, D), row by row and not normalised, and their mean (B, D)."""
        tokens = cast(Tensor, self.patch_embed(features)) + self.pos_embed + self.modality
        for block in self.blocks:
            tokens = block(tokens)
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))

    def make_head(self, classes: int) -> LoneHead:
        """Make the published model's way from this modality's tokens (B, T, D) alone to logits (B, classes)."""
        return LoneHead(self.config, classes)


class CavMaeAudio(CavMaeBranch):
    """The layers that hear: tokens go from low to high bands, and in each band through time.

    Args:
        config: sizes and normalisation.
        media: a waveform of 16 kHz.

    Raises:
        DataError: if the modality is another, or too short.
    """

    side = "a"
    time_axis = 1

    def __init__(self, config: CavMaeAudioConfig, media: MediaSpec) -> None:
        media.require("waveforms", "audio", ("channels", "samples"))
        frontend = KaldiFbank(media, frames=config.frames, mean=config.mean, scale=config.std)
        super().__init__(config, frontend, channels=1, grid=(frontend.bands // PATCH, config.frames // PATCH))

    def encode(self, features: Tensor) -> Encoded:
        """From features (B, 1, frames, 128) to tokens (B, N, D), not normalised, and their mean (B, D)."""
        return super().encode(features.transpose(2, 3))


class CavMaeVideo(CavMaeBranch):
    """The layers that see, from a clip's middle picture.

    Args:
        config: sizes.
        media: pictures.

    Raises:
        DataError: if the modality is another, or a side is not a whole number of patches.
    """

    side = "v"

    def __init__(self, config: CavMaeVideoConfig, media: MediaSpec) -> None:
        media.require("pictures", "video", (3, "frames", "height", "width"))
        _, _, height, width = media.shape
        if height % PATCH or width % PATCH:
            raise DataError(
                f"pictures of {height}x{width} cannot be cut into patches of {PATCH}x{PATCH}; resize the data set's to "
                f"multiples of {PATCH}, and to 224x224 for the published weights"
            )
        super().__init__(config, MiddlePicture(), channels=3, grid=(height // PATCH, width // PATCH))


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Positions (rows * columns, width) of a grid, row by row: half of the width tells the column, half the row.

    As in He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022 (arXiv 2111.06377).

    Args:
        rows: of the grid.
        columns: of the grid.
        width: a multiple of 4.
    """
    down = sinusoids(torch.arange(rows), width // 2)[:, None].expand(-1, columns, -1)
    across = sinusoids(torch.arange(columns), width // 2)[None].expand(rows, -1, -1)
    return torch.cat((across, down), dim=2).flatten(0, 1)
