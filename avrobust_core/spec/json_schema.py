"""The JSON Schema of a spec, made from the components that are installed, for editors to check and complete."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from pydantic.errors import PydanticUserError

from avrobust_core.registry.components import KIND_MARK
from avrobust_core.spec.model import NAME_PATTERN, Spec

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Offer, Registry

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_REFERENCES: Final = {
    ("Spec", "data"): "dataset",
    ("Spec", "metrics"): "metric",
    ("ModelEntry", "fusion"): "fusion",
    ("TrainingEntry", "augment"): "augmentation",
}
"""Fields whose ComponentRef is a component of one kind."""
_ENTRIES: Final = {"EncoderEntry": "encoder", "AttackEntry": "attack"}
"""Models that are a component's reference and more."""
_EXTENDS: Final = {
    "description": "A file, or several, to start from, relative to this one. Maps merge, anything else replaces.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def spec_schema(registry: Registry) -> Schema:
    """The schema (draft 2020-12) of a spec that uses what `registry` offers.

    A component stands as its bare name, where that is unique and no configuration is required, or as {use, with} with
    `with` checked against that component's configuration. A file with `extends` may leave out whatever is required:
    the files that it extends may have it.
    """
    study = Spec.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = study.pop("$defs")
    definitions["Spec"] = study
    for section in study["properties"].values():
        if "additionalProperties" in section:
            section["propertyNames"] = {"pattern": f"^{NAME_PATTERN.pattern}$"}
    for (model, field), kind in _REFERENCES.items():
        schema = definitions[model]["properties"][field]
        definitions[model]["properties"][field] = _pointed(schema, "ComponentRef", kind)
    common = {name: definitions.pop(name) for name in ("ComponentRef", *_ENTRIES)}
    definitions = _pointed(definitions, "EncoderEntry", "encoder")
    definitions = _pointed(definitions, "AttackEntry", "attack")
    partial = _relaxed(definitions)
    extra = {kind: _extra_properties(common[model]) for model, kind in _ENTRIES.items()}
    for kind in (*dict.fromkeys(_REFERENCES.values()), *_ENTRIES.values()):
        offers = registry.offers(kind)
        definitions[kind] = _reference(kind, offers, extra.get(kind, {}), definitions)
        partial[f"{kind}.partial"] = _partial_reference(kind, extra.get(kind, {}))
    return {
        "$schema": DIALECT,
        "title": "avrobust spec",
        "description": definitions["Spec"].get("description", ""),
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": "#/$defs/Spec.partial"},
        "else": {"$ref": "#/$defs/Spec"},
        "$defs": _inner_components({**definitions, **partial}),
    }


def _reference(kind: str, offers: tuple[Offer, ...], extra: Schema, definitions: dict[str, Schema]) -> Schema:
    """Any component of one kind, by name or with its configuration. Adds the configurations to `definitions`."""
    bare = [offer.component.name for offer in offers]
    arms: list[Schema] = []
    for offer in offers:
        key = f"{kind}:{offer.full_name}"
        configuration = _configuration(offer, key, definitions)
        unique = bare.count(offer.component.name) == 1
        names = [offer.component.name, offer.full_name] if unique else [offer.full_name]
        summary = offer.component.summary
        required = ["use", "with"] if configuration.get("required") else ["use"]
        if required == ["use"]:
            arms += [{"const": name, "description": summary} for name in names]
        definitions[key] = configuration
        uses: Schema = {"const": names[0]} if len(names) == 1 else {"anyOf": [{"const": name} for name in names]}
        arms.append(
            {
                "type": "object",
                "title": offer.full_name,
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


def _partial_reference(kind: str, extra: Schema) -> Schema:
    """What a file that extends another may say of a component: all of it, or only what it changes."""
    changes: Schema = {
        "type": "object",
        "description": f"Changes to the {kind} of the extended file.",
        "properties": {"with": {"type": "object"}, **extra},
        "additionalProperties": False,
    }
    return {"anyOf": [{"$ref": f"#/$defs/{kind}"}, changes]}


def _configuration(offer: Offer, key: str, definitions: dict[str, Schema]) -> Schema:
    """The schema of a component's `with`; its own definitions go to `definitions`, under names of their own."""
    template = f"#/$defs/{_escaped(key)}.{{model}}"
    try:
        schema: Schema = offer.component.config.model_json_schema(by_alias=True, ref_template=template)
    except PydanticUserError as error:  # a configuration with a type that JSON Schema cannot say
        return {"type": "object", "description": f"No schema: {str(error).splitlines()[0]}"}
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{key}.{name}"] = definition
    if list(schema) == ["$ref"]:  # a configuration that holds itself
        target = str(schema["$ref"]).rpartition(".")[2]
        schema = deepcopy(definitions[f"{key}.{target}"])
    return schema


def _inner_components(schema: Any) -> Any:
    """The schema with every component inside a configuration led to the definition of its kind."""
    if isinstance(schema, dict):
        if isinstance(kind := schema.get(KIND_MARK), str):
            return {"$ref": f"#/$defs/{kind}"}
        return {key: _inner_components(value) for key, value in schema.items()}
    return [_inner_components(item) for item in schema] if isinstance(schema, list) else schema


def _extra_properties(entry: Schema) -> Schema:
    return {name: value for name, value in entry["properties"].items() if name not in ("use", "with")}


def _relaxed(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The structure for a file with `extends`: nothing is required, and components may be given in part."""
    partial: dict[str, Schema] = {}
    for name, definition in definitions.items():
        schema: Schema = _partial_pointers(deepcopy(definition))
        schema.pop("required", None)
        partial[f"{name}.partial"] = schema
    partial["Spec.partial"]["properties"]["extends"] = dict(_EXTENDS)
    return partial


def _partial_pointers(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: f"{value}.partial" if key == "$ref" and isinstance(value, str) else _partial_pointers(value)
            for key, value in schema.items()
        }
    return [_partial_pointers(item) for item in schema] if isinstance(schema, list) else schema


def _pointed(schema: Any, old: str, new: str) -> Any:
    """The schema with every reference to the definition `old` led to `new`."""
    if isinstance(schema, dict):
        return {
            key: f"#/$defs/{new}" if key == "$ref" and value == f"#/$defs/{old}" else _pointed(value, old, new)
            for key, value in schema.items()
        }
    return [_pointed(item, old, new) for item in schema] if isinstance(schema, list) else schema


def _escaped(key: str) -> str:
    """A definition's name inside a reference (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
