"""The plugin `training`: augmentations of the training batch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_training.configs import MixupConfig

if TYPE_CHECKING:
    from avrobust_core import Augmentation


def _build_mixup(config: MixupConfig) -> "Augmentation":
    from avrobust_training.mixup import Mixup

    return Mixup(alpha=config.alpha)


@hookimpl
def avrobust_augmentations() -> "Iterator[Component[Any, Augmentation]]":
    """Mix-up."""
    yield Component(
        name="mixup",
        summary="Mix-up: convex combinations of pairs of clips and of their targets, one ratio for all modalities.",
        config=MixupConfig,
        build=_build_mixup,
        references=("https://arxiv.org/abs/1710.09412",),
        example={"alpha": 0.4},
    )
