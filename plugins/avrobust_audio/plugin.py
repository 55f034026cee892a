"""The plugin `audio`: encoders of waveforms."""

from collections.abc import Iterator
from typing import Final

from avrobust_audio import configs
from avrobust_core import Component, hookimpl

PANNS: Final = "https://arxiv.org/abs/1912.10211"
AST: Final = "https://arxiv.org/abs/2104.01778"


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """Convolutional networks, the reference's encoder, AST, and patches."""
    yield Component(
        name="cnn",
        summary="Log-mel spectrogram and blocks of 3x3 convolutions, in the manner of PANNs, from a waveform.",
        config=configs.CnnConfig,
        build="avrobust_audio.cnn:Cnn",
        references=(PANNS,),
        example={"channels": [16, 32, 64]},
    )
    for name, millions in (("cnn6", 4.8), ("cnn10", 5.2), ("cnn14", 80.8)):
        yield Component(
            name=name,
            summary=f"PANNs' {name.capitalize()} of {millions:g} million parameters; reads its published checkpoints.",
            config=configs.PannsConfig,
            build=f"avrobust_audio.panns:{name.capitalize()}",
            references=(PANNS,),
        )
    yield Component(
        name="tal-trans",
        summary="The reference's audio encoder: ten convolutions, a weight-tied transformer layer, attention pooling.",
        config=configs.TalTransConfig,
        build="avrobust_audio.tal_trans:TalTrans",
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/1810.09050"),
        example={"embed": 128, "heads": 4},
        version=2,  # other initial weights
    )
    yield Component(
        name="ast",
        summary="Audio spectrogram transformer of 86.6 million parameters; reads its checkpoints and transformers'.",
        config=configs.AstConfig,
        build="avrobust_audio.spectrogram_transformer:SpectrogramTransformer",
        references=(AST,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="audio-patches",
        summary="Patches of the log-mel spectrogram, projected: tokens for a transformer that fuses from the start.",
        config=configs.PatchesConfig,
        build="avrobust_audio.patches:AudioPatches",
        references=(AST,),
        example={"width": 64},
    )
