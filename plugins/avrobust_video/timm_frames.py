"""Image networks of timm, applied to each frame by itself."""

from typing import Any

from torch import Tensor, nn

from avrobust_core import (
    AvrobustError,
    CheckpointLayout,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    MediaSpec,
    PixelNormalisation,
    State,
)
from avrobust_video.configs import TimmFramesConfig
from avrobust_video.convolution import checked
from avrobust_video.pictures import PICTURES

BACKBONE = "backbone."
"""Prefix of the image network's keys."""


def make_timm_frames(config: TimmFramesConfig, media: MediaSpec) -> "TimmFrames":
    """Make the encoder for a clip of pictures.

    Raises:
        AvrobustError: if timm is not installed, or has no such network, or it has several classifiers.
        DataError: if the modality is not a clip of pictures, or not of the one size that the network takes.
    """
    media.require(*PICTURES)
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as error:
        raise AvrobustError("the encoder timm-frames needs timm: pip install 'avrobust[timm]'") from error
    if not timm.is_model(config.model):
        near = timm.list_models(f"{config.model[:4]}*")[:5]
        hint = f"; those that begin alike: {', '.join(near)}" if near else ""
        raise AvrobustError(f"timm {timm.__version__} has no model {config.model!r}{hint}; see timm.list_models()")
    backbone = timm.create_model(config.model, pretrained=False, num_classes=0)
    settings = backbone.pretrained_cfg
    classifier = settings.get("classifier")
    if not isinstance(classifier, str):
        raise AvrobustError(
            f"timm's {config.model} has no single classifier, but {classifier!r}, so that its logits are no linear map "
            "of one embedding; choose another model"
        )
    side = tuple(media.shape[2:])
    if settings.get("fixed_input_size") and side != tuple(settings["input_size"][1:]):
        needed = "x".join(map(str, settings["input_size"][1:]))
        raise DataError(
            f"timm's {config.model} takes pictures of {needed} only, and these are {side[0]}x{side[1]}; resize the "
            "data set's, or choose a convolutional model"
        )
    data = resolve_model_data_config(backbone)
    return TimmFrames(backbone, classifier, PixelNormalisation(data["mean"], data["std"]), config.dropout)


def timm_layout(backbone: nn.Module, classifier: str) -> CheckpointLayout:
    """Timm's own layout of an image network: the backbone's keys, and the classifier's, which becomes the head."""
    keys = list(backbone.state_dict())

    def convert(state: State) -> State:
        start = f"{classifier}."
        return {
            f"head.{key.removeprefix(start)}" if key.startswith(start) and key not in keys else BACKBONE + key: value
            for key, value in state.items()
        }

    return CheckpointLayout(
        name="timm", marks=(keys[0], keys[-1].replace("num_batches_tracked", "weight")), convert=convert
    )


class TimmFrames(Encoder):
    """An image network on each frame; a token is a frame's embedding, and the pooled embedding their mean.

    With the published classifier as head, a clip's logits are the mean of its frames' logits.

    Args:
        backbone: a network of timm without a classifier.
        classifier: what timm calls the classifier.
        frontend: the normalisation of the pixels that the network was trained with.
        dropout: probability, on the pooled embedding, in training only.
    """

    time_axis = 1

    def __init__(self, backbone: Any, classifier: str, frontend: PixelNormalisation, dropout: float = 0.0) -> None:
        super().__init__()
        width = int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)
        self.dims = EncodedDims(token=width, embed=width)
        self.frontend = frontend
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.layouts = (timm_layout(backbone, classifier),)

    def encode(self, features: Tensor) -> Encoded:
        """From normalised pixels (B, 3, T, H, W) to tokens (B, T, D) and their mean (B, D)."""
        clips, frames = features.shape[0], features.shape[2]
        embedded = checked(self.backbone(features.transpose(1, 2).flatten(0, 1)))
        tokens = embedded.reshape(clips, frames, -1)
        return Encoded(tokens=tokens, pooled=checked(self.dropout(tokens.mean(dim=1))))
