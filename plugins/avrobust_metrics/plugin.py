"""The plugin `metrics`: how well a model's predictions agree with the labels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_metrics.configs import AccuracyConfig, MapConfig

if TYPE_CHECKING:
    from avrobust_core import Metric


def _build_accuracy(config: AccuracyConfig) -> "Metric":
    from avrobust_metrics.accuracy import Accuracy

    return Accuracy(top=config.top)


def _build_map(config: MapConfig) -> "Metric":
    from avrobust_metrics.mean_average_precision import MeanAveragePrecision

    return MeanAveragePrecision()


@hookimpl
def avrobust_metrics() -> "Iterator[Component[Any, Metric]]":
    """Accuracy and mean average precision."""
    yield Component(
        name="accuracy",
        summary="Top-k accuracy and recall per class; hit at rank one where clips have several labels.",
        config=AccuracyConfig,
        build=_build_accuracy,
        example={"top": [1, 5]},
        version=2,
    )
    yield Component(
        name="map",
        summary="Mean average precision, ROC-AUC and d-prime: macro means over classes, as on AudioSet.",
        config=MapConfig,
        build=_build_map,
        references=("https://arxiv.org/abs/1609.09430",),
        example={},
        version=2,
    )
