"""Find the components that a spec names, and resolve them in a registry."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from avrobust_core.config.fields import arms, slot_at
from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import ComponentChoice, Configured, choices_in
from avrobust_core.registry.discovery import RegistryEntry, normalised
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.messages import validated
from avrobust_core.spec.model import Spec
from avrobust_core.spec.nodes import MapNode, Node, Path, ScalarNode, dotted, find, items_of, key_place, nodes, text_of
from avrobust_core.spec.problems import Problem


def kind_at(path: Path, model: type[BaseModel] = Spec) -> str | None:
    """The kind of component that a model lets stand at a path; None if it lets none."""
    slot = slot_at(model, path)
    for arm in arms(slot.annotation) if slot is not None else ():
        if isinstance(arm, type) and issubclass(arm, ComponentChoice):
            return arm.kind
    return None


def _places(model: type[BaseModel], given: Node | None, base: Path) -> Iterator[tuple[Path, str, Node]]:
    """Path, kind and node wherever the model lets a component stand in the data at `base`, however wrong the rest."""
    for below, node in nodes(given) if given is not None else ():
        kind = kind_at(below, model)
        if kind is not None and not (isinstance(node, ScalarNode) and node.value is None):  # null: no component
            yield (*base, *below), kind, node


def preferences(root: Node, registry: Registry) -> tuple[Registry, list[Problem]]:
    """The registry in which a bare name means what the spec prefers; and the problems of `prefer`, but its form's."""
    names: list[str] = []
    problems: list[Problem] = []
    for item in items_of(find(root, "prefer")):
        name = text_of(item)
        if name is None:
            continue
        try:
            registry.refuse_stranger(name)
        except ComponentError as error:
            message, _, hint = str(error).partition("; ")
            problems.append(Problem(item.place, f"prefer: {message}", hint))
            continue
        if normalised(name) in map(normalised, names):
            problems.append(Problem(item.place, f"prefer: '{name}' is listed twice"))
        names.append(name)
    return registry.preferring(names) if names else registry, problems


def resolve_references(root: Node, registry: Registry) -> tuple[dict[Path, Configured], list[Problem]]:
    """Resolve every component's name and validate its `with`, and so on for the components that are named in there.

    Faults of the structure around them are passed over: its own check tells them.

    Returns:
        What is in order, by path, the outer before the inner; and the problems.
    """
    resolved: dict[Path, Configured] = {}
    problems: list[Problem] = []
    waiting = deque(_places(Spec, root, ()))
    while waiting:
        path, kind, node = waiting.popleft()
        named = node if isinstance(node, ScalarNode) else find(node, "use")
        name, given, inside = text_of(named), find(node, "with"), (*path, "with")
        if named is None or name is None:
            continue
        try:
            entry = registry.resolve(kind, name)
        except ComponentError as error:
            message, _, hint = str(error).partition("; ")
            problems.append(Problem(named.place, f"{dotted(path)}: {message}", hint))
            continue
        lacking = entry.lacking()
        if lacking:
            problems.append(_lacking(named, path, entry, lacking))
        if given is not None and not isinstance(given, MapNode):
            continue
        waiting += _places(entry.component.config, given, inside)
        try:
            config, found = validated(root, entry.component.config, inside, {"registry": registry})
        except Exception as error:  # noqa: BLE001 - a plugin's validator is foreign code: its fault hides no other
            message = f"the configuration of {entry.full_name} could not be checked: {type(error).__name__}: {error}"
            problems.append(Problem(key_place(root, path), message, "this is a fault of the plugin"))
            continue
        problems += found
        if config is not None and not found and not lacking and (lacking := entry.lacking(config)):
            problems.append(_lacking(named, path, entry, lacking))
        if config is not None and not found:
            for _, choice in choices_in(config):
                choice.look_in(registry)
            resolved[path] = Configured(entry, config)
    return resolved, problems


def _lacking(named: Node, path: Path, entry: RegistryEntry, lacking: str) -> Problem:
    message, _, hint = lacking.partition(": ")
    return Problem(named.place, f"{dotted(path)}: {entry.full_name} {message}", hint)


def settle(holder: BaseModel, components: Mapping[Path, Configured], base: Path = ()) -> None:
    """Hand each component that a valid spec names what was resolved for it: nothing is looked up or validated again.

    Args:
        holder: the spec, or a component's configuration.
        components: what `resolve_references` gave.
        base: where the holder stands.
    """
    for location, choice in choices_in(holder):
        path = (*base, *location)
        if path in components:  # a default is not written anywhere
            choice.settle(components[path])
            settle(components[path].config, components, (*path, "with"))


def repeated(root: Node, components: Mapping[Path, Configured]) -> Iterator[Problem]:
    """Metrics and trackers that are listed again as they stand: they would be computed, or told everything, twice."""
    seen: list[Configured] = []
    for path, resolved in components.items():
        if path[:1] in (("metrics",), ("track",)) and len(path) == 2:
            if any(resolved.entry is other.entry and resolved.config == other.config for other in seen):
                place = key_place(root, path)
                yield Problem(place, f"{dotted(path)}: '{resolved.entry.component.name}' is listed twice")
            seen.append(resolved)
