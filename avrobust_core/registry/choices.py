"""A component inside a spec or another's configuration: named, looked up, configured once, built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from avrobust_core.blame import as_plugins_fault
from avrobust_core.config.errors import Location, configuration_errors, location_text
from avrobust_core.errors import ComponentError
from avrobust_core.registry.components import FOR_IDENTITY, Config
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.registry import Registry

KIND_MARK = "x-avrobust-kind"
"""In a JSON Schema: here stands a component of this kind."""

EXTRA_MARK = "x-avrobust-extra"
"""Beside `KIND_MARK`: the properties that stand beside `use` and `with`."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A component that was looked up, and its validated configuration."""

    entry: RegistryEntry
    config: Config

    def identity(self) -> dict[str, Any]:
        """Its full name, its version, and what of its configuration changes results, as JSON data."""
        return {
            "component": self.entry.full_name,
            "version": self.entry.component.version,
            "config": self.config.identity(),
        }

    def entries(self) -> Iterator[RegistryEntry]:
        """Its entry in the registry, and those of every component inside its configuration."""
        yield self.entry
        for _, choice in choices_in(self.config):
            yield from choice.configured().entries()

    def build(self, *arguments: Any) -> Any:
        """Build it.

        Args:
            arguments: what its kind is built with beside the configuration (`Kind.arguments`).

        Raises:
            ComponentError: if that fails, or it is not what its kind should be; names the component and its plugin.
        """
        who = f"{self.entry.kind} {self.entry.full_name} (plugin {self.entry.plugin!r})"
        with as_plugins_fault(f"building {who}"):
            made = self.entry.builder()(self.config, *arguments)
        kind = KINDS[self.entry.kind]
        if not isinstance(made, kind.base_class()):
            raise ComponentError(f"{who} built a {type(made).__name__}, which is not an avrobust_core.{kind.base_name}")
        if fault := kind.outdated(type(made)):
            raise ComponentError(f"{who}: {fault}")
        if self.entry.kind == "attack" and not hasattr(made, "norms"):
            raise ComponentError(
                f"{who} built a {type(made).__name__} without `norms`: set those that it supports in the class, like "
                'norms = frozenset({"linf", "l2"})'
            )
        if hasattr(type(made), "origin"):  # encoders and fusions, whose faults show long after they were built
            made.origin = self.entry.described
        return made


class ComponentChoice(Config):
    """A component of one kind, here: a bare name, or `use` and `with`.

    Use it as the type of a field, of a list's items or of a map's values, in a configuration or in a spec's structure,
    by a subclass that says the kind: `AttackChoice`, ... A spec's validation, identities and plans look into it, and
    it is found where the component around it was found.

    Attributes:
        kind: of component: "attack", ...
    """

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    kind: ClassVar[str]
    also_takes: ClassVar[str] = "a component's name"

    use: str = Field(min_length=1)
    """The component's name: bare (pgd), or qualified (avrobust:pgd) where several distributions offer it."""
    settings: Mapping[str, Any] = Field(default_factory=dict, alias="with")
    """The component's configuration."""
    _registry: Registry | None = PrivateAttr(default=None)
    _configured: Configured | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    def model_post_init(self, context: Any) -> None:
        """Remember where the component around it was found."""
        if isinstance(context, Mapping):
            self._registry = context.get("registry")

    def configured(self, registry: Registry | None = None) -> Configured:
        """The component that is meant, with its configuration; looked up once.

        Args:
            registry: where to look it up; by default where the component around it was found, or else among all that
                is installed.

        Raises:
            ComponentError: if it is not installed, or its configuration does not fit.
        """
        if self._configured is None:
            where = registry or self._registry or Registry.discover()
            self._configured = configure(where, self.kind, self.use, self.settings)
        return self._configured

    def look_in(self, registry: Registry) -> None:
        """Be looked up there, as the component around it was, where nothing else was said: a default's is not."""
        if self._registry is None:
            self._registry = registry

    def settle(self, configured: Configured) -> None:
        """Take what was looked up and validated already."""
        self._configured = configured

    def build(self, *arguments: Any) -> Any:
        """Build the component; see `Configured.build`."""
        return self.configured().build(*arguments)

    def identity(self) -> dict[str, Any]:
        """Its full name, its version, and what of its configuration changes results, as JSON data."""
        return self.configured().identity()

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        written: dict[str, Any] = self.identity() if info.context == FOR_IDENTITY else plain(self)
        return written

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler.resolve_ref_schema(handler(core_schema))
        extra = {name: value for name, value in whole["properties"].items() if name not in ("use", "with")}
        return {
            "title": cls.__name__,
            "anyOf": [{"type": "string"}, {"type": "object"}],
            KIND_MARK: cls.kind,
            EXTRA_MARK: extra,
        }


class DatasetChoice(ComponentChoice):
    """A data set."""

    kind = "dataset"


class EncoderChoice(ComponentChoice):
    """An encoder."""

    kind = "encoder"


class FusionChoice(ComponentChoice):
    """A fusion."""

    kind = "fusion"


class AttackChoice(ComponentChoice):
    """An attack."""

    kind = "attack"


class MetricChoice(ComponentChoice):
    """A metric."""

    kind = "metric"


class AugmentationChoice(ComponentChoice):
    """A training augmentation."""

    kind = "augmentation"


class TrackerChoice(ComponentChoice):
    """A tracker."""

    kind = "tracker"


def choices_in(value: Any, location: Location = ()) -> Iterator[tuple[Location, ComponentChoice]]:
    """Every component chosen inside a configuration, and where; what is inside those is theirs to say."""
    if isinstance(value, ComponentChoice):
        yield location, value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from choices_in(getattr(value, name), (*location, field.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from choices_in(item, (*location, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from choices_in(item, (*location, index))


def configure(registry: Registry, kind: str, name: str, given: Mapping[str, object]) -> Configured:
    """Look a component up and validate its configuration, the components inside it too.

    Args:
        registry: where to look.
        kind: of component.
        name: bare or full.
        given: the configuration, as in a spec.

    Raises:
        ComponentError: if the name does not resolve, or with one line per fault of the configuration.
    """
    from avrobust_core.config.fields import silent_conversions  # not for listing

    entry = registry.resolve(kind, name)
    if lacking := entry.lacking():  # else it might not even be validated
        raise ComponentError(f"{entry.described} {lacking}")
    config: type[Config] = entry.component.config
    try:
        made = config.model_validate(dict(given), context={"registry": registry})
    except ValidationError as error:
        raise _misconfigured(entry, configuration_errors(config, error)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # A plugin's validator that raises anything but ValueError or AssertionError, sys.exit too, is at fault.
        raise ComponentError(
            f"{entry.described} failed to validate its configuration: {type(error).__name__}: {error}"
        ) from error
    faults: list[tuple[Location, str]] = [
        (location, f"expected {slot.phrase}, not {value!r}")
        for location, slot, value in silent_conversions(config, given)
    ]
    for location, choice in choices_in(made):
        try:
            choice.configured(registry)
        except ComponentError as error:
            faults.append((location, str(error)))
    if faults:
        raise _misconfigured(entry, faults)
    if lacking := entry.lacking(made):
        raise ComponentError(f"{entry.described} {lacking}")
    return Configured(entry, made)


def _misconfigured(entry: RegistryEntry, faults: Sequence[tuple[Location, str]]) -> ComponentError:
    lines = [f"  {location_text(location)}: {message}" for location, message in faults]
    what = "an error" if len(faults) == 1 else f"{len(faults)} errors"
    return ComponentError("\n".join([f"{what} in the configuration of {entry.described}:", *lines]))
