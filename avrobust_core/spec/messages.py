"""Turn pydantic's errors into problems with a place, in the words of a YAML author, one per mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from avrobust_core.config.fields import LIMITS, Slot, choices, field_names, short, silent_conversions, slot_at
from avrobust_core.config.suggest import closest
from avrobust_core.spec.nodes import (
    ListNode,
    MapNode,
    Node,
    Path,
    ScalarNode,
    child,
    dotted,
    find,
    follow,
    key_place,
    plain,
    text_of,
)
from avrobust_core.spec.problems import Problem, suggestion
from avrobust_core.spec.yaml_reader import scalar_value

M = TypeVar("M", bound=BaseModel)

_OTHER_TYPE: Final = (
    "_type",
    "_parsing",
    "_parsing_size",
    "_from_float",
    "literal_error",
    "enum",
    "none_required",
    "value_error",
)
"""Ends of the error types that say: this member of a union was not meant."""

_FURTHER_LIMITS: Final[Mapping[str, str]] = {
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}


@dataclass(frozen=True, slots=True)
class _Located:
    """An error of pydantic, and the way to it in the tree.

    Attributes:
        error: as pydantic tells it.
        path: to the deepest node on the error's way.
        missing: the key or index that is missing there, or None.
        union: path to the value that is read as a union; None if the error is in no union.
        arm: the union's member that the error speaks of.
    """

    error: ErrorDetails
    path: Path
    missing: str | int | None
    union: Path | None
    arm: str


def validated(
    root: Node, model: type[M], base: Path = (), context: Mapping[str, Any] | None = None
) -> tuple[M | None, list[Problem]]:
    """Validate the data at `base` of the tree, or an empty map if there is none: the model, and every problem.

    Args:
        root: the whole spec's tree.
        model: what the data must be.
        base: where in the tree.
        context: for the model's validators.
    """
    node = find(root, *base)
    data = {} if node is None else plain(node)
    valid, problems = None, []
    try:
        valid = model.model_validate(data, context=context)
    except ValidationError as error:
        problems = _Teller(root, model, base).problems(error)
    mistyped = []
    for path, slot, _ in silent_conversions(model, data):
        scalar = follow(root, (*base, *path))
        message = f"{dotted((*base, *path))}: expected {slot.phrase}, found {shown(scalar)}"
        mistyped.append(Problem(scalar.place, message, _unquoted(scalar)))
    told = {problem.place for problem in mistyped}
    return valid, [problem for problem in problems if problem.place not in told] + mistyped


def _unquoted(node: Node) -> str:
    """A hint for text that would be a number, true or false without its quotes."""
    text = text_of(node)
    if text is None or len(text) > 40:
        return ""
    return f"without quotes: {text}" if isinstance(scalar_value(text), int | float) else ""


def shown(node: Node | None) -> str:
    """A value as an error shows it: short, text in double quotes."""
    match node:
        case None:
            return "nothing"
        case MapNode():
            return "a map" if node.children else "an empty map"
        case ListNode():
            return f"a list of {len(node.items)}" if node.items else "an empty list"
        case ScalarNode(value=None):
            return "nothing"
        case ScalarNode():
            text = json.dumps(node.value, ensure_ascii=False)
            return text if len(text) <= 60 else f"{text[:56]}..."


def _locate(error: ErrorDetails, root: Node, base: Path) -> _Located:
    node, exists = follow(root, base), find(root, *base) is not None
    path, union, arm, missing = base if exists else base[:-1], None, "", None
    location = error["loc"]
    for index, key in enumerate(location):
        below = child(node, key) if exists else None
        if below is not None:
            node, path = below, (*path, key)
        elif index == len(location) - 1 and error["type"] == "missing":
            missing = key
        elif key == "[key]":
            break  # the error is in the key itself, and the path leads to its value
        elif union is None:
            union, arm = path, str(key)
    return _Located(error, path, missing, union, arm)


def _without_other_arms(located: list[_Located]) -> list[_Located]:
    """Of each union's errors keep those of the member that was meant; if none was, one error for the union."""
    kept: list[_Located] = []
    unions: dict[Path, dict[str, list[_Located]]] = {}
    for item in located:
        if item.union is None:
            kept.append(item)
        else:
            unions.setdefault(item.union, {}).setdefault(item.arm, []).append(item)
    for union, members in unions.items():
        meant = [errors for errors in members.values() if not all(_is_other_type(item, union) for item in errors)]
        if meant:
            fewest: list[_Located] = min(meant, key=len)
            kept += fewest
            continue
        errors = next(iter(members.values()))
        said = [item for item in errors if item.error["type"] == "value_error"]
        if len(members) > 1 or len(said) != 1:
            said = [_Located({**errors[0].error, "type": "union_type"}, union, None, union, "")]
        kept += said
    return kept


def _is_other_type(item: _Located, union: Path) -> bool:
    return item.path == union and item.missing is None and item.error["type"].endswith(_OTHER_TYPE)


class _Teller:
    """Words for the errors of one model, validated from the data at `base` of a spec's tree."""

    def __init__(self, root: Node, model: type[BaseModel], base: Path) -> None:
        self._root = root
        self._model = model
        self._base = base

    def problems(self, error: ValidationError) -> list[Problem]:
        """The problems behind a failed validation."""
        located = [_locate(item, self._root, self._base) for item in error.errors(include_url=False)]
        located = _without_other_arms(located)
        misspelled: dict[Path, list[str]] = {}
        for item in located:
            if item.error["type"] == "extra_forbidden" and item.path:
                misspelled.setdefault(item.path[:-1], []).append(str(item.path[-1]))
        return list(dict.fromkeys(self._problem(item) for item in located if not self._explained(item, misspelled)))

    def _explained(self, item: _Located, misspelled: Mapping[Path, Sequence[str]]) -> bool:
        """True if a missing field is only misspelled, which another problem says already."""
        written = misspelled.get(item.path, ()) if isinstance(item.missing, str) else ()
        return any(closest(name, self._fields(item.path), 1) == [item.missing] for name in written)

    def _problem(self, item: _Located) -> Problem:
        node, kind, location = follow(self._root, item.path), item.error["type"], item.error["loc"]
        if isinstance(item.missing, str):
            slot = self._slot((*item.path, item.missing)) or slot_at(self._model, location)
            said = "" if slot is None else " ".join(slot.description.split())
            hint = f"{item.missing}: {said}" if said else ""
            holder = max(item.path, self._base, key=len)  # the map that would hold the field need not be written
            return Problem(node.place, f"'{item.missing}' is missing{_of(holder)}", hint)
        key = key_place(self._root, item.path)
        if kind == "extra_forbidden":
            name = str(location[-1])
            holder = item.path[:-1] if item.path[-1:] == (name,) else item.path  # a validator may rename keys
            hint = suggestion(name, self._fields(holder), "allowed")
            return Problem(key, f"unknown field '{name}'{_of(holder)}", hint)
        if location[-1:] == ("[key]",):
            return Problem(key, f"{_where(item.path[:-1])}{_own_words(item)}")
        message, hint = self._value(item, node)
        on_one_line = (key.source, key.line) == (node.place.source, node.place.line)
        return Problem(node.place if on_one_line else key, f"{_where(item.path)}{message}", hint)

    def _value(self, item: _Located, node: Node) -> tuple[str, str]:
        """Message and hint for a value that does not fit."""
        kind, context, slot = item.error["type"], item.error.get("ctx", {}), self._slot(item.path)
        if item.missing is not None:
            return f"expected {slot.phrase if slot is not None else 'more items'}, found {shown(node)}", ""
        limits = [f"must be {words.format(short(context[key]))}" for key, words in LIMITS.items() if key in context]
        if limits or kind in _FURTHER_LIMITS:
            return f"{limits[0] if limits else _FURTHER_LIMITS[kind].format(**context)}, found {shown(node)}", ""
        if kind in ("too_short", "too_long"):
            limit = context.get("min_length", context.get("max_length"))
            noun = ("entry", "entries") if isinstance(node, MapNode) else ("item", "items")
            bound = "least" if kind == "too_short" else "most"
            return f"needs at {bound} {limit} {noun[limit != 1]}, found {shown(node)}", ""
        if kind in ("value_error", "assertion_error"):
            return _own_words(item), ""
        if slot is not None and kind.endswith(_OTHER_TYPE):
            known = [str(choice) for choice in choices(slot.annotation)]
            near = isinstance(node, ScalarNode) and closest(str(node.value), known, 1)
            hint = f"did you mean '{near[0]}'?" if near else _unquoted(node)
            return f"expected {slot.phrase}, found {shown(node)}", hint
        said = item.error["msg"]
        return f"{said[:1].lower()}{said[1:]}, found {shown(node)}", ""

    def _slot(self, path: Path) -> Slot | None:
        return slot_at(self._model, path[len(self._base) :]) if path[: len(self._base)] == self._base else None

    def _fields(self, path: Path) -> list[str]:
        slot = self._slot(path)
        return field_names(slot.annotation) if slot is not None else []


def _of(path: Path) -> str:
    return f" in {dotted(path)}" if path else ""


def _where(path: Path) -> str:
    return f"{dotted(path)}: " if path else ""


def _own_words(item: _Located) -> str:
    """A validator's own message, without pydantic's prefix."""
    error = item.error.get("ctx", {}).get("error")
    said = str(error) if error is not None and str(error) else item.error["msg"]
    return said.splitlines()[0] if said else said
