"""The audio spectrogram transformer: a vision transformer over overlapping patches of a filter bank.

Source: Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", 2021 (arXiv 2104.01778), section 2, and its
checkpoints, whose names the parameters have. Its augmentation in training and its transfer from ImageNet are
left out.
"""

from typing import Final, cast

import torch
from torch import Tensor, nn

from avrobust_audio.ast_layouts import ast_layouts
from avrobust_audio.configs import PATCH, AstConfig
from avrobust_core import Encoded, EncodedDims, Encoder, KaldiFbank, MediaSpec, PatchEmbed, VitLayer, linear

NORM_EPS: Final = 1e-6
"""The eps of the norms in DeiT, from which AST takes its transformer; the classifier's has PyTorch's 1e-5."""

SPECIAL: Final = 2
"""The class token and the distillation token, before those of the patches."""


class DistilledTransformer(nn.Module):
    """DeiT with a distillation token (Touvron et al., 2021, arXiv 2012.12877), without its classifiers.

    Args:
        config: sizes and strides.
        patches: how many there are.
    """

    def __init__(self, config: AstConfig, patches: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.dist_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, patches + SPECIAL, config.width))
        self.patch_embed = PatchEmbed(1, config.width, PATCH, (config.fstride, config.tstride))
        self.blocks = nn.ModuleList(VitLayer(config.width, config.heads, NORM_EPS) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        for parameter in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """From maps (B, 1, bands, frames) to normalised tokens (B, 2 + patches, D)."""
        special = (self.cls_token, self.dist_token)
        x = torch.cat((*(token.expand(len(x), -1, -1) for token in special), self.patch_embed(x)), dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))


class TwoTokenHead(nn.Sequential):
    """The published classifier: a norm and a linear map of the mean of the first two tokens.

    Args:
        width: D of the tokens.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.LayerNorm(width), linear(width, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens (B, T, D) to logits (B, K)."""
        norm, classifier = self
        return cast(Tensor, classifier(norm(two_token_mean(tokens))))


class SpectrogramTransformer(Encoder):
    """AST, from a waveform of 16 kHz to its tokens and the embedding that it classifies.

    Tokens are the class token, the distillation token, and those of the patches, from low to high bands and in each
    band through time. With its head it has the parameters and the logits of the published model.

    A checkpoint for another number of frames is read as the original does it: its positions in time are cut from
    the middle where there are fewer patches, and interpolated linearly where there are more.

    Args:
        config: sizes, strides and normalisation.
        media: a waveform of 16 kHz.

    Raises:
        DataError: if the modality is not a waveform of 16 kHz, or its clips are too short.
    """

    frontend: KaldiFbank
    time_axis = 1

    def __init__(self, config: AstConfig, media: MediaSpec) -> None:
        super().__init__()
        rows = (KaldiFbank.bands - PATCH) // config.fstride + 1
        columns = (config.frames - PATCH) // config.tstride + 1
        self.dims = EncodedDims(token=config.width, embed=config.width)
        media.require("waveforms", "audio", ("channels", "samples"))
        self.frontend = KaldiFbank(media, frames=config.frames, mean=config.mean, scale=2 * config.std)
        self.v = DistilledTransformer(config, rows * columns)
        self.layouts = ast_layouts(rows, columns)

    def encode(self, features: Tensor) -> Encoded:
        """From features (B, 1, frames, 128) to tokens (B, 2 + patches, D) and the mean of the first two (B, D)."""
        tokens = cast(Tensor, self.v(features.transpose(2, 3)))
        return Encoded(tokens=tokens, pooled=two_token_mean(tokens))

    def make_head(self, classes: int) -> TwoTokenHead:
        """The published classifier, from tokens (B, T, D) to logits (B, classes)."""
        return TwoTokenHead(self.dims.token, classes)


def two_token_mean(tokens: Tensor) -> Tensor:
    """The mean of the class token and the distillation token: (B, T, D) to (B, D)."""
    return (tokens[:, 0] + tokens[:, 1]) / 2
