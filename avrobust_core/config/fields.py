"""Walk a pydantic model along a path, and put a field's type into plain words."""

from __future__ import annotations

import enum
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import BaseModel, BeforeValidator, PlainValidator, RootModel, WrapValidator
from pydantic.fields import FieldInfo

from avrobust_core.config.field_docs import Described, Phrase

Key: TypeAlias = str | int
"""A step into data: a map's key or a list's index."""
Path: TypeAlias = tuple[Key, ...]
"""Steps from the root."""

_WORDS: Final[Mapping[Any, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "text",
    FilePath: "a path",
    type(None): "null",
}

LIMITS: Final[Mapping[str, str]] = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "multiple_of": "a multiple of {}",
}
"""Words for a limit in a field's metadata, by the attribute that holds it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a model at which a value stands.

    Attributes:
        annotation: its type, metadata included.
        field: the field that it is; None for an item of a list or a value of a map.
        owner: the model that has the field.
    """

    annotation: Any
    field: FieldInfo | None = None
    owner: type[BaseModel] | None = None

    @property
    def phrase(self) -> str:
        """The values that the place takes, in plain words."""
        return phrase(self.annotation)

    @property
    def description(self) -> str:
        """The field's docstring; of an item of a map or list, its model's."""
        if self.field is not None and self.field.description:
            return self.field.description
        models = _models(self.annotation)
        return (models[0].__doc__ or "").strip().split("\n\n")[0] if len(models) == 1 else ""


@lru_cache(maxsize=8192)
def slot_at(model: type[BaseModel], path: Path) -> Slot | None:
    """The slot that `path` leads to, through maps, lists, unions and models; None where there is none."""
    slot: Slot | None = Slot(model)
    for key in path:
        slot = below(slot.annotation, key) if slot is not None else None
    return slot


def field_names(annotation: Any) -> list[str]:
    """The keys that a map at this place may have, as written in YAML; empty if any may stand there."""
    models = [model for model in _models(annotation) if not issubclass(model, RootModel)]
    return list(dict.fromkeys(key_of(name, info) for model in models for name, info in model.model_fields.items()))


def key_of(name: str, info: FieldInfo) -> str:
    """The key under which a field is written in YAML."""
    if isinstance(info.validation_alias, str):
        return info.validation_alias
    return info.alias or name


def arms(annotation: Any) -> list[Any]:
    """The members of a union, without metadata; a type alone is its only member."""
    return [member for member, _ in _members(annotation)]


def choices(annotation: Any) -> list[Any]:
    """The values of a Literal or an Enum, as written in YAML; empty if the type is open."""
    found: list[Any] = []
    for arm in arms(annotation):
        if get_origin(arm) is Literal:
            found += [value.value if isinstance(value, enum.Enum) else value for value in get_args(arm)]
        elif isinstance(arm, type) and issubclass(arm, enum.Enum):
            found += [member.value for member in arm]
    return found


def phrase(annotation: Any) -> str:
    """The values that a type takes, in the words of a YAML author: `a whole number, at least 1, or null`."""
    bare, metadata = _strip(annotation)
    for item in metadata:
        if isinstance(item, Phrase):
            return item.text
    if get_origin(bare) in (Union, types.UnionType):
        said = list(dict.fromkeys(phrase(member) for member in get_args(bare)))
        return _joined(said) + _limited(metadata)
    if values := choices(bare):
        return _joined([_quoted(value) for value in values])
    origin = get_origin(bare) or bare
    return _collection(origin, bare, metadata) or _WORDS.get(origin, "a value") + _limited(metadata)


def silently_converted(slot: Slot, value: Any) -> bool:
    """True if pydantic would convert this value to another type without a word.

    A boolean is not taken for a number, nor text for a number or a boolean, nor a number for a boolean, unless the
    field has a validator of its own that reads it.
    """
    members = arms(slot.annotation)
    literals = [item for member in members if get_origin(member) is Literal for item in get_args(member)]
    if isinstance(value, bool):
        open_to_bool = any(member in (bool, Any, object) for member in members) or any(v is value for v in literals)
        return not open_to_bool and (any(member in (int, float) for member in members) or value in literals)
    if isinstance(value, str):
        numeric = any(member in (int, float, bool) for member in members)
        return numeric and value not in literals and not _reads_text(slot)
    return bool in members and not any(member not in (bool, type(None)) for member in members)


def silent_conversions(model: type[BaseModel], data: Any, path: Path = ()) -> Iterator[tuple[Path, Slot, Any]]:
    """Every value of plain data that `silently_converted` means, and where it stands."""
    if isinstance(data, Mapping):
        for key, item in data.items():
            yield from silent_conversions(model, item, (*path, str(key)))
    elif isinstance(data, list | tuple):
        for index, item in enumerate(data):
            yield from silent_conversions(model, item, (*path, index))
    elif isinstance(data, str | int | float):
        slot = slot_at(model, path)
        if slot is not None and silently_converted(slot, data):
            yield path, slot, data


def _reads_text(slot: Slot) -> bool:
    """True if a member of the type takes text, or a validator sees it before the type does."""
    if slot.owner is not None and slot.field is not None:
        for validator in slot.owner.__pydantic_decorators__.field_validators.values():
            named = [slot.owner.model_fields.get(name) for name in validator.info.fields]
            if validator.info.mode != "after" and any(field is slot.field for field in named):
                return True
    return any(_takes_text(member, metadata) for member, metadata in _members(slot.annotation))


def _members(annotation: Any) -> list[tuple[Any, list[Any]]]:
    """As `arms`, each with its metadata."""
    bare, metadata = _strip(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return [(member, inner + metadata) for arm in get_args(bare) for member, inner in _members(arm)]
    return [(bare, metadata)]


def _takes_text(bare: Any, metadata: Sequence[Any]) -> bool:
    if any(isinstance(item, BeforeValidator | PlainValidator | WrapValidator) for item in metadata):
        return True
    origin = get_origin(bare) or bare
    if origin in (int, float, bool, type(None), Literal):
        return False
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        return any(item.info.mode != "after" for item in origin.__pydantic_decorators__.model_validators.values())
    return origin in (str, bytes) or not (isinstance(origin, type) and issubclass(origin, Collection))


def short(limit: Any) -> Any:
    """A limit as an error shows it: 1, not 1.0."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _collection(origin: Any, bare: Any, metadata: Sequence[Any]) -> str:
    """The values that a map or a list takes; empty text for anything else."""
    if not isinstance(origin, type) or issubclass(origin, str | bytes):
        return ""
    if issubclass(origin, BaseModel) and not issubclass(origin, RootModel):
        names = [key_of(name, info) for name, info in origin.model_fields.items()]
        said = f"a map with {', '.join(names)}" if names else "an empty map"
        also = origin.also_takes if issubclass(origin, Described) else ""
        return f"{also} or {said}" if also else said
    if issubclass(origin, Mapping | RootModel):
        return "a map"
    if issubclass(origin, Collection):
        items = get_args(bare)
        if issubclass(origin, tuple) and items and items[-1] is not Ellipsis:
            return f"a list [{', '.join(phrase(item) for item in items)}]"
        of = f", each {phrase(items[0])}" if items and arms(items[0]) != [Any] else ""
        smallest = max((m.min_length for m in metadata if isinstance(m, annotated_types.MinLen)), default=0)
        return f"a list of at least {smallest}{of}" if smallest else f"a list{of}"
    return ""


def _strip(annotation: Any) -> tuple[Any, list[Any]]:
    """The type without Annotated and aliases, and the metadata on the way."""
    metadata: list[Any] = []
    while True:
        if hasattr(annotation, "__value__"):  # `type X = ...`, of typing or of typing_extensions
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += [item for part in more for item in _flat(part)]
        else:
            return annotation, metadata


def _flat(metadata: Any) -> Iterable[Any]:
    """The single constraints in a part of an annotation's metadata."""
    if isinstance(metadata, FieldInfo):
        return metadata.metadata
    return metadata if isinstance(metadata, annotated_types.GroupedMetadata) else [metadata]


def below(annotation: Any, key: Key) -> Slot | None:
    """The slot one step inside a type; None where there is none."""
    for arm in arms(annotation):
        origin = get_origin(arm) or arm
        if not isinstance(origin, type):
            continue
        items = get_args(arm)
        if issubclass(origin, RootModel):
            slot = below(_annotation(origin.model_fields["root"]), key)
            if slot is not None:
                return slot
        elif issubclass(origin, BaseModel):
            for name, info in origin.model_fields.items():
                if key in (name, key_of(name, info)):
                    return Slot(_annotation(info), info, origin)
            if origin.model_config.get("extra") == "allow" and isinstance(key, str):
                return Slot(_extra(origin))
        elif issubclass(origin, Mapping) and isinstance(key, str):
            return Slot(items[1] if len(items) == 2 else Any)
        elif issubclass(origin, tuple) and isinstance(key, int) and items and items[-1] is not Ellipsis:
            if key < len(items):
                return Slot(items[key])
        elif issubclass(origin, Collection) and not issubclass(origin, str | bytes) and isinstance(key, int):
            return Slot(items[0] if items else Any)
    return None


def _annotation(info: FieldInfo) -> Any:
    """The field's type with the metadata that pydantic keeps apart from it."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def _extra(model: type[BaseModel]) -> Any:
    """The type of a model's further fields, by whatever name: Any where it is not stated."""
    items = get_args(get_type_hints(model).get("__pydantic_extra__"))
    return items[1] if len(items) == 2 else Any


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [arm for arm in arms(annotation) if isinstance(arm, type) and issubclass(arm, BaseModel)]


def limits(metadata: Iterable[Any], words: Mapping[str, str] = LIMITS) -> list[str]:
    """The limits in a field's metadata in words, each once.

    Args:
        metadata: of the field.
        words: for a limit, by the attribute that holds it.
    """
    found = [(text, getattr(item, name, None)) for item in metadata for name, text in words.items()]
    return list(dict.fromkeys(text.format(short(limit)) for text, limit in found if limit is not None))


def _limited(metadata: Iterable[Any]) -> str:
    said = limits(metadata)
    return f" {' and '.join(said)}" if said else ""


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
