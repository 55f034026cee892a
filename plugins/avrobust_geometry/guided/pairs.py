"""Pairs of an epoch's clips that are mixed: every clip once, or anchors drawn by their weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from avrobust_geometry.guided.guide import Guide

Pairs = NDArray[np.int64]
"""(n // 2, 2) positions: a clip and its partner."""


def match(
    clips: Sequence[str], guide: Guide | None, local: float, generator: np.random.Generator
) -> tuple[Pairs, list[int]]:
    """Every clip in one pair, in random order; and the clip that is left where their number is odd.

    Clips choose in random order among their neighbours that are still free, by the chances that the guide gives them;
    those that find none, or are not to look (`local`), take any free clip.

    Args:
        clips: their ids.
        guide: who lies near whom; None for nobody.
        local: share of the clips that look among their neighbours.
        generator: of the order and the draws.
    """
    near = Neighbours(clips, guide)
    free = np.ones(len(clips), dtype=bool)
    pool = list(generator.permutation(len(clips)))
    pairs = []
    for clip in generator.permutation(len(clips)):
        if not free[clip]:
            continue
        free[clip] = False
        partner = near.draw(int(clip), free, generator) if generator.random() < local else -1
        while partner < 0 and pool:
            last = int(pool.pop())
            partner = last if free[last] else -1
        if partner < 0:
            free[clip] = True
            break
        free[partner] = False
        pairs.append((int(clip), partner))
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[generator.permutation(len(found))], np.flatnonzero(free).tolist()


def draw_weighted(
    clips: Sequence[str],
    guide: Guide | None,
    weights: Mapping[str, float],
    local: float,
    generator: np.random.Generator,
) -> Pairs:
    """Anchors drawn by their weights, and their partners, in random order; a clip may come several times, or never.

    Args:
        clips: their ids.
        guide: who lies near whom; None for nobody.
        weights: by id, > 0; 1 where nothing is known.
        local: share of the anchors whose partner is a neighbour; the others' come from anywhere.
        generator: of the order and the draws.
    """
    half = len(clips) // 2
    near = Neighbours(clips, guide)
    anchors = systematic(np.array([weights.get(clip_id, 1.0) for clip_id in clips]), half, generator)
    unused = list(generator.permutation(np.setdiff1d(np.arange(len(clips)), anchors)))
    pairs = np.empty((half, 2), dtype=np.int64)
    for i, anchor in enumerate(anchors.tolist()):
        partner = near.draw(anchor, None, generator) if generator.random() < local else -1
        if partner < 0:
            # Clips that are not anchors come first: without a guide every clip comes once.
            partner = unused.pop() if unused else (anchor + 1 + generator.integers(len(clips) - 1)) % len(clips)
        pairs[i] = anchor, partner
    return pairs[generator.permutation(half)]


class Neighbours:
    """The guide's neighbours, as positions among the clips of an epoch.

    Args:
        clips: their ids.
        guide: None for no neighbours.
    """

    def __init__(self, clips: Sequence[str], guide: Guide | None) -> None:
        self._guide = guide
        place = {clip_id: i for i, clip_id in enumerate(clips)}
        self._place = np.array([place.get(clip_id, -1) for clip_id in guide.ids] if guide is not None else [])
        self._row = {int(at): row for row, at in enumerate(self._place) if at >= 0}

    def draw(self, clip: int, free: NDArray[np.bool_] | None, generator: np.random.Generator) -> int:
        """The position of a neighbour of the clip at a position, one of the free ones; -1 if there is none."""
        if self._guide is None or clip not in self._row:
            return -1
        row = self._row[clip]
        rows = self._guide.partners[row]
        places = np.where(rows >= 0, self._place[np.maximum(rows, 0)], -1)
        usable = (places >= 0) & (places != clip)
        if free is not None:
            usable &= free[np.maximum(places, 0)]
        chances = np.where(usable, self._guide.chances[row], 0)
        edges = chances.cumsum()
        if edges[-1] <= 0:
            return -1
        # What `generator.choice` does, without its checks, which take longer than all else.
        return int(places[np.searchsorted(edges / edges[-1], generator.random(), side="right")])


def systematic(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions drawn in proportion to their weights, each its expected number of times, rounded up or down.

    Madow 1949, "On the theory of systematic sampling", over a random order.

    Args:
        weights: (n,) > 0.
        count: of positions.
        generator: of the random order and offset.
    """
    order = generator.permutation(len(weights))
    edges = np.cumsum(weights[order])
    ticks = (np.arange(count) + generator.random()) * edges[-1] / max(count, 1)
    return np.asarray(order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(weights) - 1)])
