"""Describe one component for `avrobust show`: its configuration, its sources, and a snippet for a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from avrobust_core.cli.layout import wrapped
from avrobust_core.config.errors import nested_models
from avrobust_core.config.fields import limits
from avrobust_core.errors import ComponentError
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.spec.yaml_writer import write_yaml

# The words for a bound in a field's metadata, by the attribute that holds it.
_BOUNDS: Mapping[str, str] = {
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "multiple_of": "a multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "like {}",
}


def as_object(entry: RegistryEntry) -> dict[str, Any]:
    """Everything known about a component, with its configuration's JSON Schema, as JSON data.

    Raises:
        ComponentError: if the configuration has no JSON Schema.
    """
    component = entry.component
    try:
        schema = component.config.model_json_schema()
    except PydanticUserError as error:
        raise ComponentError(
            f"the configuration of {entry.kind} {entry.full_name!r} has no JSON Schema: {error}"
        ) from error
    return {**entry.to_json(), "example": dict(component.example), "schema": schema}


def described(entry: RegistryEntry, use: str, width: int) -> list[str]:
    """A component's description as lines.

    Args:
        entry: the component.
        use: the name by which a spec asks for it.
        width: columns of the terminal.
    """
    component = entry.component
    lines = [f"{entry.kind} {entry.full_name}", *wrapped(component.summary, width, indent=2), ""]
    lines.append(f"  distribution  {entry.distribution} {entry.distribution_version} (plugin {entry.plugin})")
    lines.append(f"  version       {component.version}")
    if component.extras:
        extras = ",".join(component.extras)
        lines.append(f"  needs         pip install '{entry.distribution}[{extras}]'")
    if lacking := entry.lacking():
        lines.extend(wrapped(f"{lacking}", width, indent=16, first="  missing       "))
    if component.references:
        lines.append("  references")
        lines.extend(line for reference in component.references for line in wrapped(reference, width, indent=4))
    lines += ["", "  configuration"]
    lines.extend(_fields_text(component.config, width) or ["    (no fields)"])
    lines += ["", "  in a spec"]
    lines.extend("    " + line for line in snippet(entry, use))
    return lines


def snippet(entry: RegistryEntry, use: str) -> list[str]:
    """The lines of YAML that use a component with its example configuration."""
    keys, remark = KINDS[entry.kind].written
    example = to_jsonable_python(dict(entry.component.example))
    data: Any = {"use": use, "with": example} if example else use
    for key in reversed(keys):
        data = [data] if key == "-" else {key.format(name=entry.component.name): data}
    return [*([f"# {remark}"] if remark else []), *write_yaml(data, flow=False).splitlines()]


def yaml_value(value: object) -> str:
    """A value as YAML on one line, as it stands in a list."""
    return write_yaml([to_jsonable_python(value)], flow=True).strip()[1:-1]


class FieldText(NamedTuple):
    """What a reader is told of one field of a configuration.

    Attributes:
        path: its name, below those of the fields that hold it.
        kind: its type and limits in words.
        default: its default as YAML, with `default` before it, or `required`.
        description: its docstring, or nothing.
    """

    path: tuple[str, ...]
    kind: str
    default: str
    description: str


def fields_of(model: type[BaseModel]) -> Iterator[FieldText]:
    """The fields of a configuration, each followed by the fields of the configurations that it holds, once."""
    yield from _fields_below(model, (), ())


def _fields_below(
    model: type[BaseModel], path: tuple[str, ...], above: tuple[type[BaseModel], ...]
) -> Iterator[FieldText]:
    model.model_rebuild()  # a deferred schema has no descriptions yet
    for name, field in model.model_fields.items():
        bounds = limits(field.metadata, _BOUNDS)
        kind = type_text(field.annotation) + (f" ({', '.join(bounds)})" if bounds else "")
        default = "required" if field.is_required() else f"default {_default_text(field)}"
        here = (*path, field.alias or name)
        yield FieldText(here, kind, default, field.description or "")
        for nested in dict.fromkeys(nested_models(field.annotation)):
            if nested not in (*above, model):
                yield from _fields_below(nested, here, (*above, model))


def _fields_text(model: type[BaseModel], width: int) -> list[str]:
    """The fields of a configuration as lines, those of a field's own further in."""
    lines: list[str] = []
    for field in fields_of(model):
        indent = 4 + 8 * (len(field.path) - 1)
        lines.extend(wrapped(f"{field.path[-1]}: {field.kind}, {field.default}", width, indent=indent))
        if field.description:
            lines.extend(wrapped(field.description, width, indent=indent + 4))
    return lines


def _default_text(field: FieldInfo) -> str:
    if field.default_factory is not None and field.default_factory_takes_validated_data:
        return "computed from the other fields"
    return yaml_value(field.get_default(call_default_factory=True))


def type_text(annotation: Any) -> str:
    """A field's type in words: `int`, `list of int`, `"linf" or "l2"`, `float or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(yaml_value(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_text(argument) for argument in arguments))
    if annotation in (None, NoneType):
        return "null"
    if annotation is Any:
        return "anything"
    if origin is not None and hasattr(annotation, "__metadata__"):  # Annotated
        return type_text(arguments[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping from {type_text(arguments[0])} to {type_text(arguments[1])}"
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin is not None and arguments:
        return f"list of {type_text(arguments[0])}"
    return str(getattr(annotation, "__name__", annotation))
