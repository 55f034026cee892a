"""The plugin `audio`: encoders of waveforms."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from avrobust_audio.configs import CnnConfig, PannsConfig, PatchesConfig, TalTransConfig
from avrobust_core import Component, hookimpl

if TYPE_CHECKING:
    from avrobust_core import Encoder, MediaSpec

PANNS: Final = "https://arxiv.org/abs/1912.10211"
REFERENCE: Final = "https://arxiv.org/abs/2203.12122"
TALNET: Final = "https://arxiv.org/abs/1810.09050"
AST: Final = "https://arxiv.org/abs/2104.01778"


def _build_cnn(config: CnnConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_audio.cnn import Cnn
    from avrobust_audio.frontend import make_log_mel

    cnn = Cnn(make_log_mel(config, media), channels=config.channels, embed=config.embed, dropout=config.dropout)
    cnn.check(samples=media.shape[1])
    return cnn


def _build_panns(name: str, config: PannsConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_audio.panns import make_panns

    return make_panns(name, config, media)


def _build_tal_trans(config: TalTransConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_audio.frontend import make_log_mel
    from avrobust_audio.tal_trans import TalTrans

    encoder = TalTrans(make_log_mel(config, media), config)
    encoder.check(samples=media.shape[1])
    return encoder


def _build_patches(config: PatchesConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_audio.frontend import make_log_mel
    from avrobust_audio.patches import AudioPatches

    frontend = make_log_mel(config, media)
    frontend.check(media.shape[1], ", or lower window_ms")
    return AudioPatches(frontend, config)


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """Convolutional networks, the reference's encoder, and patches."""
    yield Component(
        name="cnn",
        summary="Log-mel spectrogram and blocks of 3x3 convolutions, in the manner of PANNs, from a waveform.",
        config=CnnConfig,
        build=_build_cnn,
        references=(PANNS,),
        example={"channels": [16, 32, 64]},
    )
    for name, millions in (("cnn6", 4.8), ("cnn10", 5.2), ("cnn14", 80.8)):
        yield Component(
            name=name,
            summary=f"PANNs' {name.capitalize()} of {millions:g} million parameters; reads its published checkpoints.",
            config=PannsConfig,
            build=partial(_build_panns, name),
            references=(PANNS,),
            example={},
        )
    yield Component(
        name="tal-trans",
        summary="The reference's audio encoder: ten convolutions, a weight-tied transformer layer, attention pooling.",
        config=TalTransConfig,
        build=_build_tal_trans,
        references=(REFERENCE, TALNET),
        example={"embed": 128, "heads": 4},
    )
    yield Component(
        name="audio-patches",
        summary="Patches of the log-mel spectrogram, projected: tokens for a transformer that fuses from the start.",
        config=PatchesConfig,
        build=_build_patches,
        references=(AST,),
        example={"width": 64},
    )
