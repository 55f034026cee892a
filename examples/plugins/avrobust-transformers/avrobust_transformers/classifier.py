"""`transformers-classifier`: classifiers of transformers as a whole model, their own heads included."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from avrobust_core import AvrobustError, DataError, EncodedDims, RawDims, WholeModel
from avrobust_transformers.audio import refuse_short
from avrobust_transformers.configs import ClassifierConfig, ModelConfig
from avrobust_transformers.loading import load
from avrobust_transformers.preparing import Pictures, side_of, waveform_of


def make_classifier(config: ClassifierConfig, inputs: Mapping[str, EncodedDims]) -> WholeModel:
    """Make the classifiers a model of a spec, one for each modality.

    A single one's last layer is the model's head: a data set of other classes gets a new one. Of several the logits are
    the mean, and the classes must be as many.

    Raises:
        AvrobustError: if there is no such model (see `load`), the modalities are not those of the configuration, or the
            classifiers have different classes.
        DataError: if a modality is not what its model reads.
        ComponentError: if an encoder is not `raw`.
    """
    if inputs.keys() != config.models.keys():
        raise AvrobustError(
            f"transformers-classifier has models of {', '.join(sorted(config.models))}, and the encoders are of "
            f"{', '.join(sorted(inputs))}: name a model for each"
        )
    parts = {name: _part(name, source, inputs[name]) for name, source in sorted(config.models.items())}
    classes = {name: part.classes for name, part in parts.items()}
    if len(set(classes.values())) > 1:
        raise AvrobustError(f"transformers-classifier takes the mean of logits, and the classes are of {classes}")
    head = f"parts.{next(iter(parts))}.model.classifier" if len(parts) == 1 else None
    return WholeModel(Classifiers(parts), inputs, classes=next(iter(classes.values())), head=head)


def _part(modality: str, source: ModelConfig, dims: EncodedDims) -> "Classifier":
    loaded = load(source, ["audio", "video"], classifies=True)
    sound = loaded.kind == "audio"
    if isinstance(dims, RawDims):
        if len(dims.shape) != (2 if sound else 4):
            raise DataError(
                f"a {loaded.settings.model_type} model reads {'sound (C, T)' if sound else 'pictures (3, T, H, W)'}, "
                f"and {modality} has the shape {dims.shape}: give it another model"
            )
        if sound:
            refuse_short(loaded.model, dims.shape[1])
    frontend: nn.Module
    if sound:
        frontend = waveform_of(loaded.preparation, None)
    else:
        frontend = Pictures(int(loaded.settings.num_frames), loaded.preparation, side_of(loaded.settings))
    return Classifier(loaded.model, frontend, int(loaded.settings.num_labels))


class Classifier(nn.Module):
    """From one raw modality (B, ...) to logits (B, K).

    Args:
        model: of transformers, with a head.
        frontend: from the raw modality to what it reads.
        classes: K.
    """

    def __init__(self, model: Any, frontend: nn.Module, classes: int) -> None:
        super().__init__()
        self.frontend = frontend
        self.model = model
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return cast(Tensor, self.model(self.frontend(x)).logits)


class Classifiers(nn.Module):
    """From {modality: (B, ...)} raw to the mean of the modalities' logits (B, K).

    Args:
        parts: a classifier for each modality.
    """

    def __init__(self, parts: Mapping[str, Classifier]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        return torch.stack([part(clips[name]) for name, part in self.parts.items()]).mean(dim=0)
