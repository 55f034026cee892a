"""A transformer over features of frames that were computed beforehand: the reference study's video encoder.

Source: Li, Qu, Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122), which reads 10 x 2048 features per clip. Its weights
were not published; the projection's width, the heads and the positions are our own reading.
"""

import torch
from torch import Tensor, nn

from avrobust_core import (
    AttentionPooling,
    Encoded,
    EncodedDims,
    Encoder,
    MediaSpec,
    TransformerLayer,
    linear,
    sinusoids,
)
from avrobust_video.configs import FrameTransformerConfig
from avrobust_video.convolution import checked


class FrameTransformer(Encoder):
    """Frame features, projected, plus their position in time, through transformer layers.

    The frontend is the identity: budgets are stated on the features. In a model with this encoder alone the head is
    attention pooling of the tokens; fusions are given the mean of the tokens as the pooled embedding. Clips may have
    any number of frames.

    Args:
        config: widths and depths.
        media: features of frames.

    Raises:
        DataError: if the modality is not a sequence of features.
    """

    time_axis = 0

    def __init__(self, config: FrameTransformerConfig, media: MediaSpec) -> None:
        super().__init__()
        media.require("features of frames", "video", ("frames", "features"))
        self.dims = EncodedDims(token=config.width, embed=config.width)
        self.frontend = nn.Identity()
        self.proj = linear(media.shape[1], config.width)
        self.layers = nn.Sequential(
            *(TransformerLayer(config.width, config.heads, config.dropout) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.width)

    def encode(self, features: Tensor) -> Encoded:
        """From features (B, frames, F) to tokens (B, frames, D) and their mean (B, D)."""
        x = checked(self.proj(features))
        x = x + sinusoids(torch.arange(x.shape[1], device=x.device), x.shape[2]).to(x.dtype)
        tokens = checked(self.norm(self.layers(x)))
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))

    def make_head(self, classes: int) -> nn.Module:
        """Attention pooling of the tokens (B, frames, D) to logits (B, classes); their sigmoid is the probability."""
        return AttentionPooling(self.dims.token, classes)
