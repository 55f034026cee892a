"""`parametrize_with_checks`: what it takes, which tests it makes, and how they end."""

import pytest

from avrobust_core import Component, Config, Estimate, Measurement, Metric
from avrobust_core.errors import ComponentError
from avrobust_core.testing import (
    ATTACK_CHECKS,
    AUGMENTATION_CHECKS,
    COMPONENT_CHECKS,
    Check,
    NotChecked,
    parametrize_with_checks,
)

pytest_plugins = ["pytester"]


class Width(Config):
    """The configuration of `Constant`."""

    width: int = 3
    """Of nothing."""


class Constant(Metric):
    """A metric that is the width."""

    def __init__(self, config):
        self.width = config.width

    def measure(self, subject):
        return Measurement({"width": Estimate(self.width, 0, 0, len(subject.ids), "none")})


CONSTANT = Component(name="constant", summary="A number.", config=Width, build=Constant)


def cases(*arguments, **more):
    return [(case.id, *case.values) for case in parametrize_with_checks(*arguments, **more).args[1]]


@parametrize_with_checks(["concat", "accuracy", CONSTANT, (CONSTANT, {"width": 5}), ("avrobust:sum", {})])
def test_components_of_several_kinds_conform(subject, check):
    check(subject)


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("toy-av", "dataset", ()),
        ("cnn", "encoder", ()),
        ("concat", "fusion", ()),
        ("pgd", "attack", ATTACK_CHECKS),
        ("accuracy", "metric", ()),
        ("mixup", "augmentation", AUGMENTATION_CHECKS),
        ("tensorboard", "tracker", ()),
    ],
)
def test_a_component_of_any_kind_has_one_case_for_each_check(name, kind, more):
    expected = [f"{name}-{check.name}" for check in (*COMPONENT_CHECKS[kind], *more)]
    assert [case for case, _, _ in cases(name)] == expected
    assert [case for case, _, _ in cases([f"avrobust:{name}"])] == expected


def test_a_configuration_stands_in_the_ids_and_reaches_the_component():
    found = cases((CONSTANT, {"width": 5}), ["build"])
    ((case, subject, _),) = found
    assert case == "constant(width=5)-build"
    assert subject.build().width == 5
    ((_, plain, _),) = cases(CONSTANT, ["build"])
    assert plain.build().width == 3
    assert [case for case, _, _ in cases(("pgd", {"steps": 2}), ["batch_mates"])] == ["pgd(steps=2)-batch_mates"]


def test_a_name_that_two_kinds_have_means_both():
    assert {case for case, _, _ in cases("noise", ["build"])} == {
        "attack-avrobust:noise-build",
        "augmentation-avrobust:noise-build",
    }


def test_checks_are_chosen_by_name_or_themselves_and_others_are_added():
    mine = Check(lambda subject: None)
    (build,) = (check for check in COMPONENT_CHECKS["metric"] if check.name == "build")
    assert [check for _, _, check in cases(CONSTANT, ["intervals", build, mine])][-1] is mine
    assert [check.name for _, _, check in cases(CONSTANT, ["intervals", build])] == ["build", "intervals"]
    with pytest.raises(ComponentError, match="no check is named 'interval'; did you mean 'intervals'"):
        parametrize_with_checks(CONSTANT, ["interval"])


def test_what_cannot_be_told_is_refused():
    bare = Component(name="bare", summary="A number.", config=Width, build=lambda config: Constant(config))
    with pytest.raises(ComponentError, match="component 'bare' does not say its kind"):
        parametrize_with_checks([bare])
    with pytest.raises(ComponentError, match="no component is named 'concatt'; did you mean 'concat'"):
        parametrize_with_checks("concatt")


def test_what_cannot_be_built_fails_and_is_not_passed_over():
    ((_, subject, check),) = cases(("shards", {"root": "nowhere"}), ["build"])
    with pytest.raises(NotChecked, match="it cannot be built from the configuration given here"):
        check(subject)


def test_pytest_ends_with_a_failure_where_nothing_could_be_checked(pytester):
    pytester.makepyfile(
        """
        from avrobust_core.testing import parametrize_with_checks

        @parametrize_with_checks("shards")
        def test_mine(subject, check):
            check(subject)
        """
    )
    result = pytester.runpytest("-p", "no:cacheprovider")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*NotChecked: it cannot be built from its example here*"])
