"""The plugin `geometry`: density and convexity of a model's latent space, and mix-up guided by them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_geometry.configs import ConvexityConfig, DensityConfig, GuidedMixupConfig

if TYPE_CHECKING:
    from avrobust_core import Augmentation, Metric


def _build_density(config: DensityConfig) -> "Metric":
    from avrobust_geometry.density.metric import Density

    return Density(config)


def _build_convexity(config: ConvexityConfig) -> "Metric":
    from avrobust_geometry.convexity.metric import Convexity

    return Convexity(config)


def _build_guided_mixup(config: GuidedMixupConfig) -> "Augmentation":
    from avrobust_geometry.guided.mixup import GuidedMixup

    return GuidedMixup(config)


@hookimpl
def avrobust_metrics() -> "Iterator[Component[Any, Metric]]":
    """Density and convexity."""
    yield Component(
        name="density",
        summary="How densely a clip's own classes lie around it in the latent space, against the others.",
        config=DensityConfig,
        build=_build_density,
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/2002.09797"),
        example={"k": 10},
        version=2,
    )
    yield Component(
        name="convexity",
        summary="How often a point between two clips of a class is of that class, too.",
        config=ConvexityConfig,
        build=_build_convexity,
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/2305.17154"),
        example={"pairs": 500},
        version=2,
    )


@hookimpl
def avrobust_augmentations() -> "Iterator[Component[Any, Augmentation]]":
    """Guided mix-up."""
    yield Component(
        name="guided-mixup",
        summary="Mix-up whose clips, partners and ratios follow density and convexity of the latent space.",
        config=GuidedMixupConfig,
        build=_build_guided_mixup,
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/1710.09412"),
        example={"warmup": 1},
    )
