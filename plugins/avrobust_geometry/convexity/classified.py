"""Clips and the classes that a model takes them for, and all methods carried out on them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_geometry.convexity.between import measure_between
from avrobust_geometry.convexity.lengths import Scale
from avrobust_geometry.convexity.levels import Level
from avrobust_geometry.convexity.pairs import Identities, draw_between, draw_segments
from avrobust_geometry.convexity.rules import Highest, Rule
from avrobust_geometry.convexity.segments import REFERENCE_PAIRS, equidistant, interpolate, reference_score
from avrobust_geometry.convexity.summary import Summary
from avrobust_geometry.inputs import Floats, Ints

METHODS = ("interpolation", "between", "reference", "euclidean")
"""The ways to look at straight segments."""

NO_BETWEEN = (
    "between looks where one class ends and another begins, and clips with several labels are of no single class"
)
"""Why `between` is not for several labels per clip."""


@dataclass(frozen=True)
class Classified:
    """Clips, their classes, and what the model says of them.

    Attributes:
        identities: of the clips.
        logits: (N, K), finite.
        members: for each class, its clips.
        rule: when a point is of a class.
    """

    identities: Identities
    logits: NDArray[np.floating]
    members: Sequence[Ints]
    rule: Rule

    @cached_property
    def inside(self) -> list[Ints]:
        """For each class, those of its clips that the model takes for it."""
        return [
            clips[self.rule.holds(self.margins(clips, np.full(len(clips), c)))] for c, clips in enumerate(self.members)
        ]

    def margins(self, clips: Ints, classes: Ints) -> Floats:
        """The clips' margins inside these classes, (P,)."""
        if not len(clips):
            return np.zeros(0)
        rows = torch.from_numpy(np.ascontiguousarray(self.logits[clips]))
        return self.rule.margins(rows, torch.from_numpy(classes)).double().numpy()


def measure_segments(
    summary: Summary,
    levels: Sequence[Level],
    methods: Collection[str],
    clips: Classified,
    *,
    pairs: int,
    euclidean_pairs: int,
    apart: bool = True,
) -> None:
    """Add what the methods find at the levels. The same segments, and the same points on them, serve all levels.

    Args:
        summary: to add to.
        levels: where.
        methods: some of `METHODS`; `between` with one label per clip only.
        clips: between which points lie.
        pairs: segments per class of `interpolation` and of `between`.
        euclidean_pairs: segments per class of `euclidean`.
        apart: whether to move modalities one at a time, too.
    """
    names, who = summary.classes, clips.identities
    scales: dict[str, Scale] = {}
    within = draw_segments(clips.inside, names, who, pairs)
    if "interpolation" in methods:
        ends = clips.margins(within.first, within.cls), clips.margins(within.second, within.cls)
        for level in levels:
            scales[level.name] = interpolate(summary, level, within, clips.rule, ends, apart=apart)
        if levels:
            counts = np.bincount(within.cls, minlength=len(names))
            summary.details["classes_without_segments"] = [names[c] for c in np.flatnonzero(counts == 0)]
    if "between" in methods:
        between = draw_between(clips.inside, names, who, pairs)
        classes = np.zeros(len(clips.logits), dtype=np.int64)
        for c, members in enumerate(clips.inside):
            classes[members] = c
        for level in levels:
            known = scales.get(level.name)
            measure_between(summary, level, between, classes[between.second], within, known, apart=apart)
    if "euclidean" in methods:
        everyone = draw_segments(clips.members, names, who, euclidean_pairs)
        for level in levels:
            equidistant(summary, level, everyone, clips.rule)
    if "reference" in methods:
        truncated = draw_segments(clips.members, names, who, REFERENCE_PAIRS, truncated=True)
        for level in levels:
            reference_score(summary, level, truncated, softmax=isinstance(clips.rule, Highest))
