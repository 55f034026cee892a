"""The checks of each kind of component: the lists, and what runs them one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from avrobust_core.testing import (
    access_checks,
    augmentation_checks,
    augmentation_upkeep_checks,
    data_checks,
    encoder_checks,
    fusion_checks,
    honesty_checks,
    independence_checks,
    interval_checks,
    metric_checks,
    strength_checks,
    tracker_checks,
    upkeep_checks,
)
from avrobust_core.testing.augmentation_subjects import AugmentationSubject
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.running import Check, CheckOutcome, checks_in, run_check
from avrobust_core.testing.subjects import AttackSubject

ATTACK_CHECKS: tuple[Check[AttackSubject], ...] = checks_in(
    strength_checks, honesty_checks, independence_checks, upkeep_checks, access_checks
)
"""All of them; a table of which catches which fault is in tests/contract/test_planted_faults.py."""

AUGMENTATION_CHECKS: tuple[Check[AugmentationSubject], ...] = checks_in(augmentation_checks, augmentation_upkeep_checks)
"""All of them; tests/contract/test_planted_augmentation_faults.py has a fault for each."""

DATASET_CHECKS: tuple[Check[ComponentSubject], ...] = checks_in(data_checks)
ENCODER_CHECKS: tuple[Check[ComponentSubject], ...] = checks_in(encoder_checks)
FUSION_CHECKS: tuple[Check[ComponentSubject], ...] = checks_in(fusion_checks)
METRIC_CHECKS: tuple[Check[ComponentSubject], ...] = checks_in(metric_checks, interval_checks)
TRACKER_CHECKS: tuple[Check[ComponentSubject], ...] = checks_in(tracker_checks)
"""Beside those of every component; `COMPONENT_CHECKS` has both."""


def run_checks(subject: AttackSubject, checks: Sequence[Check[AttackSubject]] = ATTACK_CHECKS) -> list[CheckOutcome]:
    """Run checks of an attack, all of them by default, one after the other; none keeps the others from running."""
    return [run_check(subject, check) for check in checks]


def run_augmentation_checks(
    subject: AugmentationSubject, checks: Sequence[Check[AugmentationSubject]] = AUGMENTATION_CHECKS
) -> list[CheckOutcome]:
    """Run checks of an augmentation, all of them by default; none keeps the others from running."""
    return [run_check(subject, check) for check in checks]
