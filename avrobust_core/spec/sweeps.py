"""Sweeps: an entry of a section becomes several that differ in what a sweep says; whatever names it names them all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from avrobust_core.spec.nodes import (
    ListNode,
    MapNode,
    Node,
    Path,
    Place,
    ScalarNode,
    find,
    items_of,
    plain,
    text_of,
    written,
)
from avrobust_core.spec.problems import Problem, SpecError, suggestion
from avrobust_core.spec.tree import set_at, steps_of

SWEEP: Final = "sweep"
"""The top-level key."""
SWEPT: Final = ("encoders", "models", "training", "threats", "attacks")
"""The sections whose entries can be swept."""
MOST_POINTS: Final = 1000
"""Most points of one sweep."""

_PATTERN_FIELDS: Final = {"model": "models", "training": "training", "attack": "attacks", "threat": "threats"}

Names = Mapping[tuple[str, str], tuple[str, ...]]
"""By section and name of an entry, the names that it became."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """One path of a sweep, and its values."""

    steps: tuple[tuple[str, Place], ...]
    values: tuple[Node, ...]
    place: Place

    def words(self, last: int) -> str:
        """The last keys that are words, so many of them: a point is named after them."""
        return "-".join([name for name, _ in self.steps[2:] if not name.isdigit()][-last:])


def expand_sweeps(root: MapNode) -> tuple[MapNode, list[Problem]]:
    """The tree with each swept entry replaced by its points; `sweep` stays, for its structure to be checked.

    `matrix` takes every combination of its values, `zip` the first of each, then the second. A point is named after
    the entry, and for each path the last key (the last two, where two paths share it) and the value:
    `vertex-ratio-0_5`. A point of an encoder reads the modality that the entry read. A model of a swept encoder becomes
    a model for each point of it. Lists of names, `correlate` and patterns that name a swept entry name all its points.

    Returns:
        A new tree, and the mistakes in the sweeps; if there are any, the tree as it was.
    """
    if SWEEP not in root.children:
        return root, []
    problems: list[Problem] = []
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    tree = root
    for node in items_of(root.children.get(SWEEP)):
        try:
            tree = _swept(tree, node, names)
        except SpecError as error:
            problems += error.problems
    try:
        tree = _renamed(_models_of(tree, names), names)
    except SpecError as error:
        problems += error.problems
    return (root if problems else tree), problems


def _swept(root: MapNode, sweep: Node, names: dict[tuple[str, str], tuple[str, ...]]) -> MapNode:
    """The tree with the points of one sweep.

    Raises:
        SpecError: if it does not fit the tree. A structure that is wrong in itself is passed over.
    """
    if not isinstance(sweep, MapNode) or len(sweep.children) != 1:
        return root
    ((kind, axes_node),) = sweep.children.items()
    if kind not in ("matrix", "zip") or not isinstance(axes_node, MapNode):
        return root
    axes = [_axis(path, node, axes_node.keys[path]) for path, node in axes_node.children.items()]
    if not axes or any(not axis.values for axis in axes):
        return root
    section, entry = _target(root, axes, names)
    sizes = [len(axis.values) for axis in axes]
    if kind == "zip" and len(set(sizes)) > 1:
        raise _error(sweep.keys[kind], f"zip: lists of {', '.join(map(str, sizes))} values", "make them equally long")
    points = list(zip(*(axis.values for axis in axes), strict=True) if kind == "zip" else _combined(axes, sweep.place))
    base = find(root, section, entry)
    assert base is not None
    if section == "encoders" and written(base, "modality") is None:  # by default the entry's own name
        base = set_at(base, [("modality", axes[0].place)], ScalarNode(entry, axes[0].place), (section, entry))
    last = 1 if len({axis.words(1) for axis in axes}) == len(axes) else 2
    made: dict[str, Node] = {}
    for values in points:
        point, name = base, entry
        for axis, value in zip(axes, values, strict=True):
            point = set_at(point, axis.steps[2:], value, (section, entry))
            name += f"-{axis.words(last)}-{_word(axis, value)}"
        if name in made:
            raise _error(axes[0].place, f"two points of the sweep are called '{name}'", "give each value once")
        made[name] = point
    _refuse_taken(root, section, made, axes[0].place)
    names[section, entry] = tuple(made)
    return _replaced(root, section, entry, made)


def _axis(path: str, values: Node, place: Place) -> _Axis:
    steps = tuple((name, place) for name, _ in steps_of(path, place))
    if len(steps) < 3 or steps[0][0] not in SWEPT:
        hint = f"as in training.standard.epochs; an entry of {', '.join(SWEPT[:-1])} or {SWEPT[-1]}"
        raise _error(place, f"sweep: '{path}' is not a path into an entry", hint)
    return _Axis(steps, items_of(values), place)


def _target(root: MapNode, axes: Sequence[_Axis], names: Names) -> tuple[str, str]:
    """The section and the entry that all paths of a sweep lead into."""
    section, entry = axes[0].steps[0][0], axes[0].steps[1][0]
    for axis in axes[1:]:
        if (axis.steps[0][0], axis.steps[1][0]) != (section, entry):
            other = f"{axis.steps[0][0]}.{axis.steps[1][0]}"
            raise _error(axis.place, f"one sweep is of one entry: {section}.{entry}, or {other}", "make it two sweeps")
    if (section, entry) in names:
        raise _error(axes[0].place, f"{section}.{entry} is swept twice", "put all its paths into one `matrix` or `zip`")
    known = _section(root, section)
    if entry not in known:
        raise _error(axes[0].place, f"sweep: there is no '{entry}' in {section}", suggestion(entry, known))
    return section, entry


def _combined(axes: Sequence[_Axis], place: Place) -> Iterator[tuple[Node, ...]]:
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST_POINTS:
        raise _error(place, f"a sweep of {count} points", f"at most {MOST_POINTS}")
    return product(*(axis.values for axis in axes))


def _word(axis: _Axis, value: Node) -> str:
    """A value as a part of a name: 0.5 as 0_5, 4/255 as 4_255; what is not a single value by its number in the list."""
    if not isinstance(value, ScalarNode):
        named = text_of(find(value, "use"))
        return _letters(named) if named else str(axis.values.index(value) + 1)
    return _letters(str(plain(value)))


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text) or "_"


def _models_of(root: MapNode, names: dict[tuple[str, str], tuple[str, ...]]) -> MapNode:
    """The tree with a model for each combination of points of the swept encoders that a model reads."""
    for model, node in _section(root, "models").items():
        listed = find(node, "encoders")
        if not isinstance(listed, ListNode) or not isinstance(node, MapNode):
            continue
        found = [text_of(item) for item in listed.items]
        choices = [names.get(("encoders", name), (name,)) if name is not None else (None,) for name in found]
        if all(points == (name,) for points, name in zip(choices, found, strict=True)):
            continue
        made: dict[str, Node] = {}
        for chosen in product(*choices):
            items = tuple(
                ScalarNode(point, item.place) if point is not None else item
                for point, item in zip(chosen, listed.items, strict=True)
            )
            ends = [
                point.removeprefix(f"{name}-")
                for point, name in zip(chosen, found, strict=True)
                if point is not None and point != name
            ]
            encoders = ListNode(items, listed.place)
            made["-".join([model, *ends])] = replace(node, children={**node.children, "encoders": encoders})
        _refuse_taken(root, "models", made, listed.place)
        names["models", model] = tuple(made)
        for key, points in list(names.items()):  # a model that is a point of a sweep itself
            if key[0] == "models" and key[1] != model and model in points:
                at = points.index(model)
                names[key] = (*points[:at], *made, *points[at + 1 :])
        root = _replaced(root, "models", model, made)
    return root


def _refuse_taken(root: MapNode, section: str, made: Mapping[str, Node], place: Place) -> None:
    """Refuse points that are called as another entry is."""
    for name in made:
        if name in _section(root, section):
            raise _error(
                place, f"a point of the sweep is called '{name}', as an entry of {section}", "rename the entry"
            )


def _replaced(root: MapNode, section: str, entry: str, made: Mapping[str, Node]) -> MapNode:
    """The tree with an entry replaced by others, in its place in the order."""
    holder = root.children[section]
    assert isinstance(holder, MapNode)
    children: dict[str, Node] = {}
    for name, node in holder.children.items():
        children |= made if name == entry else {name: node}
    keys = {name: holder.keys.get(name, holder.keys[entry]) for name in children}
    return replace(root, children={**root.children, section: MapNode(children, keys, holder.place)})


def _renamed(root: MapNode, names: Names) -> MapNode:
    """The tree in which whatever names a swept entry names its points."""

    def at(tree: MapNode, path: Path, section: str) -> MapNode:
        listed = find(tree, *path)
        if not isinstance(listed, ListNode):
            return tree
        items = tuple(
            ScalarNode(name, item.place) if name is not None else item
            for item in listed.items
            for name in (names.get((section, text_of(item) or ""), (None,)))
        )
        steps = [(str(key), listed.place) for key in path]
        changed = set_at(tree, steps, ListNode(items, listed.place), ())
        assert isinstance(changed, MapNode)
        return changed

    for attack in _section(root, "attacks"):
        root = at(root, ("attacks", attack, "threats"), "threats")
    for index, _ in enumerate(items_of(root.children.get("compare"))):
        for section in ("models", "training"):
            root = at(root, ("compare", index, section), section)
    changed: dict[str, Node] = {}
    for side in ("include", "exclude"):
        if isinstance(listed := root.children.get(side), ListNode):
            patterns = tuple(each for item in listed.items for each in _patterns(item, names))
            changed[side] = ListNode(patterns, listed.place)
    if isinstance(listed := root.children.get("correlate"), ListNode):
        changed["correlate"] = ListNode(
            tuple(each for item in listed.items for each in _runs(item, names)), listed.place
        )
    return replace(root, children={**root.children, **changed})


def _patterns(pattern: Node, names: Names) -> Iterator[Node]:
    """A pattern for each combination of points of what it names; itself, if it names nothing that was swept."""
    if not isinstance(pattern, MapNode):
        yield pattern
        return
    fields = [
        [(field, ScalarNode(point, node.place)) for point in names[section, text_of(node) or ""]]
        for field, section in _PATTERN_FIELDS.items()
        if (node := pattern.children.get(field)) is not None and (section, text_of(node) or "") in names
    ]
    for chosen in product(*fields):
        yield replace(pattern, children={**pattern.children, **dict(chosen)})


def _runs(item: Node, names: Names) -> Iterator[Node]:
    """attack/threat for each combination of points."""
    attack, slash, threat = (text_of(item) or "").partition("/")
    if not slash:
        yield item
        return
    for one, other in product(names.get(("attacks", attack), (attack,)), names.get(("threats", threat), (threat,))):
        yield ScalarNode(f"{one}/{other}", item.place)


def _section(root: MapNode, name: str) -> Mapping[str, Node]:
    section = root.children.get(name)
    return section.children if isinstance(section, MapNode) else {}


def _error(place: Place, message: str, hint: str) -> SpecError:
    return SpecError([Problem(place, message, hint)])
