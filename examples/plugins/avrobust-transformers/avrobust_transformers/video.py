"""`transformers-video`: VideoMAE, TimeSformer and ViViT on clips of pictures."""

from typing import Any

from torch import Tensor

from avrobust_core import Encoded, EncodedDims, Encoder, MediaSpec
from avrobust_transformers.configs import VideoConfig
from avrobust_transformers.loading import load
from avrobust_transformers.preparing import Pictures, side_of

FIRST = ("timesformer", "vivit")
"""Models whose own classifiers read the first token."""


class TransformersVideo(Encoder):
    """The last hidden states as tokens; the first of them, or their mean, as the embedding.

    Args:
        model: of transformers, from pictures (B, F, 3, h, w).
        frontend: from clips (B, 3, T, H, W) in [0, 1] to those.
        first: whether the embedding is the first token.
    """

    time_axis = 0

    def __init__(self, model: Any, frontend: Pictures, *, first: bool) -> None:
        super().__init__()
        width = int(model.config.hidden_size)
        self.dims = EncodedDims(token=width, embed=width)
        self.frontend = frontend
        self.model = model
        self.first = first

    def encode(self, features: Tensor) -> Encoded:
        """From pictures (B, F, 3, h, w) to tokens (B, L, D) and pooled (B, D)."""
        tokens = self.model(pixel_values=features).last_hidden_state
        return Encoded(tokens=tokens, pooled=tokens[:, 0] if self.first else tokens.mean(dim=1))


def make_video(config: VideoConfig, media: MediaSpec) -> TransformersVideo:
    """Make the encoder for clips of pictures.

    Raises:
        AvrobustError: if there is no such model; see `load`.
        DataError: if the modality is no clip of pictures.
    """
    media.require("pictures", "video", (3, "frames", "height", "width"))
    loaded = load(config, ["video"], classifies=False)
    pooling = config.pooling or ("first" if loaded.settings.model_type in FIRST else "mean")
    frontend = Pictures(int(loaded.settings.num_frames), loaded.preparation, side_of(loaded.settings))
    return TransformersVideo(loaded.model, frontend, first=pooling == "first")
