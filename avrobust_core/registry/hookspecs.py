"""The seven hooks that a plugin may implement, one per kind of component."""

from collections.abc import Iterable
from typing import Final

import pluggy

from avrobust_core.registry.components import Component

PROJECT: Final = "avrobust"
ENTRY_POINT_GROUP: Final = "avrobust_v1"
"""The entry-point group of this version of the hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def avrobust_datasets() -> Iterable[Component]:
    """Offer data sets.

    Example:
        ```python
        @hookimpl
        def avrobust_datasets():
            yield Component(name="my-clips", summary="My clips.", config=MyClipsConfig, build="mine.clips:MyClips")
        ```
    """
    return ()


@hookspec
def avrobust_encoders() -> Iterable[Component]:
    """Offer encoders: from one modality of a batch to tokens and a pooled embedding.

    Example:
        ```python
        @hookimpl
        def avrobust_encoders():
            yield Component(name="my-encoder", summary="An encoder.", config=MyConfig, build="mine.encoder:MyEncoder")
        ```
    """
    return ()


@hookspec
def avrobust_fusions() -> Iterable[Component]:
    """Offer fusions: from what the encoders return to one fused embedding.

    Example:
        ```python
        @hookimpl
        def avrobust_fusions():
            yield Component(name="my-fusion", summary="A fusion.", config=MyConfig, build="mine.fusion:MyFusion")
        ```
    """
    return ()


@hookspec
def avrobust_attacks() -> Iterable[Component]:
    """Offer attacks: from a bound victim to perturbed inputs inside their balls.

    Example:
        ```python
        @hookimpl
        def avrobust_attacks():
            yield Component(name="my-attack", summary="An attack.", config=MyConfig, build="mine.attack:MyAttack")
        ```
    """
    return ()


@hookspec
def avrobust_metrics() -> Iterable[Component]:
    """Offer metrics: from predictions to numbers with intervals.

    Example:
        ```python
        @hookimpl
        def avrobust_metrics():
            yield Component(name="my-metric", summary="A metric.", config=MyConfig, build="mine.metric:MyMetric")
        ```
    """
    return ()


@hookspec
def avrobust_augmentations() -> Iterable[Component]:
    """Offer training augmentations: what a training batch is learned from, and how.

    Example:
        ```python
        @hookimpl
        def avrobust_augmentations():
            yield Component(name="my-augmentation", summary="Mine.", config=MyConfig, build="mine.augmentation:Mine")
        ```
    """
    return ()


@hookspec
def avrobust_trackers() -> Iterable[Component]:
    """Offer trackers: what hands a run's training curves and results on to a tool that shows them.

    Example:
        ```python
        @hookimpl
        def avrobust_trackers():
            yield Component(name="my-tracker", summary="A tracker.", config=MyConfig, build="mine.tracker:MyTracker")
        ```
    """
    return ()
