"""Build the tree of a spec from its file, the files that it extends, and `--set`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path as FilePath
from typing import Final

from avrobust_core.spec.files import read_text, resolved, unreadable
from avrobust_core.spec.nodes import Key, ListNode, MapNode, Node, Path, Place, ScalarNode, child, dotted, text_of
from avrobust_core.spec.problems import Problem, SpecError, suggestion
from avrobust_core.spec.references import kind_at
from avrobust_core.spec.yaml_reader import MAX_DEPTH, read_yaml

EXTENDS: Final = "extends"
"""The top-level key that names the files to start from."""
DROP: Final = "drop"
"""The top-level key that lists what to leave out of them."""

MAX_FILES: Final = 100
"""Most files that a spec is made of."""

_INDEX = re.compile(r"\[([0-9]+)\]")


@dataclass(slots=True)
class TreeReading:
    """The result of reading a spec's files.

    Attributes:
        root: the merged tree without `extends` and `drop`; None if a file could not be read.
        text: the text of the spec's own file.
        sources: every file read, as problems name them, in the order in which problems are to be shown.
        problems: the mistakes found so far.
        trees: by resolved path, what each file gave.
    """

    root: MapNode | None = None
    text: str = ""
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    trees: dict[FilePath, MapNode | None] = field(default_factory=dict)


def read_tree(path: FilePath) -> TreeReading:
    """Read a spec's file and, below it, the files that it extends."""
    reading = TreeReading()
    reading.root = _read(path, reading, chain=(), named_at=None)
    return reading


def merge(base: Node, over: Node, path: Path = ()) -> Node:
    """`over` laid on `base`: maps merge, key by key; anything else replaces. Every node keeps its own place.

    A bare component name in `base` counts as `{use: name}` under a map in `over`. Where `over` uses another component,
    the configuration of the one in `base` goes: it belongs to that component alone.
    """
    if not isinstance(over, MapNode):
        return over
    base = _opened(base, path)
    if not isinstance(base, MapNode):
        return over
    if kind_at(path) is not None and _other_component(base, over):
        base = _without(base, "with")
    below = base.children
    laid = {key: merge(below[key], node, (*path, key)) if key in below else node for key, node in over.children.items()}
    return MapNode({**below, **laid}, {**base.keys, **over.keys}, over.place)


def apply_override(root: MapNode, argument: str) -> tuple[MapNode, list[Problem]]:
    """Replace the value at a path: `training.standard.epochs=3`, `metrics.0=map`, `metrics[0]=map`.

    The value is YAML, as in a file, but for comments: a `#` stands for itself. Missing keys of maps are made; the tree
    that is returned is a new one.
    """
    source = override_source(argument)
    written, equals, value = argument.partition("=")
    place = Place(source, 1, 1, source.removeprefix("--set "))
    steps = steps_of(written, place)
    if not equals or not steps:
        return root, [Problem(place, "not of the form path=value", "as in --set training.standard.epochs=3")]
    if len(steps) > MAX_DEPTH:
        return root, [Problem(place, f"a path of {len(steps)} keys: nested more than {MAX_DEPTH} deep")]
    if steps[0][0] in (EXTENDS, DROP):
        return root, [Problem(place, f"`{steps[0][0]}` cannot be set", "write it into the file")]
    if not value.strip():
        return root, [Problem(place, "there is no value", "write null to leave it empty")]
    reading = read_yaml(value, source, f"{written}=", comments=False)
    if reading.root is None:
        return root, list(reading.problems)
    try:
        changed = set_at(root, steps, reading.root, ())
    except SpecError as error:
        return root, [*reading.problems, *error.problems]
    assert isinstance(changed, MapNode)
    return changed, list(reading.problems)


def override_source(argument: str) -> str:
    """The name of a `--set` argument in problems and explanations."""
    return f"--set {next(iter(argument.splitlines()), '')}"


def _read(path: FilePath, reading: TreeReading, chain: tuple[FilePath, ...], named_at: Place | None) -> MapNode | None:
    """The tree of a file, read once however often it is named; None if it, or a file that it extends, is not a spec."""
    source = str(path)
    if source not in reading.sources:
        reading.sources.append(source)
    try:
        identity = resolved(path)
        if identity in chain:
            names = [str(item.name) for item in (*chain[chain.index(identity) :], identity)]
            raise unreadable(source, f"extends itself: {' -> '.join(names)}")
        if identity in reading.trees:
            return reading.trees[identity]
        if len(reading.trees) + len(chain) >= MAX_FILES:
            raise unreadable(source, f"extends more than {MAX_FILES - 1} files")
        text = read_text(path)
    except SpecError as error:
        (problem,) = error.problems
        if named_at is not None and not problem.place.line:
            problem = Problem(named_at, f"{source}: {problem.message}", problem.hint)
        reading.problems.append(problem)
        return None
    if not chain:
        reading.text = text
    tree = _extended(text, path, reading, (*chain, identity))
    reading.trees[identity] = tree
    return tree


def _extended(text: str, path: FilePath, reading: TreeReading, chain: tuple[FilePath, ...]) -> MapNode | None:
    """The tree of one file, laid over the files that it extends."""
    document = read_yaml(text, str(path))
    reading.problems += document.problems
    root = document.root
    if root is None:
        return None
    if not isinstance(root, MapNode):
        reading.problems.append(Problem(root.place, "a spec is a map, with `version`, `name`, `data` and so on"))
        return None
    own = _without(root, EXTENDS, DROP)
    dropped = _texts(root.children.get(DROP), "drop: expected a list of paths, as in [training.mixup]", reading)
    if EXTENDS not in root.children:
        if DROP in root.children:
            reading.problems.append(Problem(root.keys[DROP], "drop: there is no `extends` to leave anything out of"))
        return own
    bases = _texts(root.children[EXTENDS], "extends: expected the path of a file, or a list of them", reading)
    if bases is None:
        return None
    files = [(FilePath(os.path.normpath(path.parent / str(name.value))), name.place) for name in bases]
    trees: list[Node] = [tree for file, place in files if (tree := _read(file, reading, chain, place)) is not None]
    if len(trees) < len(bases):
        return None
    if not trees:
        return own
    merged = reduce(merge, trees)
    for entry in dropped or ():
        merged = _dropped(merged, entry, reading)
    together = merge(merged, own)
    assert isinstance(together, MapNode)
    return together


def _texts(node: Node | None, message: str, reading: TreeReading) -> list[ScalarNode] | None:
    """The text that a node is, or the texts that it lists; None, and `message` as a problem, if it is anything else."""
    items = node.items if isinstance(node, ListNode) else () if node is None else (node,)
    texts = []
    for item in items:
        if isinstance(item, ScalarNode) and text_of(item):
            texts.append(item)
        else:
            reading.problems.append(Problem(item.place, message))
    return texts if len(texts) == len(items) else None


def _dropped(root: Node, entry: ScalarNode, reading: TreeReading) -> Node:
    """A copy of the tree without the entry of a map that `entry` names by its path."""
    steps = split_path(str(entry.value))
    if not steps:
        reading.problems.append(Problem(entry.place, f"drop: '{entry.value}' is not a path", "as in training.mixup"))
        return root

    def without(node: Node, path: Path) -> Node:
        name = steps[len(path)]
        if not isinstance(node, MapNode) or name not in node.children:
            where = dotted(path) or "the files that are extended"
            known = node.children if isinstance(node, MapNode) else ()
            hint = suggestion(name, known) if known else f"{where} is not a map: write it anew"
            reading.problems.append(Problem(entry.place, f"drop: there is no '{name}' in {where}", hint))
            return node
        if len(path) + 1 == len(steps):
            return _without(node, name)
        return replace(node, children={**node.children, name: without(node.children[name], (*path, name))})

    return without(root, ())


def _without(node: MapNode, *names: str) -> MapNode:
    """A copy of a map without these entries."""
    kept = [name for name in node.children if name not in names]
    return MapNode({name: node.children[name] for name in kept}, {name: node.keys[name] for name in kept}, node.place)


def _opened(node: Node, path: Path) -> Node:
    """A bare component name as `{use: name}`; null as an empty map; anything else as it is."""
    if isinstance(node, ScalarNode) and node.value is None:
        return MapNode({}, {}, node.place)
    if text_of(node) is not None and kind_at(path) is not None:
        return MapNode({"use": node}, {"use": node.place}, node.place)
    return node


def _other_component(base: MapNode, over: MapNode) -> bool:
    one, other = (text_of(node.children.get("use")) for node in (base, over))
    return one is not None and other is not None and one.rpartition(":")[2] != other.rpartition(":")[2]


def split_path(written: str) -> tuple[str, ...]:
    """The keys and indices of `training.standard.augment[0]`, as text; empty if the path is malformed."""
    return tuple(name for name, _ in steps_of(written, Place("", 1, 1)))


def steps_of(written: str, place: Place) -> list[tuple[str, Place]]:
    """The keys and indices of a path, each with its place in the argument; empty if the path is malformed."""
    steps = []
    column = 1
    for part in _INDEX.sub(lambda found: f".{found[1]} ", written).split("."):
        name = part.rstrip(" ")
        if not name or name != part.strip():
            return []
        steps.append((name, Place(place.source, 1, column, place.text)))
        column += len(part) + 1
    return steps


def set_at(node: Node, steps: Sequence[tuple[str, Place]], value: Node, path: Path) -> Node:
    """A copy of `node`, which stands at `path`, with `value` at the end of `steps`; missing keys of maps are made.

    Raises:
        SpecError: if a step leads into a single value, or to an item that a list does not have.
    """
    if not steps:
        return value
    (name, place), rest = steps[0], steps[1:]
    node = _opened(node, path)
    match node:
        case MapNode():
            below = set_at(node.children.get(name, MapNode({}, {}, place)), rest, value, (*path, name))
            return MapNode({**node.children, name: below}, {**node.keys, name: place}, node.place)
        case ListNode():
            index: Key = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else name
            item = child(node, index)
            if item is None or not isinstance(index, int):
                there = f"0 to {len(node.items) - 1}" if node.items else "none: the list is empty"
                message = f"{dotted(path)} is a list, and has no item '{name}'"
                raise SpecError([Problem(place, message, f"items: {there}")])
            changed = set_at(item, rest, value, (*path, index))
            return ListNode((*node.items[:index], changed, *node.items[index + 1 :]), node.place)
        case _:
            message = f"{dotted(path)} is a single value, and has no '{name}'"
            raise SpecError([Problem(place, message, f"set {dotted(path)} itself")])
