"""Check the names by which the sections of a spec refer to one another.

It reads the tree, not the validated model, and passes over what is not as it should be: so these mistakes are
reported together with those of the structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

from pydantic import ValidationError

from avrobust_core.spec.cells import AttackPlan, matches, trim, trims_attacks
from avrobust_core.spec.model import Pattern
from avrobust_core.spec.nodes import (
    ListNode,
    MapNode,
    Node,
    Path,
    Place,
    ScalarNode,
    dotted,
    find,
    items_of,
    key_place,
    plain,
    text_of,
    written,
)
from avrobust_core.spec.problems import Problem, suggestion
from avrobust_core.threats.budgets import ThreatModel

MAX_RUNS: Final = 200_000
"""Most evaluations of all cells, before they are trimmed."""

_MOST_OF_A_SORT: Final = 200

_PATTERN_NAMES: Final = {"model": "models", "training": "training", "attack": "attacks", "threat": "threats"}
"""Each field of a pattern, and the section whose names it matches."""


def cross_references(root: MapNode) -> list[Problem]:
    """Every mistake between the sections of a spec."""
    checks = (
        _twice(root, ("seed",), "each seed gives cells of its own"),
        _twice(root, ("engine", "devices"), "a device is taken once"),
        _models(root),
        _threats(root),
        _attacks(root),
        _correlations(root),
        _selections(root),
        _comparisons(root),
        iter(_size(root) or _patterns(root)),
    )
    # Nobody reads more; and to look for the names that were meant takes its time.
    return [problem for check in checks for problem in islice(check, _MOST_OF_A_SORT)]


def _twice(root: MapNode, path: tuple[str, ...], hint: str) -> Iterator[Problem]:
    """Numbers that a list has more than once."""
    seen: set[int] = set()
    for item in items_of(find(root, *path)):
        if isinstance(item, ScalarNode) and type(item.value) is int:
            if item.value in seen:
                yield Problem(item.place, f"{dotted(path)}: {item.value} is listed twice", hint)
            seen.add(item.value)


def _models(root: MapNode) -> Iterator[Problem]:
    encoders = _section(root, "encoders")
    for name, model in _section(root, "models").items():
        listed = list(_names(find(model, "encoders")))
        readers: dict[str | None, str] = {}
        for encoder, place in listed:
            if encoder not in encoders and not _malformed(root, "encoders"):
                hint = suggestion(encoder, encoders, "the encoders are")
                yield Problem(place, f"models.{name}.encoders: there is no '{encoder}' in encoders", hint)
            elif (modality := _modality(encoders, encoder)) in readers:
                other = readers[modality]
                also = f"'{other}' reads it already" if other != encoder else "it is listed twice"
                message = f"models.{name}.encoders: '{encoder}' reads the modality '{modality}', and {also}"
                yield Problem(place, message, "a model has one encoder for each modality")
            elif modality is not None:
                readers[modality] = encoder
        if isinstance(model, MapNode) and len(listed) > 1 and written(model, "fusion") is None:
            message = f"models.{name}: {len(listed)} encoders need a fusion"
            yield Problem(key_place(root, ("models", name)), message, "add, for example, `fusion: concat`")


def _threats(root: MapNode) -> Iterator[Problem]:
    encoders = _section(root, "encoders")
    read = dict.fromkeys(_modality(encoders, name) for name in encoders)
    if not read or None in read:
        return  # what is read is not known
    for name, threat in _section(root, "threats").items():
        for modality, place in threat.keys.items() if isinstance(threat, MapNode) else ():
            if modality not in read and modality not in ThreatModel.model_fields:
                hint = suggestion(modality, map(str, read), "the encoders read")
                yield Problem(place, f"threats.{name}: no encoder reads the modality '{modality}'", hint)


def _attacks(root: MapNode) -> Iterator[Problem]:
    threats = _section(root, "threats")
    for name, attack in _section(root, "attacks").items():
        listed = written(attack, "threats")
        if listed is None and not threats and not _malformed(root, "threats"):
            message = f"attacks.{name}: there are no threats to attack under"
            yield Problem(key_place(root, ("attacks", name)), message, "add `threats`, or remove the attack")
        if isinstance(listed, ListNode) and not listed.items:
            yield Problem(listed.place, f"attacks.{name}.threats: an attack needs at least one threat")
        yield from _names_of(root, ("attacks", name, "threats"), "threats", "the threats are")


def _correlations(root: MapNode) -> Iterator[Problem]:
    if _malformed(root, "attacks") or _malformed(root, "threats"):
        return
    runs = dict.fromkeys(f"{plan.attack}/{plan.threat}" for plan in _plans(root))
    label, otherwise = "the attacks under their threats are", "add `attacks` and `threats`"
    yield from _listed(root, ("correlate",), runs, "no attack runs as '{}'", label, otherwise)


def _selections(root: MapNode) -> Iterator[Problem]:
    """Attacks under threats by which epochs are to be selected, and that there are not."""
    if _malformed(root, "attacks") or _malformed(root, "threats"):
        return
    runs = dict.fromkeys(f"{plan.attack}/{plan.threat}" for plan in _plans(root))
    for regime, entry in _section(root, "training").items():
        against = written(entry, "against")
        name = text_of(against)
        if against is not None and name is not None and name not in runs:
            hint = suggestion(name, runs, "the attacks under their threats are") or "add `attacks` and `threats`"
            yield Problem(against.place, f"training.{regime}.against: no attack runs as '{name}'", hint)


def _comparisons(root: MapNode) -> Iterator[Problem]:
    for index, _ in enumerate(items_of(find(root, "compare"))):
        for section, label in (("models", "the models are"), ("training", "the training regimes are")):
            yield from _names_of(root, ("compare", index, section), section, label)


def _names_of(root: MapNode, path: Path, section: str, label: str) -> Iterator[Problem]:
    """Names in a list that a section does not have, or that are listed twice."""
    known = None if _malformed(root, section) else _section(root, section)
    return _listed(root, path, known, f"there is no '{{}}' in {section}", label)


def _listed(
    root: MapNode, path: Path, known: Mapping[str, object] | None, unknown: str, label: str, otherwise: str = ""
) -> Iterator[Problem]:
    """Names in the list at a path that are not known, unless that cannot be told (None), or that are listed twice."""
    seen: set[str] = set()
    for name, place in _names(find(root, *path)):
        if known is not None and name not in known:
            hint = suggestion(name, known, label) or otherwise
            yield Problem(place, f"{dotted(path)}: {unknown.format(name)}", hint)
        elif name in seen:
            yield Problem(place, f"{dotted(path)}: '{name}' is listed twice")
        seen.add(name)


def _size(root: MapNode) -> list[Problem]:
    """A problem if the product of the sections is too large to look through, or to carry out."""
    cells = len(_section(root, "models")) * len(_section(root, "training"))
    threats = list(_section(root, "threats"))
    runs = 1 + sum(len(_threats_of(attack, threats)) for attack in _section(root, "attacks").values())
    several = len(items_of(find(root, "seed"))) or 1
    patterns = 1 + sum(len(items_of(find(root, side))) for side in ("include", "exclude"))
    if cells * runs * several <= MAX_RUNS and cells * runs * patterns <= MAX_RUNS:
        return []
    message = f"too large: {cells} models in training regimes, {runs} evaluations of each, {several} seeds"
    message += f", {patterns - 1} patterns to trim them"
    return [Problem(root.place, message, f"at most {MAX_RUNS}, multiplied: make several studies of it")]


def _patterns(root: MapNode) -> Iterator[Problem]:
    """Patterns that mean nothing, and patterns that leave nothing."""
    models, training = list(_section(root, "models")), list(_section(root, "training"))
    plans = _plans(root)
    patterns: dict[str, list[Pattern]] = {"include": [], "exclude": []}
    complete = bool(models and training) and not (_malformed(root, "attacks") or _malformed(root, "threats"))
    for side, kept in patterns.items():
        for index, node in enumerate(items_of(find(root, side))):
            pattern = _pattern(node)
            unknown = list(_unknown_names(root, node, (side, index)))
            yield from unknown
            if pattern is None or unknown:
                complete = False
                continue
            kept.append(pattern)
            runs: Sequence[AttackPlan | None] = plans if trims_attacks(pattern) else [None]
            if complete and not any(matches(pattern, m, t, run) for m in models for t in training for run in runs):
                complete = False
                message = f"{side}.{index}: the pattern matches nothing"
                yield Problem(node.place, message, "each name exists, but no attack runs under that threat")
    if complete and not trim(models, training, plans, patterns["include"], patterns["exclude"]):
        side = "exclude" if patterns["exclude"] else "include"
        yield Problem(root.keys[side], f"{side}: no cell is left", "trim less")


def _unknown_names(root: MapNode, pattern: Node, path: tuple[str, int]) -> Iterator[Problem]:
    """Fields of a pattern that match no name of their section."""
    for field, section in _PATTERN_NAMES.items():
        wanted, names = find(pattern, field), _section(root, section)
        pattern_text = text_of(wanted)
        if wanted is None or pattern_text is None or _malformed(root, section):
            continue
        if not any(fnmatchcase(name, pattern_text) for name in names):
            message = f"{dotted((*path, field))}: '{pattern_text}' matches no name in {section}"
            yield Problem(wanted.place, message, suggestion(pattern_text, names, section))


def _pattern(node: Node) -> Pattern | None:
    try:
        return Pattern.model_validate(plain(node))
    except ValidationError:
        return None  # the structure's check says what is wrong


def _plans(root: MapNode) -> list[AttackPlan]:
    threats = list(_section(root, "threats"))
    attacks = _section(root, "attacks").items()
    return [AttackPlan(name, threat) for name, attack in attacks for threat in _threats_of(attack, threats)]


def _threats_of(attack: Node, threats: list[str]) -> list[str]:
    """The threats that an attack lists; by default all."""
    listed = find(attack, "threats")
    return [threat for threat, _ in _names(listed)] if isinstance(listed, ListNode) else threats


def _section(root: MapNode, name: str) -> Mapping[str, Node]:
    section = root.children.get(name)
    return section.children if isinstance(section, MapNode) else {}


def _malformed(root: MapNode, name: str) -> bool:
    """True if a section is there but is not a map, so that its names are not known."""
    return name in root.children and not isinstance(root.children[name], MapNode)


def _names(node: Node | None) -> Iterator[tuple[str, Place]]:
    """The text items of a list, with their places."""
    for item in items_of(node):
        if (name := text_of(item)) is not None:
            yield name, item.place


def _modality(encoders: Mapping[str, Node], name: str) -> str | None:
    """The modality that an encoder reads; None if that is not known."""
    if name not in encoders:
        return None
    stated = written(encoders[name], "modality")
    return name if stated is None else text_of(stated)
