"""The record by which a plugin offers a component, and the base of every component's configuration."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any

from avrobust_core.config.field_docs import Described
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import ComponentError
from avrobust_core.plain_text import shortened

KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Config(Described):
    """Base of every component's configuration: frozen, no unknown fields, free of torch."""

    def identity(self) -> dict[str, Any]:
        """The part of this configuration that changes results, as JSON data; part of the cell's id.

        Override it to leave out fields such as paths or cache sizes. A component inside it counts by its full name,
        its version and its own identity.
        """
        return self.model_dump(mode="json", context=FOR_IDENTITY)

    def modules_needed(self) -> tuple[str, ...]:
        """The top-level modules that this configuration needs beside those that its component always needs."""
        return ()


FOR_IDENTITY: Mapping[str, bool] = MappingProxyType({"identity": True})
"""Tells what is written to write its identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One thing a plugin offers. Building it imports what is heavy; naming it does not.

    `build` names a class or a function, like "my_package.attack:MyAttack", which is imported when a first one is
    built. It takes the validated configuration, and what the kind needs beside it:

    | kind         | build(config, ...)                                            | returns              |
    |--------------|---------------------------------------------------------------|----------------------|
    | dataset      | build(config)                                                 | `Dataset`            |
    | encoder      | build(config, media: MediaSpec)                               | `Encoder`            |
    | fusion       | build(config, inputs: Mapping[str, EncodedDims])              | `Fusion`             |
    | attack       | build(config)                                                 | `Attack`             |
    | metric       | build(config)                                                 | `Metric`             |
    | augmentation | build(config)                                                 | `Augmentation`       |
    | tracker      | build(config)                                                 | `Tracker`            |

    Attributes:
        name: kebab-case; unique for its kind inside one distribution.
        summary: one line.
        config: the configuration's class; every field described, importable without torch.
        build: makes the component: "package.module:Class", or a function that imports heavy modules inside.
        references: DOI, arXiv number or URL of each source.
        example: a minimal valid configuration.
        extras: the pip extras of its distribution that it needs, for the error's hint.
        requires: the top-level modules that it cannot be built without and that not everybody has, mostly those of
            `extras`: ("timm",). A spec that names it where one is missing is refused before anything runs.
        version: raised when its results change; part of every cached result's identity.

    Raises:
        TypeError, ValueError: if a field is not what it should be.
    """

    name: str
    summary: str
    config: type[Config]
    build: str | Callable[..., Any]
    references: tuple[str, ...] = ()
    example: Mapping[str, object] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not KEBAB_CASE.fullmatch(self.name):
            raise ValueError(f"component name {self.name!r} is not kebab-case (like 'my-attack')")
        if not isinstance(self.summary, str) or not self.summary.strip() or "\n" in self.summary:
            raise ValueError(f"component {self.name!r}: summary must be one non-empty line")
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise TypeError(f"component {self.name!r}: config must be a subclass of avrobust_core.Config")
        if not (isinstance(self.build, str) or callable(self.build)):
            raise TypeError(f"component {self.name!r}: build must be 'package.module:Class', or callable")
        for name in ("references", "extras", "requires"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"component {self.name!r}: {name} must be a tuple of strings, not {shown(value)}")
        for module in self.requires:
            if not module.isidentifier():  # to look for a module inside a package would import the package
                raise ValueError(f"component {self.name!r}: requires names top-level modules, not {module!r}")
        example: object = self.example  # what the annotations promise, a plugin's author may not have checked
        if not isinstance(example, Mapping):
            raise TypeError(f"component {self.name!r}: example must be a mapping, not {shown(example)}")
        version: object = self.version
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise TypeError(f"component {self.name!r}: version must be a whole number from 1, not {shown(version)}")

    def builder(self) -> Callable[..., Any]:
        """The class or function that makes the component: `build`, imported if it is a name.

        Raises:
            ComponentError: if it names nothing that can be imported and called.
        """
        if not isinstance(self.build, str):
            return self.build
        module, _, name = self.build.partition(":")
        if not (module and name):
            raise ComponentError(f"build {self.build!r} is not of the form 'package.module:Class'")
        try:
            found = import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            from avrobust_core.blame import place_of, sentence  # only where something is broken

            said = f"build {self.build!r}: importing {module} failed: {sentence(error)}"
            # An import that fails says what is missing; of anything else the place is worth having.
            if isinstance(error, Exception) and not isinstance(error, ImportError):
                said += f" ({place_of(error)})"
            raise ComponentError(said) from error
        named: Callable[..., Any] | None = getattr(found, name, None)
        if not callable(named):
            hint = did_you_mean(name, [known for known, value in vars(found).items() if callable(value)])
            raise ComponentError(f"build {self.build!r}: {module} has no class or function {name!r}{hint}")
        return named

    def make(self, config: Config, *arguments: Any) -> Any:
        """Build the component from its configuration and what its kind needs beside it.

        Raises:
            ComponentError: if `build` names nothing that can be imported and called.
        """
        return self.builder()(config, *arguments)


def shown(value: object) -> str:
    """A value's type and, where it is short, the value."""
    return f"{type(value).__name__} {shortened(repr(value), 60)}"
