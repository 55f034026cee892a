"""Where a spec names components, and what each of those names means in a registry."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avrobust_core.config.fields import arms, slot_at
from avrobust_core.errors import ComponentError
from avrobust_core.registry.components import ComponentChoice, Config
from avrobust_core.spec.messages import validated
from avrobust_core.spec.nodes import ListNode, MapNode, Node, Path, ScalarNode, dotted, find, key_place, nodes
from avrobust_core.spec.places import PLACES, Step
from avrobust_core.spec.problems import Problem

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Offer, Registry


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


@dataclass(frozen=True, slots=True)
class Resolved:
    """A reference that is in order: the component offered, and its configuration with all defaults."""

    offer: Offer
    config: Config


def references(root: Node) -> Iterator[Reference]:
    """Every place of the tree where a component is named, however wrong the rest of the tree is."""
    for pattern, kind in PLACES.items():
        for path, node in _matches(root, pattern):
            if isinstance(node, ScalarNode) and node.value is None:
                continue  # null: no component, where the structure allows it
            yield _reference(path, kind, node)


def _reference(path: Path, kind: str, node: Node) -> Reference:
    named = node if isinstance(node, ScalarNode) else find(node, "use")
    return Reference(
        path, kind, node, named if isinstance(named, ScalarNode) and isinstance(named.value, str) else None
    )


def _inner(reference: Reference, config: type[Config]) -> Iterator[Reference]:
    """Every place of a component's configuration where another component is named (`ComponentChoice`)."""
    given = find(reference.node, "with")
    for below, node in nodes(given) if given is not None else ():
        slot = slot_at(config, below)
        for arm in arms(slot.annotation) if slot is not None else ():
            if isinstance(arm, type) and issubclass(arm, ComponentChoice):
                yield _reference((*reference.path, "with", *below), arm.kind, node)


def resolve_references(root: Node, registry: Registry) -> tuple[dict[Path, Resolved], list[Problem]]:
    """Resolve every reference and validate its `with`, and so on for the components that are named in there.

    Returns:
        What is in order, by path, the outer before the inner; and the problems.
    """
    resolved: dict[Path, Resolved] = {}
    problems: list[Problem] = []
    waiting = deque(references(root))
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
        waiting += _inner(reference, offer.component.config)
        if isinstance(found, Config):
            resolved[reference.path] = Resolved(offer, found)
        else:
            problems += found
    return resolved, problems


def repeated_metrics(root: Node, components: Mapping[Path, Resolved]) -> Iterator[Problem]:
    """Metrics that are listed again as they stand: they would be computed, and printed, twice."""
    seen: list[Resolved] = []
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


def _matches(node: Node, pattern: tuple[Step, ...], path: Path = ()) -> Iterator[tuple[Path, Node]]:
    if not pattern:
        yield path, node
        return
    step, *rest = pattern
    match node, step:
        case MapNode(), "*":
            below: list[tuple[str | int, Node]] = list(node.children.items())
        case ListNode(), "#":
            below = list(enumerate(node.items))
        case MapNode(), _ if step in node.children:
            below = [(step, node.children[step])]
        case _:
            below = []
    for key, value in below:
        yield from _matches(value, tuple(rest), (*path, key))
