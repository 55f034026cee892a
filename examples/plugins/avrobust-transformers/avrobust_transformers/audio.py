"""`transformers-audio`: Wav2Vec2, HuBERT and WavLM on waveforms."""

from typing import Any

from torch import Tensor

from avrobust_core import DataError, Encoded, EncodedDims, Encoder, MediaSpec
from avrobust_transformers.configs import AudioConfig
from avrobust_transformers.loading import load
from avrobust_transformers.preparing import Waveform, waveform_of


class TransformersAudio(Encoder):
    """The last hidden states as tokens, and their mean as the embedding.

    Args:
        model: of transformers, from waveforms (B, T).
        frontend: from waveforms (B, C, T) to those.
    """

    time_axis = 0

    def __init__(self, model: Any, frontend: Waveform) -> None:
        super().__init__()
        width = int(model.config.hidden_size)
        self.dims = EncodedDims(token=width, embed=width)
        self.frontend = frontend
        self.model = model

    def encode(self, features: Tensor) -> Encoded:
        """From waveforms (B, T) to tokens (B, L, D) and pooled (B, D)."""
        tokens = self.model(features).last_hidden_state
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))


def make_audio(config: AudioConfig, media: MediaSpec) -> TransformersAudio:
    """Make the encoder for sound.

    Raises:
        AvrobustError: if there is no such model; see `load`.
        DataError: if the modality is no sound of the model's sample rate, or its clips are too short.
    """
    media.require("waveforms", "audio", ("channels", "samples"))
    loaded = load(config, ["audio"], classifies=False)
    rate = loaded.preparation.get("sampling_rate", config.rate)
    if rate is not None and media.rate != rate:
        theirs = "no sample rate" if media.rate is None else f"{media.rate:g} Hz"
        raise DataError(
            f"the model reads sound of {rate:g} Hz, and this has {theirs}; resample the data set, or say `rate` where "
            "the model was trained with another"
        )
    refuse_short(loaded.model, media.shape[1])
    return TransformersAudio(loaded.model, waveform_of(loaded.preparation, config.normalise))


def refuse_short(model: Any, samples: int) -> None:
    """Raise a DataError if clips of so many samples are shorter than what the model's convolutions take at once."""
    needed = 1
    for kernel, stride in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
        needed = (needed - 1) * stride + kernel
    if samples < needed:
        raise DataError(f"clips of {samples} samples are too short for the model: at least {needed} are needed")
