"""The plugin `geometry`: density and convexity of a model's latent space, and mix-up guided by them."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_geometry.configs import ConvexityConfig, DensityConfig, GuidedMixupConfig, GuidedWeightsConfig


@hookimpl
def avrobust_metrics() -> Iterator[Component]:
    """Density and convexity."""
    yield Component(
        name="density",
        summary="How densely a clip's own classes lie around it in the latent space, against the others.",
        config=DensityConfig,
        build="avrobust_geometry.density.metric:Density",
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/2002.09797"),
        example={"k": 10},
        version=2,
    )
    yield Component(
        name="convexity",
        summary="How often a point between two clips of a class is of that class, too.",
        config=ConvexityConfig,
        build="avrobust_geometry.convexity.metric:Convexity",
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/2305.17154"),
        example={"pairs": 500},
        version=3,
    )


@hookimpl
def avrobust_augmentations() -> Iterator[Component]:
    """Guided mix-up."""
    yield Component(
        name="guided-mixup",
        summary="Mix-up whose clips, partners and ratios follow density and convexity of the latent space.",
        config=GuidedMixupConfig,
        build="avrobust_geometry.guided.mixup:GuidedMixup",
        references=("https://arxiv.org/abs/2203.12122", "https://arxiv.org/abs/1710.09412"),
        example={"warmup": 1},
    )
    yield Component(
        name="guided-weights",
        summary="Losses weighted by the density of the latent space, for regimes that perturb clips or change nothing.",
        config=GuidedWeightsConfig,
        build="avrobust_geometry.guided.weights:GuidedWeights",
        references=("https://arxiv.org/abs/2203.12122",),
        example={"warmup": 1},
    )
