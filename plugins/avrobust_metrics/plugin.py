"""The plugin `metrics`: how well a model's predictions agree with the labels, and how far they are from changing."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_metrics.configs import AccuracyConfig, MapConfig, MarginConfig


@hookimpl
def avrobust_metrics() -> Iterator[Component]:
    """Accuracy, mean average precision and margin."""
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
        version=3,
    )
    yield Component(
        name="margin",
        summary="Logit margin, and the first-order distance to another class: what a linear model would withstand.",
        config=MarginConfig,
        build="avrobust_metrics.margin:Margin",
        references=("https://arxiv.org/abs/1705.08475", "https://arxiv.org/abs/1511.04599"),
        example={"threat": {"audio": {"eps": 0.01}, "video": {"eps": "4/255"}}},
        version=3,
    )
