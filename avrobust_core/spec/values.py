"""Refuse values that no field of a spec can have: not finite, beyond 64 bits, unprintable, or endless."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final

from avrobust_core.spec.nodes import MapNode, Node, Path, ScalarNode, dotted, nodes
from avrobust_core.spec.problems import Problem
from avrobust_core.spec.yaml_reader import MAX_NODES

MAX_TEXT: Final = 4096
"""Most characters of a text or a key."""

_LARGEST: Final = 2**63 - 1


def unusable_values(root: MapNode) -> list[Problem]:
    """Every value that cannot be used wherever it stands; or that there are too many."""
    if sum(1 for _ in islice(nodes(root), MAX_NODES + 1)) > MAX_NODES:
        message = f"more than {MAX_NODES} values, with all that is extended and set"
        return [Problem(root.place, message)]
    return [problem for path, node in nodes(root) for problem in _faults(path, node)]


def _faults(path: Path, node: Node) -> Iterator[Problem]:
    match node:
        case MapNode():
            for key, place in node.keys.items():
                if fault := _text_fault(key):
                    yield Problem(place, f"a key with {fault}" + (f" in {dotted(path)}" if path else ""))
        case ScalarNode(value=int() as number) if abs(number) > _LARGEST:
            yield Problem(node.place, f"{dotted(path)}: a whole number of more than 64 bits")
        case ScalarNode(value=float() as number) if not math.isfinite(number):
            message = f"{dotted(path)}: must be a finite number, found {number}"
            yield Problem(node.place, message, "numbers beyond 1.8e308 are not read either")
        case ScalarNode(value=str() as text) if fault := _text_fault(text):
            yield Problem(node.place, f"{dotted(path)}: text with {fault}")


def _text_fault(text: str) -> str:
    if len(text) > MAX_TEXT:
        return f"more than {MAX_TEXT} characters"
    for character in text:
        if not character.isprintable() and character not in "\t\n" and ord(character) < 0xA0:
            return f"the control character U+{ord(character):04X}"
    return ""
