"""The JSON Schema accepts what the loader accepts, and refuses what an editor should underline."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ConfigDict, Field

from avrobust_core.registry.components import Component, Config
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.json_schema import spec_schema
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.yaml_reader import read_yaml

EXAMPLES = Path(__file__).parents[3] / "examples"


class TreeConfig(Config):
    """A configuration that holds itself."""

    below: "list[TreeConfig]" = Field(default_factory=list)
    """More of the same."""


class OpaqueConfig(Config):
    """A configuration that JSON Schema cannot say."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    path: object = None
    """Anything."""
    call: Callable[[], int] | None = None
    """A function."""


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    made = spec_schema(registry)
    Draft202012Validator.check_schema(made)
    return made


def accepts(schema: Mapping[str, Any], text: str) -> bool:
    root = read_yaml(text, "t").root
    assert root is not None
    return bool(Draft202012Validator(schema).is_valid(plain(root)))


def test_a_good_spec_and_its_resolution_are_accepted(
    schema: dict[str, Any], good: str, load: Callable[..., LoadedSpec]
) -> None:
    assert accepts(schema, good)
    assert accepts(schema, load(good).resolved_yaml())


@pytest.mark.parametrize(
    ("old", "new", "accepted"),
    [
        ("{use: toy, with: {classes: 4}}", "toy", True),
        ("{use: toy, with: {classes: 4}}", "avrobust:toy", True),
        ("{use: toy, with: {classes: 4}}", "tyo", False),
        ("{use: toy, with: {classes: 4}}", "files", False),
        ("{use: toy, with: {classes: 4}}", "{use: files}", False),
        ("{use: toy, with: {classes: 4}}", "{use: files, with: {root: x}}", True),
        ("{use: toy, with: {classes: 4}}", "{with: {classes: 4}}", False),
        ("{classes: 4}", "{clases: 4}", False),
        ("{classes: 4}", "{classes: 1}", False),
        ("slowfast", "{use: slowfast, modality: null}", True),
        ("slowfast", "{use: slowfast, modality: sight}", True),
        ("slowfast", "{use: slowfast, mode: sight}", False),
        ("{channels: [8, 16]}", "{shape: {width: 2}, stages: {s: {width: 1, strided: true}}}", True),
        ("{channels: [8, 16]}", "{shape: {width: 0}}", False),
        ("fusion: concat", "fusion: null", True),
        ("fusion: concat", "fusion: cnn", False),
        ("fast: fgsm", "fast: acme:twice", True),
        ("fast: fgsm", "fast: {use: acme:twice, threats: [a]}", True),
        ("fast: fgsm", "fast: {use: fgsm, with: {steps: 2}}", False),
        ("fast: fgsm", "a b: fgsm", False),
        ("eps: 8/255", "eps: 1e-2", True),
        ("eps: 8/255", "eps: x", False),
        ("eps: 8/255", "eps: -1", False),
        ("eps: 8/255", "eps: {snr: 3}", False),
        ("{epochs: 2}", "{epochs: ten}", False),
        ("{epochs: 2}", "{}", False),
        ("[accuracy]", "[{use: accuracy, with: {}}]", True),
        ("[accuracy]", "accuracy", False),
        ("[accuracy]", "[accuracy]\nseed: 3", True),
        ("[accuracy]", "[accuracy]\nseed: [3, 1]", True),
        ("[accuracy]", "[accuracy]\nseed: [3, 3]", False),
        ("[accuracy]", "[accuracy]\nseed: []", False),
        ("[accuracy]", "[accuracy]\nseeds: [3, 1]", False),
        ("[accuracy]", "[accuracy]\ncompare: [{models: [both, audio-only]}, {training: [mixed, standard]}]", True),
        ("[accuracy]", "[accuracy]\ncompare: [{models: [both]}]", False),
        ("[accuracy]", "[accuracy]\ncompare: [{}]", False),
        ("[accuracy]", "[accuracy]\ncompare: [{models: [both, audio-only], training: [mixed, standard]}]", False),
        ("name: study", "name: study\nsed: 3", False),
        ("version: 1", "version: 2", False),
    ],
)
def test_it_agrees_with_the_loader(
    old: str,
    new: str,
    accepted: bool,
    schema: dict[str, Any],
    good: str,
    problems_of: Callable[..., Any],
) -> None:
    assert good.count(old) == 1
    text = good.replace(old, new)
    assert accepts(schema, text) == accepted
    if not accepted:
        assert problems_of(text)


def test_a_file_with_extends_may_leave_things_out_but_not_misspell_them(schema: dict[str, Any]) -> None:
    text = "extends: base.yaml\ntraining: {standard: {select: last}}\ndata: {with: {classes: 3}}\n"
    assert accepts(schema, f"{text}attacks: {{fast: {{threats: [a]}}}}")
    assert accepts(schema, "extends: [a.yaml, b.yaml]\nencoders: {audio: cnn}\nthreats: {a: {audio: {norm: l2}}}")
    assert not accepts(schema, text.replace("select", "selct"))
    assert not accepts(schema, text.replace("with", "wiht"))
    assert not accepts(schema, text.replace("extends: base.yaml\n", ""))
    assert not accepts(schema, text.replace("base.yaml", "3"))
    assert accepts(schema, f"{text}drop: [training.mixup]")
    assert not accepts(schema, f"{text}drop: [1]")


def test_editors_are_shown_what_the_docstrings_say(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    assert definitions["TrainingEntry"]["properties"]["warmup"]["description"].startswith("Share of the steps")
    arm = next(arm for arm in definitions["attack"]["anyOf"] if arm.get("title") == "avrobust:pgd")
    assert arm["description"] == "The attack pgd."
    assert definitions["attack:avrobust:pgd"]["properties"]["steps"]["description"] == "Steps."
    assert {"const": "pgd", "description": "The attack pgd."} in definitions["attack"]["anyOf"]


def test_configurations_that_are_hard_to_say_do_not_stop_it() -> None:
    offers = tuple(
        RegistryEntry(
            kind=kind,
            component=Component(name=name, summary="Hard.", config=config, build=lambda *_: None),
            distribution="acme",
            distribution_version="1",
            plugin="p",
        )
        for kind, name, config in [("metric", "tree", TreeConfig), ("metric", "opaque", OpaqueConfig)]
    )
    record = PluginRecord(
        name="p",
        distribution="acme",
        distribution_version="1",
        module="none",
        group="avrobust_v1",
        status="ok",
        error=None,
        milliseconds=0.0,
        entries=offers,
    )
    made = spec_schema(Registry([record]))
    Draft202012Validator.check_schema(made)
    metric = Draft202012Validator({**made["$defs"]["metric"], "$defs": made["$defs"]})
    assert metric.is_valid({"use": "tree", "with": {"below": [{"below": []}]}})
    assert not metric.is_valid({"use": "tree", "with": {"below": [{"above": []}]}})
    assert metric.is_valid({"use": "opaque", "with": {"path": 3}})
    dataset = Draft202012Validator({**made["$defs"]["dataset"], "$defs": made["$defs"]})
    assert not dataset.is_valid("toy")


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_accepted(example: Path) -> None:
    assert accepts(spec_schema(Registry.discover()), example.read_text(encoding="utf-8"))
