"""The plugin `fusion`: ways to fuse the embeddings of the modalities."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_fusion.configs import ConcatConfig, SumConfig

if TYPE_CHECKING:
    from avrobust_core import EncodedDims, Fusion


def _build_concat(config: ConcatConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.late import Concat

    return Concat({name: dims.embed for name, dims in inputs.items()}, hidden=config.hidden)


def _build_sum(config: SumConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    from avrobust_fusion.late import Sum

    return Sum({name: dims.embed for name, dims in inputs.items()}, dim=config.dim)


@hookimpl
def avrobust_fusions() -> "Iterator[Component[Any, Fusion]]":
    """Concatenation and sum."""
    yield Component(
        name="concat",
        summary="Concatenate the pooled embeddings; a linear head on them, or a hidden layer before it.",
        config=ConcatConfig,
        build=_build_concat,
        references=("https://arxiv.org/abs/2203.12122",),
        example={},
    )
    yield Component(
        name="sum",
        summary="Map each pooled embedding linearly to one width and add them.",
        config=SumConfig,
        build=_build_sum,
        references=("https://arxiv.org/abs/2203.12122",),
        example={"dim": 64},
    )
