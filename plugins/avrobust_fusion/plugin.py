"""The plugin `fusion`: ways to fuse what the encoders of the modalities return, and `raw` for those that encode."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from avrobust_core import Component, hookimpl
from avrobust_fusion.configs import (
    AttentionConfig,
    ConcatConfig,
    DecisionConfig,
    EarlyConfig,
    GatedConfig,
    MidConfig,
    OddOneOutConfig,
    RawConfig,
    SumConfig,
)

if TYPE_CHECKING:
    from avrobust_core import EncodedDims, Encoder, Fusion, MediaSpec

REFERENCE: Final = "https://arxiv.org/abs/2203.12122"
BOTTLENECKS: Final = "https://arxiv.org/abs/2107.00135"
CROSS_MODAL: Final = "https://arxiv.org/abs/1906.00295"
GATED: Final = "https://arxiv.org/abs/1702.01992"
COMBINING: Final = "https://doi.org/10.1109/34.667881"
SINGLE_SOURCE: Final = "https://arxiv.org/abs/2206.12714"


def _pooled(inputs: "Mapping[str, EncodedDims]") -> dict[str, int]:
    return {name: dims.embed for name, dims in inputs.items()}


def _tokens(inputs: "Mapping[str, EncodedDims]") -> dict[str, int]:
    return {name: dims.token for name, dims in inputs.items()}


def _build_raw(_: RawConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_core import Raw

    return Raw(media)


def _build_concat(config: ConcatConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.late import Concat

    return Concat(_pooled(inputs), hidden=config.hidden)


def _build_sum(config: SumConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.late import Sum

    return Sum(_pooled(inputs), dim=config.dim)


def _build_early(config: EarlyConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.joint import JointTransformer

    return JointTransformer(_tokens(inputs), config)


def _build_mid(config: MidConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.bottlenecks import BottleneckTransformer
    from avrobust_fusion.joint import JointTransformer

    widths = _tokens(inputs)
    return BottleneckTransformer(widths, config) if config.bottlenecks else JointTransformer(widths, config)


def _build_attention(config: AttentionConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.cross_modal import CrossModalAttention

    return CrossModalAttention(_tokens(inputs), config)


def _build_gated(config: GatedConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.gated import Gated

    return Gated(_pooled(inputs), config)


def _build_decision(config: DecisionConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.decision import Decision

    return Decision(_pooled(inputs), config)


def _build_odd_one_out(config: OddOneOutConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.odd_one_out import OddOneOut

    return OddOneOut(_pooled(inputs), config)


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """The encoder that does nothing."""
    yield Component(
        name="raw",
        summary="Hand the input on as it is, for a fusion that is a whole model (avrobust_core.WholeModel).",
        config=RawConfig,
        build=_build_raw,
        example={},
    )


@hookimpl
def avrobust_fusions() -> "Iterator[Component[Any, Fusion]]":
    """Fusions of tokens (early, mid, attention), of embeddings (late), and of decisions."""
    yield Component(
        name="concat",
        summary="Concatenate the pooled embeddings; a linear head on them, or a hidden layer before it.",
        config=ConcatConfig,
        build=_build_concat,
        references=(REFERENCE,),
        example={},
    )
    yield Component(
        name="sum",
        summary="Map each pooled embedding linearly to one width and add them.",
        config=SumConfig,
        build=_build_sum,
        references=(REFERENCE,),
        example={"dim": 64},
    )
    yield Component(
        name="early",
        summary="One transformer over all tokens from the start; for the encoders audio-patches and video-patches.",
        config=EarlyConfig,
        build=_build_early,
        references=(BOTTLENECKS,),
        example={"width": 64, "layers": 2},
    )
    yield Component(
        name="mid",
        summary="A transformer over the tokens of deep encoders, whose modalities exchange through bottleneck tokens.",
        config=MidConfig,
        build=_build_mid,
        references=(BOTTLENECKS, REFERENCE),
        example={"width": 64},
    )
    yield Component(
        name="attention",
        summary="Cross-modal attention: each modality's tokens look at those of the others.",
        config=AttentionConfig,
        build=_build_attention,
        references=(CROSS_MODAL,),
        example={"width": 64},
    )
    yield Component(
        name="gated",
        summary="Add the mapped embeddings through gates, which decide clip by clip how much each modality counts.",
        config=GatedConfig,
        build=_build_gated,
        references=(GATED,),
        example={"dim": 64},
    )
    yield Component(
        name="decision",
        summary="A classifier per modality; their logits or probabilities averaged with fixed or learned weights.",
        config=DecisionConfig,
        build=_build_decision,
        references=(COMBINING,),
        example={"weights": "learned"},
    )
    yield Component(
        name="odd-one-out",
        summary="Experts that leave one modality out each, weighted by a network that tells which one does not fit.",
        config=OddOneOutConfig,
        build=_build_odd_one_out,
        references=(SINGLE_SOURCE,),
        example={"dim": 64},
    )
