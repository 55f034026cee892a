"""Explain one place in a spec: its value, where it was written, and the values that it may have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from avrobust_core.config.fields import Slot, arms, choices, slot_at
from avrobust_core.registry.choices import Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.model import Spec
from avrobust_core.spec.nodes import Key, Node, Path, Place, ScalarNode, dotted, find, written
from avrobust_core.spec.problems import Problem, SpecError, suggestion
from avrobust_core.spec.references import kind_at
from avrobust_core.spec.tree import split_path

_DERIVED: Final[Mapping[Path, str]] = {
    ("encoders", "modality"): "default: the entry's own name",
    ("attacks", "threats"): "default: all of threats",
}
"""Fields (section, name) whose default depends on the rest of the spec."""

_NAMED: Final[Mapping[Path, str]] = {
    ("models", "encoders"): "encoders",
    ("attacks", "threats"): "threats",
    ("compare", "models"): "models",
    ("compare", "training"): "training",
}
"""Fields (section, name) that list names, and the section whose names they are."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One place in a resolved spec: its value, origin, type and default.

    Attributes:
        path: the place.
        value: the resolved value, as plain data.
        facts: in words, by name: "from" (`file:line:column`, the `--set` argument, or `default` and whose); and, if
            known, "takes", "default" (as JSON) and "choices" (names or values, if they are few).
        description: the field's docstring; may be empty.
        children: for a map or a list, what is in it: key, value and origin of each.
    """

    path: Path
    value: Any
    facts: Mapping[str, str]
    description: str
    children: tuple[tuple[str, Any, str], ...]


def explain(loaded: LoadedSpec, where: str, registry: Registry) -> Explanation:
    """Explain the place `where`, such as `training.standard.epochs` or `metrics.0`; empty text is the whole spec.

    Raises:
        SpecError: if there is no such place in the resolved spec.
    """
    value, path = _value(loaded.resolved(), where)
    configured, inside = _component(loaded, path)
    slot = slot_at(Spec, path)
    if configured is not None and inside[:1] == ("with",):
        slot = slot_at(type(configured.config), inside[1:])
    description = slot.description if slot is not None else ""
    if configured is not None and inside in ((), ("use",)):
        description = f"{configured.entry.full_name}: {configured.entry.component.summary}"
    children = tuple((str(key), item, _origin(loaded, (*path, key))) for key, item in _entries(value).items())
    facts = {
        "from": _origin(loaded, path),
        "takes": slot.phrase if slot is not None else "",
        "default": "" if children else _default(slot),
        "choices": ", ".join(_choices(loaded, path, slot, registry)),
    }
    return Explanation(path, value, {name: fact for name, fact in facts.items() if fact}, description, children)


def _entries(value: Any) -> dict[Key, Any]:
    """The entries of a map or a list by key or index; none of anything else."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, list) else {}


def _value(data: Any, where: str) -> tuple[Any, Path]:
    """The value at a path of the resolved spec, and the path with its indices as integers."""
    names = split_path(where)
    if where and not names:
        raise SpecError([Problem(Place("explain"), f"{where!r} is not a path", "as in training.standard.epochs")])
    path: Path = ()
    for name in names:
        known = {str(key): key for key in _entries(data)}
        if name not in known:
            holder = dotted(path) or "the spec"
            hint = suggestion(name, known) if known else f"{holder} is a single value"
            raise SpecError([Problem(Place(where), f"there is no '{name}' in {holder}", hint)])
        data, path = data[known[name]], (*path, known[name])
    return data, path


def _component(loaded: LoadedSpec, path: Path) -> tuple[Configured | None, Path]:
    """The innermost component in which `path` lies, and the path from there; None outside components."""
    for length in range(len(path), 0, -1):
        if path[:length] in loaded.components:
            return loaded.components[path[:length]], path[length:]
    return None, path


def _default(slot: Slot | None) -> str:
    if slot is None or slot.field is None or slot.field.is_required():
        return ""
    default = slot.field.get_default(call_default_factory=True, validated_data={})
    return as_json(default.model_dump(mode="json", by_alias=True) if hasattr(default, "model_dump") else default)


def as_json(value: Any) -> str:
    """Plain data as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _choices(loaded: LoadedSpec, path: Path, slot: Slot | None, registry: Registry) -> Iterator[str]:
    place = path[:-1] if path[-1:] == ("use",) else path
    kind = loaded.components[place].entry.kind if place in loaded.components else kind_at(place)
    if kind is not None:
        yield from map(registry.short_name, registry.entries(kind))
    elif section := _NAMED.get((*path[:1], *path[2:3])):
        yield from getattr(loaded.spec, section)
    elif slot is not None and all(choices(arm) or arm is type(None) for arm in arms(slot.annotation)):
        yield from (str(choice) for choice in choices(slot.annotation))


def _origin(loaded: LoadedSpec, path: Path) -> str:
    node = _written(loaded, path)
    if node is not None:
        return _said(loaded, node.place)
    configured, inside = _component(loaded, path)
    if configured is not None and inside[:1] == ("with",):
        return f"default of {configured.entry.full_name}"
    return _DERIVED.get(path[::2][:2], "default")


def _written(loaded: LoadedSpec, path: Path) -> Node | None:
    """The node that was written for `path`: for the `use` of a bare name, the name.

    Null counts as not written where a default that depends on the rest of the spec takes its place.
    """
    node = find(loaded.tree, *path)
    if node is None and path[-1:] == ("use",):
        holder = find(loaded.tree, *path[:-1])
        return holder if isinstance(holder, ScalarNode) else None
    return written(loaded.tree, *path) if len(path) == 3 and path[::2] in _DERIVED else node


def _said(loaded: LoadedSpec, place: Place) -> str:
    if place.source.startswith("--set "):
        return place.source
    text = f"{place.source}:{place.line}:{place.column}"
    return text if place.source == str(loaded.path) else f"{text} (extended by {loaded.path})"
