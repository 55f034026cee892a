"""The three ways to look at straight segments: at one drawn point, at ten, and as the reference did."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_core import AvrobustError
from avrobust_geometry.convexity.levels import Level
from avrobust_geometry.convexity.pairs import Segments
from avrobust_geometry.convexity.rules import AtLeast, Rule
from avrobust_geometry.convexity.summary import Summary, joined
from avrobust_geometry.inputs import Floats

POINTS = 10
"""Interior points of `euclidean`, equidistant: Tetkova et al. 2025."""

REFERENCE_PAIRS = 2000
"""Ordered pairs per class of `reference`."""

REFERENCE_PROBABILITY = 0.1
"""The probability that the class must reach for `reference`."""

NEARNESS = 5
"""Bins, from 0 to 1/2, of how far from the nearer end points lie."""

Held = Mapping[str, int]
"""The parts that are those of a whole clip, the first (1) or the second (0); all others lie between both."""


def margins_along(
    level: Level, segments: Segments, rule: Rule, ratios: Sequence[Floats], points: Sequence[Held]
) -> Floats:
    """The margins at points of each segment, (R, H, P).

    Args:
        level: where.
        segments: P, between clips.
        rule: when a point is of a class.
        ratios: R times (P,), the first clip's share in the parts that lie between both.
        points: H times the parts that are held.

    Raises:
        AvrobustError: if the model's logits are not finite at a point.
    """
    found = np.empty((len(ratios), len(points), len(segments)))
    for start in range(0, len(segments), level.batch):
        rows = slice(start, start + level.batch)
        firsts, seconds = level.ends(segments.first[rows], segments.second[rows])
        cls = torch.from_numpy(segments.cls[rows]).to(level.device)
        for i, ratio in enumerate(ratios):
            share = torch.from_numpy(ratio[rows]).to(level.device)
            mixed = {name: _between(one, seconds[name], share) for name, one in firsts.items()}
            for j, held in enumerate(points):
                values = {1: firsts, 0: seconds, None: mixed}
                logits = level.classify({name: values[held.get(part)][name] for name, part in level.part_of.items()})
                if not torch.isfinite(logits).all():
                    raise AvrobustError(
                        f"metric 'convexity': logits are not finite at points between clips (level {level.name!r}); "
                        "look at the model's training (did its loss become NaN?)"
                    )
                found[i, j, rows] = rule.margins(logits, cls).double().cpu().numpy()
    return found


def interpolate(
    summary: Summary, level: Level, segments: Segments, rule: Rule, ends: tuple[Floats, Floats], *, apart: bool
) -> None:
    """Add `interpolation` at one level: "conditional", "margin", and for each part by itself "swapped", too.

    Args:
        summary: to add to.
        level: where.
        segments: between clips that the model takes for the class.
        rule: when a point is of a class.
        ends: margins of the first and of the second clips, (P,) each.
        apart: whether to move modalities one at a time, too.
    """
    parts = level.parts if apart and len(level.parts) > 1 else ()
    points: list[Held] = [{}]
    for part in parts:
        for held in (*_ways(parts, part), *_far_ends(parts, part)):
            if held not in points:  # with two parts, the far end of one is that of the other, held at the other clip
                points.append(held)
    (found,) = margins_along(level, segments, rule, [segments.ratio], points)

    def add(part: Sequence[str], along: Segments, *margins: Floats) -> None:
        """The last margins are those of the points that are looked at."""
        summary.add(("conditional", level.name, *part), along, rule.holds(margins[-1]))
        summary.add(("margin", level.name, *part), along, np.minimum.reduce(margins), share=False)

    add((), segments, *ends, found[0])
    both = segments.at(np.tile(np.arange(len(segments)), 2))
    for part in parts:
        moved, far = (
            np.concatenate([found[points.index(held)] for held in each(parts, part)]) for each in (_ways, _far_ends)
        )
        there = rule.holds(far)
        add((part,), both.at(there), np.concatenate(ends)[there], far[there], moved[there])
        summary.add(("swapped", level.name, part), both, there)
    _note(summary, level, "", found)
    nearness = _by_nearness(segments.ratio, rule.holds(found[0]))
    summary.details[level.name or "segments"]["failures_by_nearness"] = nearness


def equidistant(summary: Summary, level: Level, segments: Segments, rule: Rule) -> None:
    """Add `euclidean` at one level: the share of ten equidistant points of a segment that are of the class.

    Args:
        summary: to add to.
        level: where.
        segments: between clips of a class, whatever the model takes them for; their ratios are not used.
        rule: when a point is of a class.
    """
    ratios = [np.full(len(segments), step / (POINTS + 1)) for step in range(1, POINTS + 1)]
    found = margins_along(level, segments, rule, ratios, [{}])
    summary.add(("euclidean", level.name), segments, rule.holds(found[:, 0]).mean(axis=0))
    _note(summary, level, "euclidean", found)


def reference_score(summary: Summary, level: Level, segments: Segments, *, softmax: bool) -> None:
    """Add `reference` at one level: the share of drawn points at which the class's probability is at least 0.1.

    Args:
        summary: to add to.
        level: where.
        segments: truncated ordered pairs of clips of a class, whatever the model takes them for.
        softmax: whether probabilities are the softmax's (single-label), or each class's own sigmoid.
    """
    odds = np.log(REFERENCE_PROBABILITY / (1 - REFERENCE_PROBABILITY))
    rule = AtLeast(np.full(len(summary.classes), odds), softmax=softmax)
    found = margins_along(level, segments, rule, [segments.ratio], [{}])
    summary.add(("reference", level.name), segments, rule.holds(found[0, 0]))
    _note(summary, level, "reference", found)


def _between(one: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    ratio = share.to(one.dtype).reshape(-1, *[1] * (one.ndim - 1))
    return one * ratio + other * (1 - ratio)


def _ways(parts: Sequence[str], part: str) -> list[Held]:
    """One part between both clips, and the rest that of the first clip; then that of the second."""
    return [{name: end for name in parts if name != part} for end in (1, 0)]


def _far_ends(parts: Sequence[str], part: str) -> list[Held]:
    """The same with the part that of the other clip."""
    return [{name: end if name != part else 1 - end for name in parts} for end in (1, 0)]


def _note(summary: Summary, level: Level, method: str, margins: Floats) -> None:
    summary.details[joined((method, level.name)) or "segments"] = {
        "segments": margins.shape[-1],
        "clips_put_through": margins.size,
    }


def _by_nearness(ratio: Floats, inside: NDArray[np.bool_]) -> dict[str, list[Any]]:
    """The numbers of points by their distance from the nearer end, and of those among them not of the class."""
    near = np.minimum(ratio, 1 - ratio)
    edges = np.linspace(0, 0.5, NEARNESS + 1)
    return {
        "edges": edges.round(6).tolist(),
        "looked": np.histogram(near, edges)[0].tolist(),
        "failed": np.histogram(near[~inside], edges)[0].tolist(),
    }
