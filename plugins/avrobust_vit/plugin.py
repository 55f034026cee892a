"""The plugin `vit`: the audio spectrogram transformer, and CAV-MAE's encoders and fusion."""

from collections.abc import Iterator
from typing import Final

from avrobust_core import Component, hookimpl
from avrobust_vit.configs import AstConfig, CavMaeAudioConfig, CavMaeFusionConfig, CavMaeVideoConfig

AST: Final = "https://arxiv.org/abs/2104.01778"
CAV_MAE: Final = "https://arxiv.org/abs/2210.07839"


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """AST, and CAV-MAE's two encoders."""
    yield Component(
        name="ast",
        summary="Audio spectrogram transformer of 86.6 million parameters; reads its checkpoints and transformers'.",
        config=AstConfig,
        build="avrobust_vit.spectrogram_transformer:SpectrogramTransformer",
        references=(AST,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="cav-mae-audio",
        summary="CAV-MAE's audio layers over a filter bank; reads its checkpoints, for the fusion cav-mae or alone.",
        config=CavMaeAudioConfig,
        build="avrobust_vit.cav_mae_branches:make_cav_mae_audio",
        references=(CAV_MAE,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="cav-mae-video",
        summary="CAV-MAE's layers over a clip's middle picture; reads its checkpoints, for the fusion or alone.",
        config=CavMaeVideoConfig,
        build="avrobust_vit.cav_mae_branches:make_cav_mae_video",
        references=(CAV_MAE,),
        example={"width": 64, "depth": 2, "heads": 4},
    )


@hookimpl
def avrobust_fusions() -> Iterator[Component]:
    """CAV-MAE's joint layers."""
    yield Component(
        name="cav-mae",
        summary="CAV-MAE's joint transformer layers over the tokens of audio and video; reads whole checkpoints of it.",
        config=CavMaeFusionConfig,
        build="avrobust_vit.cav_mae_joint:CavMae",
        references=(CAV_MAE,),
        example={"width": 64, "heads": 4},
    )
