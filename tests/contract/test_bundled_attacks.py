"""Every attack that this distribution offers passes every check of the conformance kit."""

from avrobust_core import Registry
from avrobust_core.testing import ATTACK_CHECKS, AttackSubject, parametrize_with_checks

SHORTER = {"steps": 20, "queries": 60, "draws": 8, "epochs": 3}
"""For attacks whose example takes more, but where accuracy is what is checked."""

OFFERS = [offer.component for offer in Registry.discover().entries("attack") if offer.distribution == "avrobust"]
ACCURACY = [check for check in ATTACK_CHECKS if check.name == "smallest_perturbation"]
FEW_STEPS = [check for check in ATTACK_CHECKS if check.name == "one_step"]
BEHAVIOUR = [check for check in ATTACK_CHECKS if check not in ACCURACY]


def shortened(component):
    example = dict(component.example)
    for name, most in SHORTER.items():
        field = component.config.model_fields.get(name)
        if field is not None and isinstance(given := example.get(name, field.default), int) and given > most:
            example[name] = most
    return AttackSubject.of_component(component, example)


@parametrize_with_checks([shortened(component) for component in OFFERS], BEHAVIOUR)
def test_bundled_attacks_conform(subject, check):
    check(subject)


@parametrize_with_checks([AttackSubject.of_component(component) for component in OFFERS], ACCURACY)
def test_bundled_attacks_find_the_smallest_perturbation_where_they_look_for_it(subject, check):
    check(subject)


@parametrize_with_checks(
    [
        AttackSubject.of_component(component, {**component.example, "steps": steps}, f"{component.name}-{steps}")
        for component in OFFERS
        if "steps" in component.config.model_fields
        for steps in (1, 2, 3)
    ],
    FEW_STEPS,
)
def test_bundled_attacks_of_few_steps_are_no_weaker_than_one_step(subject, check):
    check(subject)


def test_the_suite_is_there():
    assert {"fgsm", "pgd"} <= {component.name for component in OFFERS}
    assert len(ACCURACY) == len(FEW_STEPS) == 1
