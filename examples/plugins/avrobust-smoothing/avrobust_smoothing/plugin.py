"""The components that the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_smoothing.configs import CertifiedAccuracyConfig


@hookimpl
def avrobust_metrics() -> Iterator[Component]:
    """Offer `certified-accuracy`."""
    yield Component(
        name="certified-accuracy",
        summary="Share of clips that the model, smoothed by noise, is certified to classify right within l2 radii.",
        config=CertifiedAccuracyConfig,
        build="avrobust_smoothing.metric:CertifiedAccuracy",
        references=("https://arxiv.org/abs/1902.02918",),
        example={"sigma": {"audio": 0.1, "video": 0.1}, "first": 10, "draws": 50},
    )
