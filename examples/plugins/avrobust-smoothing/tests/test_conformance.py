"""The metric holds what avrobust asks of every metric."""

from collections.abc import Callable
from typing import Any

from avrobust_smoothing.plugin import avrobust_metrics

from avrobust_core.testing import parametrize_with_checks

(COMPONENT,) = avrobust_metrics()
THREAT = {"audio": {"norm": "l2", "eps": 0.05}, "video": {"norm": "linf", "eps": "1/255"}}


@parametrize_with_checks(
    [
        COMPONENT,
        (COMPONENT, {"sigma": {"video": 0.05}, "first": 5, "draws": 30, "alpha": 0.01, "radii": [0.5]}),
        (
            COMPONENT,
            {"sigma": {"audio": 0.1, "video": 0.1}, "first": 5, "draws": 30, "threat": THREAT},
        ),
    ]
)
def test_conforms(subject: Any, check: Callable[[Any], None]) -> None:
    """On one modality and on two, with a threat and without."""
    check(subject)
