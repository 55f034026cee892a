"""The JSON Schema of a spec, made from the components that are installed, for editors to check and complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic.errors import PydanticUserError

from avrobust_core.registry.choices import EXTRA_MARK, KIND_MARK
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.registry import Registry, RegistryEntry
from avrobust_core.spec.model import NAME_PATTERN, Spec

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_TEXTS: Final = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
_EXTENDING: Final = {
    "extends": {
        "description": "A file, or several, to start from, relative to this one. Maps merge, anything else replaces.",
        "anyOf": _TEXTS,
    },
    "drop": {"description": "Entries of those files to leave out, by path, as in training.mixup.", "anyOf": _TEXTS},
}
"""Fields of a file that extends others."""


def spec_schema(registry: Registry) -> Schema:
    """The schema (draft 2020-12) of a spec that uses what `registry` offers.

    A component stands as its bare or full name, where no configuration is required, or as {use, with} with `with`
    checked against that component's configuration; where several distributions offer the bare name, against that of any
    of them. A file with `extends` may leave out whatever is required: the files that it extends may have it.
    """
    study = Spec.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = study.pop("$defs")
    definitions["Spec"] = study
    for section in study["properties"].values():
        if "additionalProperties" in section:
            section["propertyNames"] = {"pattern": f"^{NAME_PATTERN.pattern}$"}
    chosen = {name: schema for name, schema in definitions.items() if KIND_MARK in schema}
    partial = _relaxed({name: schema for name, schema in definitions.items() if name not in chosen})
    for name, schema in chosen.items():
        definitions[name] = _reference(schema[KIND_MARK], schema[EXTRA_MARK], registry, definitions)
        partial[f"{name}.partial"] = _partial_reference(name, schema)
    for kind in KINDS:
        definitions[kind] = _reference(kind, {}, registry, definitions)
    return {
        "$schema": DIALECT,
        "title": "avrobust spec",
        "description": definitions["Spec"].get("description", ""),
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": "#/$defs/Spec.partial"},
        "else": {"$ref": "#/$defs/Spec"},
        "$defs": _rewritten({**definitions, **partial}, _inner_component),
    }


def _reference(kind: str, extra: Schema, registry: Registry, definitions: dict[str, Schema]) -> Schema:
    """Any component of one kind, by name or with its configuration. Adds the configurations to `definitions`."""
    arms: list[Schema] = []
    for entry in registry.entries(kind):
        key = f"{kind}:{entry.full_name}"
        if key not in definitions:
            definitions[key] = _configuration(entry, key, definitions)
        names = [entry.component.name, entry.full_name]  # which one a bare name means, `prefer` may say
        summary = entry.component.summary
        required = ["use", "with"] if definitions[key].get("required") else ["use"]
        if required == ["use"]:
            arms += [{"const": name, "description": summary} for name in names]
        uses: Schema = {"anyOf": [{"const": name} for name in names]}
        arms.append(
            {
                "type": "object",
                "title": entry.full_name,
                "description": summary,
                "properties": {
                    "use": {**uses, "description": summary},
                    "with": {"$ref": f"#/$defs/{_escaped(key)}"},
                    **extra,
                },
                "required": required,
                "additionalProperties": False,
            }
        )
    return {"title": kind, "description": f"A component of kind {kind}.", "anyOf": arms or [False]}


def _partial_reference(name: str, choice: Schema) -> Schema:
    """A component in a file that extends another: all of it, or only the changes."""
    changes: Schema = {
        "type": "object",
        "description": f"Changes to the {choice[KIND_MARK]} of the extended file.",
        "properties": {"with": {"type": "object"}, **choice[EXTRA_MARK]},
        "additionalProperties": False,
    }
    return {"anyOf": [{"$ref": f"#/$defs/{name}"}, changes]}


def _configuration(entry: RegistryEntry, key: str, definitions: dict[str, Schema]) -> Schema:
    """The schema of a component's `with`; its own definitions go to `definitions`, under names of their own."""
    template = f"#/$defs/{_escaped(key)}.{{model}}"
    try:
        schema: Schema = entry.component.config.model_json_schema(by_alias=True, ref_template=template)
    except PydanticUserError as error:  # a configuration with a type that JSON Schema cannot say
        return {"type": "object", "description": f"No schema: {str(error).splitlines()[0]}"}
    definitions |= {f"{key}.{name}": definition for name, definition in schema.pop("$defs", {}).items()}
    if list(schema) == ["$ref"]:  # a configuration that holds itself
        target = str(schema["$ref"]).rpartition(".")[2]
        schema = definitions[f"{key}.{target}"]
    return schema


def _rewritten(schema: Any, rewrite: Callable[[Schema], Schema | None]) -> Any:
    """A copy of the schema with what `rewrite` gives in place of a part, unless that is None."""
    if isinstance(schema, dict):
        return rewrite(schema) or {key: _rewritten(value, rewrite) for key, value in schema.items()}
    return [_rewritten(item, rewrite) for item in schema] if isinstance(schema, list) else schema


def _inner_component(schema: Schema) -> Schema | None:
    """For a component inside a configuration the definition of its kind."""
    return {"$ref": f"#/$defs/{schema[KIND_MARK]}"} if isinstance(schema.get(KIND_MARK), str) else None


def _partial_pointer(schema: Schema) -> Schema | None:
    target = schema.get("$ref")
    return {**schema, "$ref": f"{target}.partial"} if isinstance(target, str) else None


def _relaxed(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The structure for a file with `extends`: nothing is required, and components may be given in part."""
    partial: dict[str, Schema] = {}
    for name, definition in definitions.items():
        partial[f"{name}.partial"] = _rewritten(definition, _partial_pointer)
        partial[f"{name}.partial"].pop("required", None)
    partial["Spec.partial"]["properties"] |= _EXTENDING
    return partial


def _escaped(key: str) -> str:
    """A definition's name inside a reference (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
