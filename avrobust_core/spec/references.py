"""Where a spec names components, and what each of those names means in a registry."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from avrobust_core.config.fields import arms, slot_at
from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import ComponentChoice, Configured, choices_in
from avrobust_core.registry.components import Config
from avrobust_core.registry.registry import Offer, Registry
from avrobust_core.spec.messages import validated
from avrobust_core.spec.model import Spec
from avrobust_core.spec.nodes import MapNode, Node, Path, ScalarNode, dotted, find, key_place, nodes
from avrobust_core.spec.problems import Problem


@dataclass(frozen=True, slots=True)
class Reference:
    """A component named in a spec.

    Attributes:
        path: where in the spec.
        kind: what must stand there: encoder, attack, ...
        node: the bare name, or the map with `use` and `with`.
        name: the name node; None if it is missing or not text.
    """

    path: Path
    kind: str
    node: Node
    name: ScalarNode | None


def kind_at(path: Path) -> str | None:
    """The kind of component that is named at this path of a spec; None if none is."""
    slot = slot_at(Spec, path)
    return _kind(slot.annotation) if slot is not None else None


def _kind(annotation: Any) -> str | None:
    """The kind of component that a type lets stand at its place."""
    for arm in arms(annotation):
        if isinstance(arm, type) and issubclass(arm, ComponentChoice):
            return arm.kind
    return None


def _references(model: type[BaseModel], given: Node | None, base: Path) -> Iterator[Reference]:
    """Every place of the data at `base` where its model lets a component stand, however wrong the rest of it is."""
    for below, node in nodes(given) if given is not None else ():
        slot = slot_at(model, below)
        kind = _kind(slot.annotation) if slot is not None else None
        if kind is not None and not (isinstance(node, ScalarNode) and node.value is None):  # null: no component
            yield _reference((*base, *below), kind, node)


def _reference(path: Path, kind: str, node: Node) -> Reference:
    named = node if isinstance(node, ScalarNode) else find(node, "use")
    return Reference(
        path, kind, node, named if isinstance(named, ScalarNode) and isinstance(named.value, str) else None
    )


def resolve_references(root: Node, registry: Registry) -> tuple[dict[Path, Configured], list[Problem]]:
    """Resolve every reference and validate its `with`, and so on for the components that are named in there.

    Returns:
        What is in order, by path, the outer before the inner; and the problems.
    """
    resolved: dict[Path, Configured] = {}
    problems: list[Problem] = []
    waiting = deque(_references(Spec, root, ()))
    while waiting:
        reference = waiting.popleft()
        if reference.name is None:
            continue  # the structure's check says what is wrong
        try:
            offer = registry.resolve(reference.kind, str(reference.name.value))
        except ComponentError as error:
            problems.append(_unresolved(reference, error))
            continue
        found = _configure(root, reference, offer, registry)
        waiting += _references(offer.component.config, find(reference.node, "with"), (*reference.path, "with"))
        if isinstance(found, Config):
            resolved[reference.path] = Configured(offer, found)
        else:
            problems += found
    return resolved, problems


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


def repeated_metrics(root: Node, components: Mapping[Path, Configured]) -> Iterator[Problem]:
    """Metrics that are listed again as they stand: they would be computed, and printed, twice."""
    seen: list[Configured] = []
    for path, resolved in components.items():
        if path[:1] == ("metrics",) and len(path) == 2:
            if any(resolved.offer is other.offer and resolved.config == other.config for other in seen):
                place = key_place(root, path)
                yield Problem.at(place, f"{dotted(path)}: '{resolved.offer.component.name}' is listed twice")
            seen.append(resolved)


def _configure(root: Node, reference: Reference, offer: Offer, registry: Registry) -> Config | list[Problem]:
    """The reference's validated configuration, or what is wrong with it."""
    given = find(reference.node, "with")
    path = (*reference.path, "with")
    if given is not None and not isinstance(given, MapNode):
        return []  # the structure's check says so
    try:
        valid, problems = validated(root, offer.component.config, path, {"registry": registry})
    except Exception as error:  # noqa: BLE001 - a plugin's validator is foreign code: its fault must not hide the rest
        message = f"the configuration of {offer.full_name} could not be checked: {type(error).__name__}: {error}"
        return [Problem.at(key_place(root, reference.path), message, "this is a fault of the plugin")]
    return valid if valid is not None and not problems else problems


def _unresolved(reference: Reference, error: ComponentError) -> Problem:
    assert reference.name is not None
    message, _, hint = str(error).partition("; ")
    return Problem.at(reference.name.place, f"{dotted(reference.path)}: {message}", hint)
