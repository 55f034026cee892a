"""The plugin `vit`: the audio spectrogram transformer, and CAV-MAE's encoders and fusion."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from avrobust_core import Component, hookimpl
from avrobust_vit.configs import AstConfig, CavMaeAudioConfig, CavMaeFusionConfig, CavMaeVideoConfig

if TYPE_CHECKING:
    from avrobust_core import EncodedDims, Encoder, Fusion, MediaSpec

AST: Final = "https://arxiv.org/abs/2104.01778"
CAV_MAE: Final = "https://arxiv.org/abs/2210.07839"


def _build_ast(config: AstConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_vit.spectrogram_transformer import make_ast

    return make_ast(config, media)


def _build_cav_mae_audio(config: CavMaeAudioConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_vit.cav_mae_branches import make_cav_mae_audio

    return make_cav_mae_audio(config, media)


def _build_cav_mae_video(config: CavMaeVideoConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_vit.cav_mae_branches import make_cav_mae_video

    return make_cav_mae_video(config, media)


def _build_cav_mae(config: CavMaeFusionConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_vit.cav_mae_joint import CavMae

    return CavMae(config, inputs)


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """AST, and CAV-MAE's two encoders."""
    yield Component(
        name="ast",
        summary="Audio spectrogram transformer of 86.6 million parameters; reads its checkpoints and transformers'.",
        config=AstConfig,
        build=_build_ast,
        references=(AST,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="cav-mae-audio",
        summary="CAV-MAE's audio layers over a filter bank; reads its checkpoints, for the fusion cav-mae or alone.",
        config=CavMaeAudioConfig,
        build=_build_cav_mae_audio,
        references=(CAV_MAE,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="cav-mae-video",
        summary="CAV-MAE's layers over a clip's middle picture; reads its checkpoints, for the fusion or alone.",
        config=CavMaeVideoConfig,
        build=_build_cav_mae_video,
        references=(CAV_MAE,),
        example={"width": 64, "depth": 2, "heads": 4},
    )


@hookimpl
def avrobust_fusions() -> "Iterator[Component[Any, Fusion]]":
    """CAV-MAE's joint layers."""
    yield Component(
        name="cav-mae",
        summary="CAV-MAE's joint transformer layers over the tokens of audio and video; reads whole checkpoints of it.",
        config=CavMaeFusionConfig,
        build=_build_cav_mae,
        references=(CAV_MAE,),
        example={"width": 64, "heads": 4},
    )
