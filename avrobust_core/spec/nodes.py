"""The tree of a YAML document in which every node and every key knows where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from avrobust_core.config.fields import Key as Key
from avrobust_core.config.fields import Path as Path


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a source.

    Attributes:
        source: the file as the user named it, or the `--set` argument.
        line: from 1; 0 means the source as a whole.
        column: from 1, in characters; 0 means the source as a whole.
        text: the whole source line.
    """

    source: str
    line: int = 0
    column: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text, a number, true, false or null."""

    value: str | int | float | bool | None
    place: Place


@dataclass(frozen=True, slots=True)
class ListNode:
    """A sequence of nodes."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class MapNode:
    """Nodes by key, in the order written; `keys` holds the place of each key."""

    children: Mapping[str, Node]
    keys: Mapping[str, Place]
    place: Place


Node: TypeAlias = ScalarNode | ListNode | MapNode


def child(node: Node | None, key: Key) -> Node | None:
    """The node one step below, or None if there is none."""
    match node:
        case MapNode() if isinstance(key, str):
            return node.children.get(key)
        case ListNode() if isinstance(key, int) and 0 <= key < len(node.items):
            return node.items[key]
        case _:
            return None


def follow(root: Node, path: Path) -> Node:
    """The deepest node that exists along `path`."""
    for key in path:
        below = child(root, key)
        if below is None:
            return root
        root = below
    return root


def find(root: Node | None, *path: Key) -> Node | None:
    """The node at exactly this path, or None."""
    for key in path:
        root = child(root, key)
    return root


def written(root: Node | None, *path: Key) -> Node | None:
    """The node at exactly this path, or None: also where null is written."""
    node = find(root, *path)
    return None if isinstance(node, ScalarNode) and node.value is None else node


def text_of(node: Node | None) -> str | None:
    """The text that a node is; None if it is anything else."""
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None


def items_of(node: Node | None) -> tuple[Node, ...]:
    """The items of a list; none of anything else."""
    return node.items if isinstance(node, ListNode) else ()


def key_place(root: Node, path: Path) -> Place:
    """The place of the key that holds the node at `path`; of the node itself in a list or at the root."""
    if path:
        holder = find(root, *path[:-1])
        if isinstance(holder, MapNode) and isinstance(path[-1], str) and path[-1] in holder.keys:
            return holder.keys[path[-1]]
    return follow(root, path).place


def plain(node: Node) -> Any:
    """The data without its places: dict, list, str, int, float, bool, None."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [plain(item) for item in node.items]
        case MapNode():
            return {key: plain(value) for key, value in node.children.items()}


def nodes(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """`node` and every node below it, with its path; what holds others comes before them."""
    yield path, node
    match node:
        case ListNode():
            for index, item in enumerate(node.items):
                yield from nodes(item, (*path, index))
        case MapNode():
            for key, value in node.children.items():
                yield from nodes(value, (*path, key))


def dotted(path: Path) -> str:
    """The path as `--set` and `avrobust explain` take it: `training.standard.augment.0`."""
    return ".".join(str(key) for key in path)
