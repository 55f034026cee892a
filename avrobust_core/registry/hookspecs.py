"""The six hooks that a plugin may implement, one per kind of component."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from avrobust_core.attacks.attack import Attack
    from avrobust_core.data.dataset import Dataset
    from avrobust_core.metrics.metric import Metric
    from avrobust_core.models.parts import Encoder, Fusion
    from avrobust_core.registry.components import Component
    from avrobust_core.training.augmentations import Augmentation

PROJECT: Final = "avrobust"
ENTRY_POINT_GROUP: Final = "avrobust_v1"
"""The entry-point group of this version of the hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def avrobust_datasets() -> "Iterable[Component[Any, Dataset]]":
    """Offer data sets.

    Example:
        ```python
        @hookimpl
        def avrobust_datasets():
            yield Component(name="my-clips", summary="My clips.", config=MyClipsConfig, build=build_my_clips)
        ```
    """
    return ()


@hookspec
def avrobust_encoders() -> "Iterable[Component[Any, Encoder]]":
    """Offer encoders: from one modality of a batch to tokens and a pooled embedding.

    Example:
        ```python
        def build(config, media):
            from my_package.encoder import MyEncoder  # imports torch: only here

            return MyEncoder(channels=media.shape[0], width=config.width)


        @hookimpl
        def avrobust_encoders():
            yield Component(name="my-encoder", summary="My encoder.", config=MyConfig, build=build)
        ```
    """
    return ()


@hookspec
def avrobust_fusions() -> "Iterable[Component[Any, Fusion]]":
    """Offer fusions: from what the encoders return to one fused embedding.

    Example:
        ```python
        def build(config, inputs):
            from my_package.fusion import MyFusion

            return MyFusion({name: dims.embed for name, dims in inputs.items()})


        @hookimpl
        def avrobust_fusions():
            yield Component(name="my-fusion", summary="My fusion.", config=MyConfig, build=build)
        ```
    """
    return ()


@hookspec
def avrobust_attacks() -> "Iterable[Component[Any, Attack]]":
    """Offer attacks: from a bound victim to perturbed inputs inside their balls.

    Example:
        ```python
        def build(config):
            from my_package.attack import MyAttack

            return MyAttack(steps=config.steps)


        @hookimpl
        def avrobust_attacks():
            yield Component(name="my-attack", summary="My attack.", config=MyConfig, build=build)
        ```
    """
    return ()


@hookspec
def avrobust_metrics() -> "Iterable[Component[Any, Metric]]":
    """Offer metrics: from predictions to numbers with intervals.

    Example:
        ```python
        def build(config):
            from my_package.metric import MyMetric

            return MyMetric()


        @hookimpl
        def avrobust_metrics():
            yield Component(name="my-metric", summary="My metric.", config=MyConfig, build=build)
        ```
    """
    return ()


@hookspec
def avrobust_augmentations() -> "Iterable[Component[Any, Augmentation]]":
    """Offer training augmentations: what a training batch is learned from, and how.

    Example:
        ```python
        def build(config):
            from my_package.augmentation import MyAugmentation

            return MyAugmentation(config.strength)


        @hookimpl
        def avrobust_augmentations():
            yield Component(name="my-augmentation", summary="Mine.", config=MyConfig, build=build)
        ```
    """
    return ()
