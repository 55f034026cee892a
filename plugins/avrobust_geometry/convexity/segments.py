"""The three ways to look at straight segments: at one drawn point, at ten, and as the reference did."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_geometry.convexity.intervals import Pairwise
from avrobust_geometry.convexity.levels import Between, Level, Shares
from avrobust_geometry.convexity.pairs import Floats, Segments
from avrobust_geometry.convexity.rules import AtLeast, Rule
from avrobust_geometry.convexity.summary import Summary

POINTS = 10
"""Interior points of `euclidean`, equidistant: Tetkova et al. 2025."""

REFERENCE_PAIRS = 2000
"""Ordered pairs per class of `reference`."""

REFERENCE_PROBABILITY = 0.1
"""What the class's probability must reach for `reference`."""

NEARNESS = 5
"""Bins, from 0 to 1/2, of how far from the nearer end points lie."""


@dataclass(frozen=True, slots=True)
class Held:
    """Segments along which one part moves, and the rest is that of the clip at one end.

    Attributes:
        crossed: (P,) margin at the far end, where the part alone is of the other clip.
        drawn: (P,) margin at the point that is looked at.
    """

    crossed: Floats
    drawn: Floats


@dataclass(frozen=True, slots=True)
class Looked:
    """The margins found along segments.

    Attributes:
        drawn: (P,) at the point that is looked at, all parts together.
        held: by part, where there are several, with the rest held at the first clip and at the second.
    """

    drawn: Floats
    held: Mapping[str, tuple[Held, Held]]


def look_along(level: Level, segments: Segments, rule: Rule, *, apart: bool = True) -> Looked:
    """The margins at one point of each segment, and with one part moved at a time.

    Args:
        level: where.
        segments: between clips.
        rule: when a point is of a class.
        apart: whether to move parts one at a time, too.
    """
    parts = level.parts if apart and len(level.parts) > 1 else ()
    joint: list[Floats] = []
    held: dict[str, list[list[Floats]]] = {part: [] for part in parts}
    for rows, between in _chunks(level, segments):
        cls = torch.from_numpy(segments.cls[rows]).to(level.device)
        ratio = torch.from_numpy(segments.ratio[rows]).to(level.device)
        crossings: dict[tuple[float, ...], Floats] = {}

        def margins(shares: Shares, between: Between = between, cls: torch.Tensor = cls) -> Floats:
            return rule.margins(between(shares), cls).double().cpu().numpy()

        joint.append(margins(dict.fromkeys(level.parts, ratio)))
        for part in parts:
            columns: list[Floats] = []
            for end in (1.0, 0.0):  # of which the first clip has this share
                rest: dict[str, torch.Tensor | float] = dict.fromkeys(level.parts, end)
                # With two parts, the far end for one is that for the other, held at the other clip.
                corner = tuple(1 - end if name == part else end for name in level.parts)
                if corner not in crossings:
                    crossings[corner] = margins(rest | {part: 1 - end})
                columns += [crossings[corner], margins(rest | {part: ratio})]
            held[part].append(columns)
    merged = {part: [_joined(column[i] for column in each) for i in range(4)] for part, each in held.items()}
    return Looked(_joined(joint), {part: (Held(*columns[:2]), Held(*columns[2:])) for part, columns in merged.items()})


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
    before = level.passed
    looked = look_along(level, segments, rule, apart=apart)
    inside = rule.holds(looked.drawn)
    everyone = np.arange(len(segments))
    summary.add(("conditional", level.name), _pairwise(segments, everyone, inside))
    lowest = np.minimum(np.minimum(*ends), looked.drawn)
    summary.add(("margin", level.name), _pairwise(segments, everyone, lowest), share=False)
    for part, both in looked.held.items():
        there = np.concatenate([rule.holds(side.crossed) for side in both])
        rows = np.tile(everyone, 2)[there]
        drawn = np.concatenate([side.drawn for side in both])[there]
        crossed = np.concatenate([side.crossed for side in both])[there]
        lows = np.minimum(np.minimum(np.concatenate(ends)[there], crossed), drawn)
        summary.add(("conditional", level.name, part), _pairwise(segments, rows, rule.holds(drawn)))
        summary.add(("margin", level.name, part), _pairwise(segments, rows, lows), share=False)
        summary.add(("swapped", level.name, part), _pairwise(segments, np.tile(everyone, 2), there))
    _note(summary, level, "", segments, before)
    summary.details[level.name or "segments"]["failures_by_nearness"] = _by_nearness(segments.ratio, inside)


def equidistant(summary: Summary, level: Level, segments: Segments, rule: Rule) -> None:
    """Add `euclidean` at one level: the share of ten equidistant points of a segment that are of the class.

    Args:
        summary: to add to.
        level: where.
        segments: between clips of a class, whatever the model takes them for; their ratios are not used.
        rule: when a point is of a class.
    """
    before = level.passed
    shares: list[Floats] = []
    for rows, between in _chunks(level, segments):
        cls = torch.from_numpy(segments.cls[rows]).to(level.device)
        found = []
        for step in range(1, POINTS + 1):
            ratio = torch.full((len(cls),), step / (POINTS + 1), dtype=torch.float64, device=level.device)
            margins = rule.margins(between(dict.fromkeys(level.parts, ratio)), cls).double().cpu().numpy()
            found.append(rule.holds(margins))
        shares.append(np.mean(found, axis=0))
    whole = _joined(shares)
    summary.add(("euclidean", level.name), _pairwise(segments, np.arange(len(segments)), whole))
    _note(summary, level, "euclidean", segments, before)


def reference_score(summary: Summary, level: Level, segments: Segments, *, softmax: bool) -> None:
    """Add `reference` at one level: the share of drawn points at which the class's probability is at least 0.1.

    Args:
        summary: to add to.
        level: where.
        segments: truncated ordered pairs of clips of a class, whatever the model takes them for.
        softmax: whether probabilities are the softmax's (single-label), or each class's own sigmoid.
    """
    before = level.passed
    odds = np.log(REFERENCE_PROBABILITY / (1 - REFERENCE_PROBABILITY))
    rule = AtLeast(np.full(len(summary.classes), odds), softmax=softmax)
    inside = rule.holds(look_along(level, segments, rule, apart=False).drawn)
    summary.add(("reference", level.name), _pairwise(segments, np.arange(len(segments)), inside))
    _note(summary, level, "reference", segments, before)


def _note(summary: Summary, level: Level, method: str, segments: Segments, before: int) -> None:
    summary.details["/".join(filter(None, (method, level.name))) or "segments"] = {
        "segments": len(segments),
        "clips_put_through": level.passed - before,
    }


def _chunks(level: Level, segments: Segments) -> Iterator[tuple[slice, Between]]:
    for start in range(0, len(segments), level.batch):
        rows = slice(start, start + level.batch)
        yield rows, level.between(segments.first[rows], segments.second[rows])


def _joined(chunks: Iterable[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *chunks])


def _pairwise(segments: Segments, rows: NDArray[np.int64], values: NDArray[Any]) -> Pairwise:
    return Pairwise(
        segments.first[rows], segments.second[rows], segments.cls[rows], np.asarray(values, dtype=np.float64)
    )


def _by_nearness(ratio: Floats, inside: NDArray[np.bool_]) -> dict[str, list[Any]]:
    """How many points lie how far from their nearer end, and how many of them are not of the class."""
    near = np.minimum(ratio, 1 - ratio)
    edges = np.linspace(0, 0.5, NEARNESS + 1)
    return {
        "edges": edges.round(6).tolist(),
        "looked": np.histogram(near, edges)[0].tolist(),
        "failed": np.histogram(near[~inside], edges)[0].tolist(),
    }
