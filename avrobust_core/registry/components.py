"""The record by which a plugin offers a component, and the base of every component's configuration."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from avrobust_core.config.field_docs import Described

KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Config(Described):
    """Base of every component's configuration: frozen, no unknown fields, free of torch."""

    def identity(self) -> dict[str, Any]:
        """What of this configuration changes results, as JSON data; part of the cell's id.

        Override it to leave out fields such as paths or cache sizes. A component inside it counts by its full name,
        its version and its own identity.
        """
        return self.model_dump(mode="json", context=FOR_IDENTITY)


FOR_IDENTITY: Mapping[str, bool] = MappingProxyType({"identity": True})
"""Tells what is written to write its identity."""

C = TypeVar("C", bound=Config)
T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component(Generic[C, T]):
    """One thing a plugin offers. Building it imports what is heavy; naming it does not.

    `build` takes the validated configuration, and what the kind needs beside it:

    | kind         | build(config, ...)                                            | returns              |
    |--------------|---------------------------------------------------------------|----------------------|
    | dataset      | build(config)                                                 | `Dataset`            |
    | encoder      | build(config, media: MediaSpec)                               | `Encoder`            |
    | fusion       | build(config, inputs: Mapping[str, EncodedDims])              | `Fusion`             |
    | attack       | build(config)                                                 | `Attack`             |
    | metric       | build(config)                                                 | `Metric`             |
    | augmentation | build(config)                                                 | `Augmentation`       |

    Attributes:
        name: kebab-case; unique for its kind inside one distribution.
        summary: one line.
        config: the configuration's class; every field described, importable without torch.
        build: makes the component; imports heavy modules inside.
        references: DOI, arXiv number or URL of each source.
        example: a minimal valid configuration.
        extras: the pip extras that it needs, for the error's hint.
        version: raised when its results change; part of every cached result's identity.

    Raises:
        TypeError, ValueError: if a field is not what it should be.
    """

    name: str
    summary: str
    config: type[C]
    build: Callable[..., T]
    references: tuple[str, ...] = ()
    example: Mapping[str, object] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not KEBAB_CASE.fullmatch(self.name):
            raise ValueError(f"component name {self.name!r} is not kebab-case (like 'my-attack')")
        if not isinstance(self.summary, str) or not self.summary.strip() or "\n" in self.summary:
            raise ValueError(f"component {self.name!r}: summary must be one non-empty line")
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise TypeError(f"component {self.name!r}: config must be a subclass of avrobust_core.Config")
        if not callable(self.build):
            raise TypeError(f"component {self.name!r}: build must be callable")
