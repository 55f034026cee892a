"""The places of a spec at which a component is named, as patterns of paths."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from avrobust_core.spec.nodes import Key, Path

Step: TypeAlias = str
"""A key, `*` for any key of a map, `#` for any index of a list."""

PLACES: Mapping[tuple[Step, ...], str] = MappingProxyType(
    {
        ("data",): "dataset",
        ("encoders", "*"): "encoder",
        ("models", "*", "fusion"): "fusion",
        ("training", "*", "augment", "#"): "augmentation",
        ("attacks", "*"): "attack",
        ("metrics", "#"): "metric",
    }
)
"""Each place, and the kind of component that it takes."""


def kind_at(path: Path) -> str | None:
    """The kind of component that is named at this path; None if it is not such a place."""
    for pattern, kind in PLACES.items():
        if len(pattern) == len(path) and all(map(_fits, pattern, path)):
            return kind
    return None


def _fits(step: Step, key: Key) -> bool:
    if step == "#":
        return isinstance(key, int)
    return isinstance(key, str) and step in ("*", key)
