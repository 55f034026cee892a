"""Directions between two modalities' budgets: the smallest joint budgets along them are a Pareto front."""

import math
from collections.abc import Mapping, Sequence

from avrobust_core.threats.budgets import ThreatModel


def directions(modalities: Sequence[str], points: int) -> tuple[dict[str, float], ...]:
    """Shares of two modalities' radii, at even angles from the first alone to the second alone, the larger of them 1.

    So the search along a direction may go to the edge of the threat.

    Args:
        modalities: two names.
        points: at least 3; the ends among them.
    """
    first, second = modalities
    angles = [math.pi / 2 * i / (points - 1) for i in range(points)]
    pairs = [(math.cos(angle), math.sin(angle)) for angle in angles]
    return tuple({first: round(a / max(a, b), 12), second: round(b / max(a, b), 12)} for a, b in pairs)


def tilted(threat: ThreatModel, shares: Mapping[str, float]) -> ThreatModel:
    """The threat with each modality's radius multiplied by its share; a share of 0 leaves that modality alone."""
    kept = {name: budget.scaled(shares[name]) for name, budget in threat.items() if shares[name] > 0}
    return ThreatModel.of(kept, threat.kind if len(kept) > 1 else "separate")
