"""The attack holds what avrobust asks of every attack."""

from collections.abc import Callable

from avrobust_decision.attack import HopSkipJump
from avrobust_decision.configs import HopSkipJumpConfig

from avrobust_core.testing import ATTACK_CHECKS, AttackSubject, parametrize_with_checks

NEAREST = [check for check in ATTACK_CHECKS if check.name == "smallest_perturbation"]
OTHERS = [check for check in ATTACK_CHECKS if check not in NEAREST]


@parametrize_with_checks(
    [HopSkipJump(HopSkipJumpConfig(queries=250, starts=30, first_probes=15, together=100))], OTHERS
)
def test_conforms(subject: AttackSubject, check: Callable[[AttackSubject], None]) -> None:
    """With few queries: what they are enough for."""
    check(subject)


@parametrize_with_checks(
    [HopSkipJump(HopSkipJumpConfig(queries=2500, starts=500, first_probes=50, together=200))], NEAREST
)
def test_comes_near_the_smallest_change(subject: AttackSubject, check: Callable[[AttackSubject], None]) -> None:
    """Within 5 % of the closed form, in linf and l2, on one modality and on two, in separate balls and a shared one."""
    check(subject)
