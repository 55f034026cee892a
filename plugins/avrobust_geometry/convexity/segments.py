"""Ways to look at straight segments inside a class: at one drawn point, at ten, and as the reference did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_core import AvrobustError
from avrobust_geometry.convexity.lengths import Scale
from avrobust_geometry.convexity.levels import Level, Values
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

NEARNESS = np.linspace(0, 0.5, 6)
"""Edges of bins of how far from the nearer end points lie, in shares of their segments."""

LENGTHS = np.linspace(0, 2, 9)
"""Edges of bins of segments' lengths, in units; the last bin holds all that are longer, too."""

Held = Mapping[str, int]
"""The parts that are those of a whole clip, the first (1) or the second (0); all others lie between both."""


@dataclass(frozen=True, slots=True)
class Looks:
    """Looks at points of P segments.

    Attributes:
        found: (R, H, P), what was read off the logits.
        distances: by part, (P,) Euclidean, of the two ends.
        put_through: how many clips and points were put through the model.
    """

    found: Floats
    distances: Mapping[str, Floats]
    put_through: int


def look_along(
    level: Level,
    segments: Segments,
    read: Callable[[torch.Tensor, slice], torch.Tensor],
    ratios: Sequence[Floats],
    points: Sequence[Held],
) -> Looks:
    """Look at points of each segment.

    Args:
        level: where.
        segments: P, between clips.
        read: from logits (B, K), and which of the segments they are of, to a number for each, (B,).
        ratios: R times (P,), the first clip's share in the parts that lie between both.
        points: H times the parts that are held.

    Raises:
        AvrobustError: if the model's logits are not finite at a point.
    """
    found = np.empty((len(ratios), len(points), len(segments)))
    distances = {part: np.empty(len(segments)) for part in level.parts}
    passes = found.size
    for start in range(0, len(segments), level.batch):
        rows = slice(start, start + level.batch)
        firsts, seconds, encoded = level.ends(segments.first[rows], segments.second[rows])
        passes += encoded
        for part, apart in _distances(level, firsts, seconds).items():
            distances[part][rows] = apart
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
                found[i, j, rows] = read(logits, rows).double().cpu().numpy()
    return Looks(found, distances, passes)


def margins_of(rule: Rule, segments: Segments) -> Callable[[torch.Tensor, slice], torch.Tensor]:
    """Reads the margins inside the segments' classes off logits."""
    cls = torch.from_numpy(segments.cls)
    return lambda logits, rows: rule.margins(logits, cls[rows].to(logits.device))


def interpolate(
    summary: Summary, level: Level, segments: Segments, rule: Rule, ends: tuple[Floats, Floats], *, apart: bool
) -> Scale:
    """Add `interpolation` at one level: "conditional", "failure-rate", "margin", and by part "swapped", too.

    Args:
        summary: to add to.
        level: where.
        segments: between clips that the model takes for the class.
        rule: when a point is of a class.
        ends: margins of the first and of the second clips, (P,) each.
        apart: whether to move modalities one at a time, too.

    Returns:
        The units of length.
    """
    parts = level.parts if apart and len(level.parts) > 1 else ()
    points: list[Held] = [{}]
    for part in parts:
        for held in (*_ways(parts, part), *_far_ends(parts, part)):
            if held not in points:  # with two parts, the far end of one is that of the other, held at the other clip
                points.append(held)
    looks = look_along(level, segments, margins_of(rule, segments), [segments.ratio], points)
    (found,), scale = looks.found, Scale(segments, looks.distances)

    def add(part: Sequence[str], rows: NDArray[Any], *margins: Floats) -> None:
        """Add what was found at some segments; the last margins are those of the points that are looked at."""
        along, distances = segments.at(rows), {name: each[rows] for name, each in looks.distances.items()}
        inside = rule.holds(margins[-1])
        summary.add(("conditional", level.name, *part), along, inside)
        summary.add_rate(("failure-rate", level.name, *part), along, ~inside, distances, scale, part)
        summary.add(("margin", level.name, *part), along, np.minimum.reduce(margins), share=False)

    every = np.arange(len(segments))
    add((), every, *ends, found[0])
    twice = np.tile(every, 2)
    for part in parts:
        moved, far = (
            np.concatenate([found[points.index(held)] for held in each(parts, part)]) for each in (_ways, _far_ends)
        )
        there = rule.holds(far)
        add((part,), twice[there], np.concatenate(ends)[there], far[there], moved[there])
        summary.add(("swapped", level.name, part), segments.at(twice), there)
    inside, (lengths, _) = rule.holds(found[0]), scale.lengths(looks.distances)
    note(summary, level, "", looks).update(
        {
            "failures_by_nearness": _failures(np.minimum(segments.ratio, 1 - segments.ratio), inside, NEARNESS),
            "failures_by_length": _failures(np.minimum(lengths, LENGTHS[-1]), inside, LENGTHS),
            "units": {part: unit if np.isfinite(unit) else None for part, unit in scale.units.items()},
        }
    )
    return scale


def equidistant(summary: Summary, level: Level, segments: Segments, rule: Rule) -> None:
    """Add `euclidean` at one level: the share of ten equidistant points of a segment that are of the class.

    Args:
        summary: to add to.
        level: where.
        segments: between clips of a class, whatever the model takes them for; their ratios are not used.
        rule: when a point is of a class.
    """
    ratios = [np.full(len(segments), step / (POINTS + 1)) for step in range(1, POINTS + 1)]
    looks = look_along(level, segments, margins_of(rule, segments), ratios, [{}])
    summary.add(("euclidean", level.name), segments, rule.holds(looks.found[:, 0]).mean(axis=0))
    note(summary, level, "euclidean", looks)


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
    looks = look_along(level, segments, margins_of(rule, segments), [segments.ratio], [{}])
    summary.add(("reference", level.name), segments, rule.holds(looks.found[0, 0]))
    note(summary, level, "reference", looks)


def _between(one: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    ratio = share.to(one.dtype).reshape(-1, *[1] * (one.ndim - 1))
    return one * ratio + other * (1 - ratio)


def _ways(parts: Sequence[str], part: str) -> list[Held]:
    """One part between both clips, and the rest that of the first clip; then that of the second."""
    return [{name: end for name in parts if name != part} for end in (1, 0)]


def _far_ends(parts: Sequence[str], part: str) -> list[Held]:
    """The same with the part that of the other clip."""
    return [{name: end if name != part else 1 - end for name in parts} for end in (1, 0)]


def note(summary: Summary, level: Level, method: str, looks: Looks, *, spent: int = 0) -> dict[str, Any]:
    """Note in the details what a method has cost at a level; returns the note.

    Args:
        summary: to add to.
        level: where.
        method: empty for `interpolation`.
        looks: at its segments.
        spent: clips that were put through before.
    """
    told = {"segments": looks.found.shape[-1], "clips_put_through": looks.put_through + spent}
    summary.details[joined((method, level.name)) or "segments"] = told
    return told


def _distances(level: Level, firsts: Values, seconds: Values) -> dict[str, Floats]:
    """By part, (B,) Euclidean distances of all that belongs to it."""
    squares: dict[str, Floats] = {}
    for name, part in level.part_of.items():
        apart = torch.linalg.vector_norm((firsts[name] - seconds[name]).flatten(1), dim=1, dtype=torch.float64)
        squares[part] = squares.get(part, np.zeros(len(apart))) + np.square(apart.cpu().numpy())
    return {part: np.sqrt(square) for part, square in squares.items()}


def _failures(where: Floats, inside: NDArray[np.bool_], edges: Floats) -> dict[str, list[Any]]:
    """The numbers of points by where they lie, and of those among them not of the class."""
    return {
        "edges": edges.round(6).tolist(),
        "looked": np.histogram(where, edges)[0].tolist(),
        "failed": np.histogram(where[~inside], edges)[0].tolist(),
    }
