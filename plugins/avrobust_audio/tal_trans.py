"""The audio encoder of the reference study: convolutions, one transformer layer applied again and again.

Source: Li, Qu, Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122), whose convolutions are those of TALNet (Wang, Li,
Metze 2019, arXiv 1810.09050). Its weights were not published. What the papers leave open is our own reading: the front
end beyond its 400 frames by 64 bands, the normalisation of the bands, the layer's heads, its hidden width, its
positions and how often it is applied.
"""

from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_audio.blocks import ConvBlock
from avrobust_audio.configs import POOLS, TalTransConfig
from avrobust_audio.frontend import LogMel, ReadyMade, front_end
from avrobust_core import (
    AttentionPooling,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    MediaSpec,
    TransformerLayer,
    sinusoids,
)

TIME_POOLS: Final = 2
"""The first pools, which halve time too."""


class TalTrans(Encoder):
    """Ten 3x3 convolutions and five max-pools over a log-mel spectrogram, then a weight-tied transformer layer.

    Both convolutions before a pool have as many channels as make `embed` values per step after it, so that the width
    doubles as the bands halve. A token is all channels and bands that are left of four frames. In a model with this
    encoder alone the head is attention pooling.

    Args:
        config: of the front end, and the widths.
        media: a waveform, or its spectrogram.

    Raises:
        DataError: if the modality is neither, or its clips are too short.
        AvrobustError: if the front end does not fit the sample rate.
    """

    frontend: LogMel | ReadyMade
    time_axis = 1

    def __init__(self, config: TalTransConfig, media: MediaSpec) -> None:
        super().__init__()
        self.dims = EncodedDims(token=config.embed, embed=config.embed)
        self.frontend = front_end(config, media)
        _check_frames(self.frontend.frames(media.shape[1]))
        self.bn0 = nn.BatchNorm1d(config.n_mels)
        widths = [config.embed * 2**i // config.n_mels for i in range(1, POOLS + 1)]
        self.conv_blocks = nn.ModuleList(
            ConvBlock(inputs, outputs) for inputs, outputs in zip((1, *widths), widths, strict=False)
        )
        self.layer = TransformerLayer(config.embed, config.heads, config.dropout)
        self.repeats = config.repeats
        self.norm = nn.LayerNorm(config.embed)

    def encode(self, features: Tensor) -> Encoded:
        """From decibels (B, 1, frames, bands) to tokens (B, frames // 4, D) and their mean (B, D).

        Raises:
            DataError: if there are too few frames for the pools.
        """
        _check_frames(features.shape[2])
        x = self.bn0(features.squeeze(1).transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        for i, block in enumerate(self.conv_blocks):
            x = F.max_pool2d(block(x), (2, 2) if i < TIME_POOLS else (1, 2))
        tokens = x.transpose(1, 2).flatten(2)
        tokens = tokens + sinusoids(torch.arange(tokens.shape[1], device=x.device), tokens.shape[2]).to(x.dtype)
        for _ in range(self.repeats):
            tokens = self.layer(tokens)
        tokens = cast(Tensor, self.norm(tokens))
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))

    def make_head(self, classes: int) -> AttentionPooling:
        """Attention pooling of the tokens (B, T, D) to logits (B, classes), whose sigmoid is the reference's output."""
        return AttentionPooling(self.dims.token, classes)


def _check_frames(frames: int) -> None:
    least = 2**TIME_POOLS
    if frames < least:
        raise DataError(
            f"{frames} frames are too few: {TIME_POOLS} pools halve time, so at least {least} are needed; use longer "
            "clips, or lower hop_ms"
        )
