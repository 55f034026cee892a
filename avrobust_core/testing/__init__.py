"""The conformance kit: checks that components of every kind must pass, and the models that they need.

One list of plain functions drives pytest (`parametrize_with_checks`), the command `avrobust check-plugin`, and
avrobust's own tests. On linear models (`LinearOracle`) the best attack is known exactly.
"""

from avrobust_core.testing.augmentation_subjects import AugmentationSubject
from avrobust_core.testing.cases import parametrize_with_checks
from avrobust_core.testing.checklists import (
    ATTACK_CHECKS,
    AUGMENTATION_CHECKS,
    run_augmentation_checks,
    run_checks,
)
from avrobust_core.testing.component_checks import COMPONENT_CHECKS, PLUGIN_CHECKS, check_component
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.models import Noisy, Rescored, Witness, stateful_model, watched
from avrobust_core.testing.oracles import LinearOracle, LinearProblem, make_problem, make_threat
from avrobust_core.testing.running import Check, CheckFailed, CheckOutcome, NotApplicable, NotChecked, check
from avrobust_core.testing.subjects import AttackSubject, Case, Trial

__all__ = [
    "ATTACK_CHECKS",
    "AUGMENTATION_CHECKS",
    "COMPONENT_CHECKS",
    "PLUGIN_CHECKS",
    "AttackSubject",
    "AugmentationSubject",
    "Case",
    "Check",
    "CheckFailed",
    "CheckOutcome",
    "ComponentSubject",
    "LinearOracle",
    "LinearProblem",
    "Noisy",
    "NotApplicable",
    "NotChecked",
    "Rescored",
    "Trial",
    "Witness",
    "check",
    "check_component",
    "make_problem",
    "make_threat",
    "parametrize_with_checks",
    "run_augmentation_checks",
    "run_checks",
    "stateful_model",
    "watched",
]
