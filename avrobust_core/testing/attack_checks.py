"""The list of checks that every attack must pass."""

from __future__ import annotations

from collections.abc import Sequence

from avrobust_core.testing import honesty_checks, independence_checks, strength_checks, upkeep_checks
from avrobust_core.testing.running import Check, CheckOutcome, run_each
from avrobust_core.testing.subjects import AttackSubject

ATTACK_CHECKS: tuple[Check[AttackSubject], ...] = (
    strength_checks.check_easy_clips_fall,
    strength_checks.check_inputs_at_the_bounds,
    strength_checks.check_shifted_logits,
    strength_checks.check_bounds_of_every_kind,
    strength_checks.check_every_rank,
    strength_checks.check_nearest_projection,
    strength_checks.check_one_step,
    strength_checks.check_noisy_model,
    strength_checks.check_members,
    strength_checks.check_smallest_perturbation,
    strength_checks.check_two_classes,
    strength_checks.check_targeted,
    honesty_checks.check_success_on_the_way,
    honesty_checks.check_last_step,
    honesty_checks.check_failed_clips,
    honesty_checks.check_no_radius,
    honesty_checks.check_budgets,
    honesty_checks.check_only_what_is_attacked,
    honesty_checks.check_low_precision,
    honesty_checks.check_lucky_looks,
    honesty_checks.check_several_labels,
    honesty_checks.check_warm_start,
    independence_checks.check_batch_mates,
    independence_checks.check_radius_of_batch_mates,
    independence_checks.check_global_random_state,
    upkeep_checks.check_parameter_gradients,
    upkeep_checks.check_flags_and_buffers,
    upkeep_checks.check_waits_and_copies,
    upkeep_checks.check_cost_per_batch,
)
"""All of them; a table of which catches which fault is in tests/contract/test_planted_faults.py."""


def run_checks(subject: AttackSubject, checks: Sequence[Check[AttackSubject]] = ATTACK_CHECKS) -> list[CheckOutcome]:
    """Run checks of an attack, all of them by default, one after the other; none keeps the others from running."""
    return run_each(subject, checks)
