"""Every attack that this distribution offers passes every check of the conformance kit."""

from avrobust_core import Registry
from avrobust_core.testing import AttackSubject, parametrize_with_checks

SHORTER = {"steps": 20, "queries": 60, "draws": 8, "epochs": 3}
"""For attacks whose example takes more: the checks are of behaviour, not of the last per cent."""


def configured(component):
    example = dict(component.example)
    for name, most in SHORTER.items():
        field = component.config.model_fields.get(name)
        if field is not None and isinstance(given := example.get(name, field.default), int) and given > most:
            example[name] = most
    return AttackSubject.of_component(component, example)


BUNDLED = [
    configured(offer.component) for offer in Registry.discover().offers("attack") if offer.distribution == "avrobust"
]


@parametrize_with_checks(BUNDLED)
def test_bundled_attacks_conform(subject, check):
    check(subject)


def test_the_suite_is_there():
    assert {"fgsm", "pgd"} <= {subject.name for subject in BUNDLED}
