"""Settings and results as trackers take them: flat, each under one name."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from avrobust_core import Estimate

Plain = bool | int | float | str
"""A setting's value."""


def flat_settings(settings: Mapping[str, Any], above: str = "") -> dict[str, Plain]:
    """Settings by dotted path: "training.epochs"; lists as JSON, and a missing value as "null"."""
    found: dict[str, Plain] = {}
    for name, value in settings.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{path}.")
        else:
            found[path] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


def with_ends(values: Mapping[str, Estimate]) -> Iterator[tuple[str, float]]:
    """Each value, and the ends of its interval where it has one, as "NAME low" and "NAME high"."""
    for name, estimate in values.items():
        yield name, estimate.value
        for end, value in (("low", estimate.low), ("high", estimate.high)):
            if math.isfinite(value):
                yield f"{name} {end}", value
