"""CAV-MAE's encoders: a transformer for the filter bank, and one for a picture.

Source: Gong, Rouditchenko, Liu, Harwath, Karlinsky, Kuehne, Glass, "Contrastive Audio-Visual Masked Autoencoder", ICLR
2023 (arXiv 2210.07839), sections 3.3 and 4, and its checkpoints, whose names the parameters have, but for the letter of
the modality. What is not here is its pre-training.
"""

from typing import Final, cast

import torch
from torch import Tensor, nn

from avrobust_core import DataError, Encoded, EncodedDims, Encoder, MediaSpec
from avrobust_vit.blocks import Block, PatchEmbed, grid_positions, make_classifier
from avrobust_vit.cav_mae_layouts import Side, branch_layout
from avrobust_vit.configs import PATCH, CavMaeAudioConfig, CavMaeConfig, CavMaeVideoConfig
from avrobust_vit.fbank import N_MELS, KaldiFbank, check_waveform

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class MiddlePicture(nn.Module):
    """The middle picture of a clip, normalised with ImageNet's statistics.

    CAV-MAE reads one picture. Of ten per clip, its evaluation takes the sixth unless told otherwise; averaging logits
    over pictures is not done here.
    """

    means: Tensor
    stds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("stds", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From pixels (B, 3, T, H, W) in [0, 1] to those of frame T // 2, normalised: (B, 3, H, W).

        In float32 also under autocast.
        """
        with torch.autocast(x.device.type, enabled=False):
            picture = x[:, :, x.shape[2] // 2]
            return ((picture if x.dtype == torch.float64 else picture.float()) - self.means) / self.stds


class LoneHead(nn.Module):
    """What the published model does with one modality alone: joint layers with that modality's norms, and a classifier.

    Args:
        config: sizes.
        classes: K.
    """

    def __init__(self, config: CavMaeConfig, classes: int) -> None:
        super().__init__()
        self.blocks_u = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.joint_depth))
        self.norm = nn.LayerNorm(config.width)
        self.mlp_head = make_classifier(config.width, classes)

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
        frontend: from the raw input to a map of the given channels.
        config: sizes.
        channels: of the map.
        grid: patches down and across.
        side: the letter of the modality in the checkpoints' keys.
    """

    def __init__(
        self, frontend: nn.Module, config: CavMaeConfig, *, channels: int, grid: tuple[int, int], side: Side
    ) -> None:
        super().__init__()
        self.dims = EncodedDims(token=config.width, embed=config.width)
        self.layouts = (branch_layout(side),)
        self.frontend = frontend
        self.config = config
        self.side = side
        self.time_axis = 1 if side == "a" else None
        self.patch_embed = PatchEmbed(channels, config.width)
        self.pos_embed = nn.Parameter(grid_positions(*grid, config.width)[None])
        self.modality = nn.Parameter(torch.empty(1, 1, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        nn.init.normal_(self.modality, std=0.02)

    def encode(self, features: Tensor) -> Encoded:
        """From features to tokens (B, N, D), which are not normalised, and their mean (B, D).

        Args:
            features: (B, 1, frames, 128), whose tokens go from low to high bands and in each band through time; or
                pictures (B, 3, H, W), whose tokens go row by row.
        """
        maps = features.transpose(2, 3) if self.side == "a" else features
        tokens = cast(Tensor, self.patch_embed(maps)) + self.pos_embed + self.modality
        for block in self.blocks:
            tokens = block(tokens)
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))

    def make_head(self, classes: int) -> LoneHead:
        """The published model's way from this modality's tokens (B, T, D) alone to logits (B, classes)."""
        return LoneHead(self.config, classes)


def make_cav_mae_audio(config: CavMaeAudioConfig, media: MediaSpec) -> CavMaeBranch:
    """The audio encoder for a modality.

    Raises:
        DataError: if the modality is no waveform of 16 kHz, or is too short.
    """
    check_waveform(media)
    frontend = KaldiFbank(frames=config.frames, mean=config.mean, scale=config.std)
    return CavMaeBranch(frontend, config, channels=1, grid=(N_MELS // PATCH, config.frames // PATCH), side="a")


def make_cav_mae_video(config: CavMaeVideoConfig, media: MediaSpec) -> CavMaeBranch:
    """The video encoder for a modality.

    Raises:
        DataError: if the modality is no clip of pictures, or a side is no whole number of patches.
    """
    if media.kind != "video" or len(media.shape) != 4 or media.shape[0] != 3:
        raise DataError(
            f"this encoder reads pictures, kind 'video' of shape (3, frames, height, width), not kind {media.kind!r} "
            f"of shape {media.shape}; give this modality another encoder"
        )
    _, _, height, width = media.shape
    if not height or not width or height % PATCH or width % PATCH:
        raise DataError(
            f"pictures of {height}x{width} cannot be cut into patches of {PATCH}x{PATCH}; resize the data set's to "
            f"multiples of {PATCH}, and to 224x224 for the published weights"
        )
    return CavMaeBranch(MiddlePicture(), config, channels=3, grid=(height // PATCH, width // PATCH), side="v")
