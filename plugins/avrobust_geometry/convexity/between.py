"""Segments from clips of one class to those of others: how far the class is kept, and whether a third comes between."""

import numpy as np
import torch

from avrobust_geometry.convexity.lengths import Scale
from avrobust_geometry.convexity.levels import Level
from avrobust_geometry.convexity.pairs import Segments
from avrobust_geometry.convexity.segments import POINTS, Held, look_along, note
from avrobust_geometry.convexity.summary import Summary
from avrobust_geometry.inputs import Ints

OWN, LOST, THIRD = 0, 1, 2
"""What a point is taken for: the first clip's class; the second's, or a tie; any other class."""


def measure_between(
    summary: Summary,
    level: Level,
    segments: Segments,
    others: Ints,
    within: Segments,
    scale: Scale | None,
    *,
    apart: bool,
) -> None:
    """Add "kept", "kept-length" and "third-class" at one level, and for each part by itself.

    Points lie (i + u) / 10 of the way from the first clip to the second, i from 0 to 9, u the segment's own ratio. As u
    is uniform, the share of points that come before the first one that is not of the class is without bias where the
    class is left once.

    Args:
        summary: to add to.
        level: where.
        segments: from clips that the model takes for their class to clips of another class that it takes for that.
        others: (P,) the classes of the second clips.
        within: segments between clips of a class, whose mean length is the unit.
        scale: the units, if they are known already.
        apart: whether to move modalities one at a time, too, the others being those of the first clip.
    """
    cls, far = torch.from_numpy(segments.cls), torch.from_numpy(others)

    def read(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        own, other = (each[rows].to(logits.device).unsqueeze(1) for each in (cls, far))
        both = torch.cat([own, other], dim=1)
        best = logits.gather(1, both)
        rest = logits.scatter(1, both, -torch.inf).amax(dim=1)
        first = (best[:, 0] > best[:, 1]) & (best[:, 0] > rest)
        third = rest > best.amax(dim=1)
        return torch.where(first, OWN, torch.where(third, THIRD, LOST))

    spent = 0
    if scale is None:
        looks = look_along(level, within, read, [], [])
        scale, spent = Scale(within, looks.distances), looks.put_through
    parts = level.parts if apart and len(level.parts) > 1 else ()
    points: list[Held] = [{}, *({other: 1 for other in parts if other != part} for part in parts)]
    ratios = [1 - (i + segments.ratio) / POINTS for i in range(POINTS)]
    looks = look_along(level, segments, read, ratios, points)
    for j, moved in enumerate([(), *((part,) for part in parts)]):
        found = looks.found[:, j]
        lost = found != OWN
        kept = np.where(lost.any(axis=0), lost.argmax(axis=0), POINTS) / POINTS
        summary.add(("kept", level.name, *moved), segments, kept, ends=1)
        summary.add_length(("kept-length", level.name, *moved), segments, kept, looks.distances, scale, moved)
        summary.add(("third-class", level.name, *moved), segments, (found == THIRD).any(axis=0))
    counts = np.bincount(segments.cls, minlength=len(summary.classes))
    note(summary, level, "between", looks, spent=spent)["classes_without_segments"] = [
        summary.classes[c] for c in np.flatnonzero(counts == 0)
    ]
