"""The plugin `audio`: encoders of waveforms."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_audio.configs import CnnConfig
from avrobust_core import Component, hookimpl

if TYPE_CHECKING:
    from avrobust_core import Encoder, MediaSpec


def _build_cnn(config: CnnConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_audio.cnn import Cnn
    from avrobust_audio.frontend import make_log_mel

    cnn = Cnn(make_log_mel(config, media), channels=config.channels, embed=config.embed, dropout=config.dropout)
    cnn.check(samples=media.shape[1])
    return cnn


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """The convolutional family."""
    yield Component(
        name="cnn",
        summary="Log-mel spectrogram and blocks of 3x3 convolutions, in the manner of PANNs, from a waveform.",
        config=CnnConfig,
        build=_build_cnn,
        references=("https://arxiv.org/abs/1912.10211",),
        example={"channels": [16, 32, 64]},
    )
