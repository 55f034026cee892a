"""A registry made by hand, and a spec that uses it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from avrobust_core.registry.choices import ComponentChoice
from avrobust_core.registry.components import Component, Config
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.problems import Problem, SpecError

GOOD = """\
version: 1
name: study
data: {use: toy, with: {classes: 4}}
encoders:
  audio: {use: cnn, with: {channels: [8, 16]}}
  video: slowfast
models:
  audio-only: {encoders: [audio]}
  both: {encoders: [audio, video], fusion: concat}
training:
  standard: {epochs: 2}
  mixed: {epochs: 2, augment: [mixup, {use: mixup, with: {alpha: 0.2}}]}
threats:
  a: {audio: {eps: 0.1}}
  av: {audio: {eps: {snr_db: 30}}, video: {norm: l2, eps: 8/255, bounds: [0, 1]}}
attacks:
  fast: fgsm
  strong: {use: pgd, with: {steps: 20}, threats: [av]}
metrics: [accuracy]
"""


class Empty(Config):
    """Nothing to set."""


class ToyConfig(Config):
    """A toy data set."""

    classes: int = Field(default=10, ge=2)
    """Number of classes."""
    task: Literal["single", "multi"] = "single"
    """One label or several."""
    sizes: tuple[int, int] = (3, 4)
    """Height and width."""


class FilesConfig(Config):
    """A folder."""

    root: Path
    """The folder."""
    limit: float | Literal["none"] = "none"
    """Seconds, or none."""


class Stage(Config):
    """One stage."""

    width: int = Field(ge=1)
    """Channels."""
    strided: bool = False
    """Whether it halves the resolution."""


class Norm(Config):
    """A normalisation."""

    eps: float
    """Added to the variance."""


class CnnConfig(Config):
    """A convolutional network."""

    channels: Annotated[list[int], Field(min_length=1)] = Field(default_factory=lambda: [4])
    """Channels of each block."""
    stages: dict[str, Stage] = Field(default_factory=dict)
    """Stages by name."""
    shape: Stage | list[int] | None = None
    """A union of a map and a list."""
    block: Stage | Norm | None = None
    """A union of two maps."""
    flag: float | bool = 0.0
    """A number or a truth value."""
    word: bool | str = False
    """A truth value or text."""


class PgdConfig(Config):
    """Projected gradient descent."""

    steps: int = Field(default=10, ge=1)
    """Steps."""
    random_start: bool = True
    """Whether to start at random."""
    mark: str = "-"
    """Any text."""

    @field_validator("steps")
    @classmethod
    def _not_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError("13 steps bring bad luck")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "PgdConfig":
        if self.steps == 1 and not self.random_start:
            raise ValueError("one step needs a random start")
        return self


class MixConfig(Config):
    """Mix-up."""

    alpha: float = Field(default=0.4, gt=0)
    """Parameter of the Beta distribution."""


class FaultyConfig(Config):
    """A configuration whose validator fails in a way of its own."""

    size: int = 1
    """Anything."""

    @field_validator("size")
    @classmethod
    def _fault(cls, value: int) -> int:
        raise KeyError("oops")


class AttackInside(ComponentChoice):
    """An attack inside another component."""

    kind: ClassVar[str] = "attack"


class GroupConfig(Config):
    """Several attacks."""

    members: tuple[AttackInside, ...] = ()
    """The attacks."""
    named: dict[str, AttackInside | float] = Field(default_factory=dict)
    """More of them by name, or numbers."""


class HardenedConfig(Config):
    """Against an attack."""

    attack: AttackInside | None = None
    """The attack."""


def offer(kind: str, name: str, config: type[Config], distribution: str = "avrobust") -> RegistryEntry:
    """An offer whose component cannot be built."""
    component = Component(name=name, summary=f"The {kind} {name}.", config=config, build=lambda *_: None)
    return RegistryEntry(
        kind=kind, component=component, distribution=distribution, distribution_version="1.0", plugin=distribution
    )


def registry_of(*offers: RegistryEntry) -> Registry:
    """A registry that offers these."""
    record: dict[str, Any] = {"distribution_version": "1.0", "module": "none", "group": "avrobust_v1", "status": "ok"}
    names = dict.fromkeys(item.distribution for item in offers)
    return Registry(
        PluginRecord(
            name=name,
            distribution=name,
            error=None,
            milliseconds=0.0,
            entries=tuple(item for item in offers if item.distribution == name),
            **record,
        )
        for name in names
    )


@pytest.fixture(scope="session")
def registry() -> Registry:
    return registry_of(
        offer("dataset", "toy", ToyConfig),
        offer("dataset", "files", FilesConfig),
        offer("encoder", "cnn", CnnConfig),
        offer("encoder", "slowfast", Empty),
        offer("fusion", "concat", Empty),
        offer("attack", "fgsm", Empty),
        offer("attack", "pgd", PgdConfig),
        offer("attack", "faulty", FaultyConfig),
        offer("attack", "twice", Empty, "other"),
        offer("attack", "twice", Empty, "acme"),
        offer("attack", "group", GroupConfig),
        offer("metric", "accuracy", Empty),
        offer("augmentation", "mixup", MixConfig),
        offer("augmentation", "hardened", HardenedConfig),
    )


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Callable[..., LoadedSpec]:
    """Return `load(text, *overrides, **other_files)`: the text is in s.yaml of the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *overrides: str, **files: str) -> LoadedSpec:
        for name, content in files.items():
            Path(f"{name}.yaml").write_text(dedent(content), encoding="utf-8")
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load_spec("s.yaml", registry, overrides)

    return run


@pytest.fixture
def problems_of(load: Callable[..., LoadedSpec]) -> Callable[..., Sequence[Problem]]:
    """Return what `load` with the same arguments complains of; nothing if the spec is in order."""

    def run(text: str, *overrides: str, **files: str) -> Sequence[Problem]:
        try:
            load(text, *overrides, **files)
        except SpecError as error:
            return error.problems
        return ()

    return run
