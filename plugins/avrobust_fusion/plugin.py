"""The plugin `fusion`: ways to fuse what the encoders of the modalities return, and `raw` for those that encode."""

from collections.abc import Iterator, Sequence
from typing import Final

from avrobust_core import Component, hookimpl
from avrobust_fusion import configs

REFERENCE: Final = "https://arxiv.org/abs/2203.12122"
BOTTLENECKS: Final = "https://arxiv.org/abs/2107.00135"
CAV_MAE: Final = "https://arxiv.org/abs/2210.07839"
FUSIONS: Final = (
    Component(
        name="concat",
        summary="Concatenate the pooled embeddings; a linear head on them, or a hidden layer before it.",
        config=configs.ConcatConfig,
        build="avrobust_fusion.late:Concat",
        references=(REFERENCE,),
    ),
    Component(
        name="sum",
        summary="Map each pooled embedding linearly to one width and add them.",
        config=configs.SumConfig,
        build="avrobust_fusion.late:Sum",
        references=(REFERENCE,),
        example={"dim": 64},
    ),
    Component(
        name="early",
        summary="One transformer over all tokens from the start; for the encoders audio-patches and video-patches.",
        config=configs.EarlyConfig,
        build="avrobust_fusion.joint:JointTransformer",
        references=(BOTTLENECKS,),
        example={"width": 64, "layers": 2},
    ),
    Component(
        name="mid",
        summary="A transformer over the tokens of deep encoders, whose modalities exchange through bottleneck tokens.",
        config=configs.MidConfig,
        build="avrobust_fusion.bottlenecks:mid",
        references=(BOTTLENECKS, REFERENCE),
        example={"width": 64},
    ),
    Component(
        name="attention",
        summary="Cross-modal attention: each modality's tokens look at those of the others.",
        config=configs.AttentionConfig,
        build="avrobust_fusion.cross_modal:CrossModalAttention",
        references=("https://arxiv.org/abs/1906.00295",),
        example={"width": 64},
    ),
    Component(
        name="gated",
        summary="Add the mapped embeddings through gates, which decide clip by clip how much each modality counts.",
        config=configs.GatedConfig,
        build="avrobust_fusion.gated:Gated",
        references=("https://arxiv.org/abs/1702.01992",),
        example={"dim": 64},
    ),
    Component(
        name="decision",
        summary="A classifier per modality; their logits or probabilities averaged with fixed or learned weights.",
        config=configs.DecisionConfig,
        build="avrobust_fusion.decision:Decision",
        references=("https://doi.org/10.1109/34.667881",),
        example={"weights": "learned"},
    ),
    Component(
        name="odd-one-out",
        summary="Experts that leave one modality out each, weighted by a network that tells which one does not fit.",
        config=configs.OddOneOutConfig,
        build="avrobust_fusion.odd_one_out:OddOneOut",
        references=("https://arxiv.org/abs/2206.12714",),
        example={"dim": 64},
    ),
    Component(
        name="cav-mae",
        summary="CAV-MAE's joint transformer layers over the tokens of audio and video; reads whole checkpoints of it.",
        config=configs.CavMaeFusionConfig,
        build="avrobust_fusion.cav_mae_joint:CavMae",
        references=(CAV_MAE,),
        example={"width": 64, "heads": 4},
    ),
)


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """The encoder that does nothing."""
    yield Component(
        name="raw",
        summary="Hand the input on as it is, for a fusion that is a whole model (avrobust_core.WholeModel).",
        config=configs.RawConfig,
        build="avrobust_fusion.raw:raw",
    )
    yield Component(
        name="cav-mae-audio",
        summary="CAV-MAE's audio layers over a filter bank; reads its checkpoints, for the fusion cav-mae or alone.",
        config=configs.CavMaeAudioConfig,
        build="avrobust_fusion.cav_mae_branches:CavMaeAudio",
        references=(CAV_MAE,),
        example={"frames": 96, "width": 64, "depth": 2, "heads": 4},
    )
    yield Component(
        name="cav-mae-video",
        summary="CAV-MAE's layers over a clip's middle picture; reads its checkpoints, for the fusion or alone.",
        config=configs.CavMaeVideoConfig,
        build="avrobust_fusion.cav_mae_branches:CavMaeVideo",
        references=(CAV_MAE,),
        example={"width": 64, "depth": 2, "heads": 4},
    )


@hookimpl
def avrobust_fusions() -> Sequence[Component]:
    """Fusions of tokens (early, mid, attention), of embeddings (late), and of decisions."""
    return FUSIONS
