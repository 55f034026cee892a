"""`transformers-classifier`: a classifier of transformers as a whole model, its own head included."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from avrobust_core import DataError, EncodedDims, RawDims, WholeModel
from avrobust_transformers.audio import refuse_short
from avrobust_transformers.configs import ClassifierConfig
from avrobust_transformers.loading import load
from avrobust_transformers.preparing import Pictures, side_of, waveform_of

HEAD = "model.classifier"
"""The name of the last layer: a data set of other classes gets a new one."""


def make_classifier(config: ClassifierConfig, inputs: Mapping[str, EncodedDims]) -> WholeModel:
    """Make the classifier a model of a spec; it takes one modality, by whatever name.

    Raises:
        AvrobustError: if there is no such model; see `load`.
        DataError: if there is not one modality, or it is not what the model reads.
        ComponentError: if the encoder is not `raw`.
    """
    loaded = load(config, ["audio", "video"], classifies=True)
    if len(inputs) != 1:
        raise DataError(f"transformers-classifier reads one modality, and there are: {', '.join(sorted(inputs))}")
    ((modality, dims),) = inputs.items()
    needed = "sound (C, T)" if loaded.kind == "audio" else "pictures (3, T, H, W)"
    if isinstance(dims, RawDims) and len(dims.shape) != (2 if loaded.kind == "audio" else 4):
        raise DataError(
            f"a {loaded.settings.model_type} model reads {needed}, and {modality} has the shape {dims.shape}"
        )
    frontend: nn.Module
    if loaded.kind == "audio":
        if isinstance(dims, RawDims):
            refuse_short(loaded.model, dims.shape[1])
        frontend = waveform_of(loaded.preparation, None)
    else:
        frontend = Pictures(int(loaded.settings.num_frames), loaded.preparation, side_of(loaded.settings))
    classes = int(loaded.settings.num_labels)
    return WholeModel(Classifier(loaded.model, frontend, modality), inputs, classes=classes, head=HEAD)


class Classifier(nn.Module):
    """From {modality: (B, ...)} raw to logits (B, K).

    Args:
        model: of transformers, with a head.
        frontend: from the raw modality to what it reads.
        modality: its name.
    """

    def __init__(self, model: Any, frontend: nn.Module, modality: str) -> None:
        super().__init__()
        self.frontend = frontend
        self.model = model
        self.modality = modality

    def forward(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        return cast(Tensor, self.model(self.frontend(clips[self.modality])).logits)
