"""What the plugin offers holds what avrobust asks of attacks and metrics."""

from typing import Any

from avrobust_perceptual.plugin import avrobust_attacks, avrobust_metrics

from avrobust_core.testing import parametrize_with_checks


@parametrize_with_checks([*avrobust_attacks(), *avrobust_metrics()])
def test_conforms(subject: Any, check: Any) -> None:
    check(subject)
