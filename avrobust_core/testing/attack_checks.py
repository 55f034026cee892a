"""The list of checks that every attack must pass."""

from __future__ import annotations

from collections.abc import Sequence

from avrobust_core.testing import honesty_checks, independence_checks, strength_checks, upkeep_checks
from avrobust_core.testing.running import Check, CheckOutcome, checks_in, run_each
from avrobust_core.testing.subjects import AttackSubject

ATTACK_CHECKS: tuple[Check[AttackSubject], ...] = checks_in(
    strength_checks, honesty_checks, independence_checks, upkeep_checks
)
"""All of them; a table of which catches which fault is in tests/contract/test_planted_faults.py."""


def run_checks(subject: AttackSubject, checks: Sequence[Check[AttackSubject]] = ATTACK_CHECKS) -> list[CheckOutcome]:
    """Run checks of an attack, all of them by default, one after the other; none keeps the others from running."""
    return run_each(subject, checks)
