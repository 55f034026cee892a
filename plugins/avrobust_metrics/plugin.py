"""The plugin `metrics`: how well a model's predictions agree with the labels."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_metrics.configs import AccuracyConfig, MapConfig


@hookimpl
def avrobust_metrics() -> Iterator[Component]:
    """Accuracy and mean average precision."""
    yield Component(
        name="accuracy",
        summary="Top-k accuracy and recall per class; hit at rank one where clips have several labels.",
        config=AccuracyConfig,
        build="avrobust_metrics.accuracy:Accuracy",
        example={"top": [1, 5]},
        version=2,
    )
    yield Component(
        name="map",
        summary="Mean average precision, ROC-AUC and d-prime: macro means over classes, as on AudioSet.",
        config=MapConfig,
        build="avrobust_metrics.mean_average_precision:MeanAveragePrecision",
        references=("https://arxiv.org/abs/1609.09430",),
        version=2,
    )
