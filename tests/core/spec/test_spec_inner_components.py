"""Components inside the configuration of others: checked, told, resolved and found as those that a spec names itself."""
# ruff: noqa: E501 - a row of the table is easier to read in one line

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import configure
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.explaining import explain
from avrobust_core.spec.json_schema import spec_schema
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.problems import Problem, SpecError
from avrobust_core.spec.yaml_reader import read_yaml
from avrobust_core.study.building import Builder

SPEC = """\
version: 1
name: inner
data: toy
encoders: {audio: cnn}
models: {a: {encoders: [audio]}}
training:
  plain: {epochs: 1}
  hard: {epochs: 1, augment: [{use: hardened, with: {attack: HARD}}]}
threats: {t: {audio: {eps: 0.1}}}
attacks: {all: {use: group, with: GROUP}}
"""

Load = Callable[..., LoadedSpec]
Check = Callable[..., Sequence[Problem]]


def spec(hard: str = "fgsm", group: str = "{members: [fgsm]}") -> str:
    return SPEC.replace("HARD", hard).replace("GROUP", group)


BROKEN = [
    # (the attack inside an augmentation, the attacks inside an attack, with ‸ before the place; parts of what is told)
    ("‸pgdd", "{}", ["training.hard.augment.0.with.attack: no attack is named 'pgdd'", "did you mean 'pgd'?"]),
    ("{use: ‸pgdd, with: {stepz: 3}}", "{}", ["no attack is named 'pgdd'"]),
    ("{use: pgd, with: {‸stepz: 3}}", "{}", ["unknown field 'stepz' in training.hard.augment.0.with.attack.with", "did you mean 'steps'?"]),
    ("{use: pgd, with: {steps: ‸0}}", "{}", ["training.hard.augment.0.with.attack.with.steps: must be at least 1, found 0"]),
    ("{use: pgd, with: {steps: ‸true}}", "{}", ["with.steps: expected a whole number at least 1, found true"]),
    ("{use: pgd, with: ‸[]}", "{}", ["attack.with: expected a map, found an empty list"]),
    ("{‸uze: pgd}", "{}", ["unknown field 'uze'", "did you mean 'use'?"]),
    ("‸3", "{}", ["training.hard.augment.0.with.attack: expected"]),
    ("‸mixup", "{}", ["no attack is named 'mixup'", "of another kind: augmentation"]),
    ("‸twice", "{}", ["is offered by 2 distributions"]),
    ("fgsm", "{members: [fgsm, ‸pgdd]}", ["attacks.all.with.members.1: no attack is named 'pgdd'"]),
    ("fgsm", "{members: [{use: group, with: {members: [pgd, {use: pgd, with: {steps: ‸0}}]}}]}", ["attacks.all.with.members.0.with.members.1.with.steps: must be at least 1"]),
    ("fgsm", "{named: {x: 0.5, y: {use: pgd, with: {‸stpes: 1}}}}", ["unknown field 'stpes' in attacks.all.with.named.y.with"]),
    ("fgsm", "{members: [{use: faulty, with: {size: 1}}], ‸membres: [pgd]}", ["unknown field 'membres' in attacks.all.with", "did you mean 'members'?"]),
]  # fmt: skip


@pytest.mark.parametrize(("hard", "group", "parts"), BROKEN, ids=[f"{hard} {group}" for hard, group, _ in BROKEN])
def test_a_mistake_inside_is_told_at_its_place(hard: str, group: str, parts: list[str], problems_of: Check) -> None:
    marked = spec(hard, group)
    before = marked[: marked.index("‸")].split("\n")
    problems = [p for p in problems_of(marked.replace("‸", "")) if "is a fault of the plugin" not in p.hint]
    assert [(problem.place.line, problem.place.column) for problem in problems] == [(len(before), len(before[-1]) + 1)]
    told = problems[0].render()
    for part in parts:
        assert part in told


def test_mistakes_inside_and_outside_are_told_together(problems_of: Check) -> None:
    problems = problems_of(
        spec("{use: pgd, with: {steps: 0}}", "{members: [pgdd, {use: pgd, with: {x: 1}}], colour: red}")
    )
    assert [problem.place.line for problem in problems] == [8, 10, 10, 10]


def test_what_is_inside_is_resolved_with_all_its_defaults_and_reads_back_the_same(load: Load) -> None:
    loaded = load(spec("pgd", "{members: [{use: pgd, with: {steps: 3}}], named: {half: 0.5}}"))
    resolved = loaded.resolved()
    assert resolved["training"]["hard"]["augment"][0]["with"]["attack"] == {
        "use": "avrobust:pgd",
        "with": {"steps": 10, "random_start": True, "mark": "-"},
    }
    assert resolved["attacks"]["all"]["with"]["members"][0]["with"]["steps"] == 3
    assert resolved["attacks"]["all"]["with"]["named"] == {"half": 0.5}
    assert load(loaded.resolved_yaml()).resolved() == resolved


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("pgd", "avrobust:pgd", True),
        ("pgd", "{use: pgd, with: {steps: 10}}", True),
        ("pgd", "{use: pgd, with: {steps: 11}}", False),
        ("pgd", "fgsm", False),
    ],
)
def test_an_identity_holds_full_names_and_defaults(
    one: str, other: str, same: bool, load: Load, registry: Registry
) -> None:
    def identities(name: str) -> list[Any]:
        loaded = load(spec(name, f"{{members: [{name}], named: {{x: {name}}}}}"))
        builder = Builder(loaded.spec, registry)
        entries = [loaded.spec.training["hard"].augment[0], loaded.spec.attacks["all"]]
        return [builder.component(entry).identity() for entry in entries]

    assert (identities(one) == identities(other)) == same
    inside = identities(one)[0]["config"]["attack"]
    assert (inside["component"], inside["version"]) == ("avrobust:pgd", 1)


def test_what_is_inside_is_found_where_the_outer_component_was(load: Load, registry: Registry) -> None:
    """Not among all that is installed: a plugin that is disabled must not come in by the back door."""
    spec_ = load(spec("fgsm", "{members: [fgsm]}")).spec
    config = Builder(spec_, registry).component(spec_.training["hard"].augment[0]).config
    offer = config.attack.configured().entry  # type: ignore[attr-defined]
    assert offer in registry.entries("attack")
    without = Registry(
        replace(record, entries=tuple(o for o in record.entries if o.component.name != "fgsm"))
        for record in registry.plugins
    )
    with pytest.raises(ComponentError, match="members\\[0\\]: no attack is named 'fgsm'"):
        configure(without, "attack", "group", {"members": ["fgsm"]})


def test_configuring_by_hand_tells_the_place_inside(registry: Registry) -> None:
    with pytest.raises(ComponentError) as raised:
        configure(registry, "attack", "group", {"named": {"x": {"use": "pgd", "with": {"steps": 0}}}})
    assert "named.x: an error in the configuration of attack 'pgd'" in str(raised.value)
    assert "steps: input should be greater than or equal to 1" in str(raised.value)


def test_explain_knows_what_is_inside(load: Load, registry: Registry) -> None:
    loaded = load(spec("pgd"))
    said = explain(loaded, "training.hard.augment.0.with.attack", registry)
    assert said.description.startswith("avrobust:pgd: ")
    assert {"fgsm", "pgd"} <= set(said.facts["choices"].split(", "))
    steps = explain(loaded, "training.hard.augment.0.with.attack.with.steps", registry)
    assert steps.value == 10
    assert steps.facts["from"] == "default of avrobust:pgd"
    assert steps.facts["takes"] == "a whole number at least 1"


@pytest.mark.parametrize(
    ("attack", "accepted"),
    [("pgd", True), ("{use: pgd, with: {steps: 3}}", True), ("pgdd", False), ("{use: pgd, with: {steps: 0}}", False)],
)
def test_the_schema_looks_inside(attack: str, accepted: bool, registry: Registry) -> None:
    schema = spec_schema(registry)
    root = read_yaml(spec("fgsm", f"{{members: [fgsm, {attack}]}}"), "t").root
    assert root is not None
    assert Draft202012Validator(schema).is_valid(plain(root)) == accepted


def test_the_bundled_ensemble_and_adversarial_training_are_looked_into(tmp_path: Path) -> None:
    text = """\
version: 1
name: n
data: toy-av
encoders: {audio: {use: cnn, with: {channels: [4]}}}
models: {a: {encoders: [audio]}}
training:
  s: {epochs: 1, augment: [{use: adversarial, with: {threat: {audio: {eps: 0.1}}, attack: {use: pgdd, with: {stepz: 3}}}}]}
threats: {t: {audio: {eps: 0.1}}}
attacks: {e: {use: ensemble, with: {members: [pgd, {use: fgsm, with: {x: 1}}]}}}
"""
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError) as raised:
        load_spec(tmp_path / "s.yaml", Registry.discover())
    assert [(problem.place.line, problem.place.column) for problem in raised.value.problems] == [(7, 97), (9, 71)]
