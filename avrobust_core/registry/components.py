"""The record by which a plugin offers a component, and the base of every component's configuration."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from avrobust_core.config.field_docs import Described

if TYPE_CHECKING:
    from avrobust_core.registry.discovery import Offer

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "dataset": "avrobust_datasets",
        "encoder": "avrobust_encoders",
        "fusion": "avrobust_fusions",
        "attack": "avrobust_attacks",
        "metric": "avrobust_metrics",
        "augmentation": "avrobust_augmentations",
    }
)
"""Each kind of component and the hook that offers it."""

KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Config(Described):
    """Base of every component's configuration: frozen, no unknown fields, free of torch."""

    def identity(self) -> dict[str, Any]:
        """What of this configuration changes results, as JSON data; part of the cell's id.

        Override it to leave out fields such as paths or cache sizes. A component inside it counts by its full name,
        its version and its own identity.
        """
        return self.model_dump(mode="json", context=_FOR_IDENTITY)


_FOR_IDENTITY: Mapping[str, bool] = MappingProxyType({"identity": True})
"""Tells what is written to write its identity."""

KIND_MARK = "x-avrobust-kind"
"""In the JSON Schema of a configuration: here stands a component of this kind."""


class ComponentChoice(Config):
    """A component inside another's configuration, as a spec names it: a bare name, or `use` and `with`.

    Subclass it to say of which kind. A spec's validation, identities and plans then look into it as they do into what
    the spec names itself, and find it where the outer component was found.

    Attributes:
        kind: of component: "attack", ...
    """

    model_config = ConfigDict(serialize_by_alias=True)

    kind: ClassVar[str]

    use: str
    """Name of an installed component."""
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its configuration."""
    _registry: Any = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    def model_post_init(self, context: Any) -> None:
        """Remember where the outer component was found."""
        if isinstance(context, Mapping):
            self._registry = context.get("registry")

    def found(self) -> "tuple[Offer, Config]":
        """What is offered by this name, and its configuration.

        Raises:
            ComponentError: if it is not installed, or its configuration does not fit.
        """
        from avrobust_core.registry.registry import Registry

        registry: Registry = self._registry or Registry.discover()
        return registry.configure(self.kind, self.use, self.settings)

    def identity(self) -> dict[str, Any]:
        """Its full name, its version and what of its configuration changes results."""
        offer, config = self.found()
        return {"component": offer.full_name, "version": offer.component.version, "config": config.identity()}

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        written: dict[str, Any] = self.identity() if info.context == _FOR_IDENTITY else plain(self)
        return written

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"title": cls.__name__, "anyOf": [{"type": "string"}, {"type": "object"}], KIND_MARK: cls.kind}


def choices_in(
    value: Any, location: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], "ComponentChoice"]]:
    """Every component chosen inside a configuration, and where; what is inside those is theirs to say."""
    if isinstance(value, ComponentChoice):
        yield location, value
    elif isinstance(value, BaseModel):
        for name, field_ in type(value).model_fields.items():
            yield from choices_in(getattr(value, name), (*location, field_.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from choices_in(item, (*location, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from choices_in(item, (*location, index))


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
