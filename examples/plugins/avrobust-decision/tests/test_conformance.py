import pytest
from avrobust_decision.attack import HopSkipJump
from avrobust_decision.configs import HopSkipJumpConfig
from avrobust_core.testing import parametrize_with_checks

@parametrize_with_checks([HopSkipJump(HopSkipJumpConfig(queries=2000, together=60))])
def test_conforms(subject, check):
    check(subject)
