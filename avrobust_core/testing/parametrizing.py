"""A pytest decorator that makes one test of each attack and check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from avrobust_core.contracts import Attack
from avrobust_core.testing.attack_checks import ATTACK_CHECKS
from avrobust_core.testing.running import Check
from avrobust_core.testing.subjects import AttackSubject

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    attacks: Iterable[Attack | AttackSubject], checks: Sequence[Check[AttackSubject]] = ATTACK_CHECKS
) -> pytest.MarkDecorator:
    """Parametrise a test over attacks and checks, as scikit-learn's decorator of this name does over estimators.

    The test takes `subject` and `check` and calls one with the other; a check that is not applicable skips it:

        @parametrize_with_checks([MyAttack(steps=10)])
        def test_my_attack_conforms(subject, check):
            check(subject)

    Args:
        attacks: attacks, or subjects: `AttackSubject.of_component` makes one of what a plugin offers.
        checks: all of them by default.
    """
    import pytest  # here only: nothing else of avrobust needs it

    subjects = [AttackSubject.of(attack) for attack in attacks]
    return pytest.mark.parametrize(
        ("subject", "check"),
        [pytest.param(subject, check, id=f"{subject.name}-{check.name}") for subject in subjects for check in checks],
    )
