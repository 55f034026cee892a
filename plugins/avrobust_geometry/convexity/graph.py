"""Graph convexity: whether shortest paths between clips of a class keep to the class.

Source: Tetkova et al. 2025, "On convex decision regions in deep network representations" (arXiv 2305.17154).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from avrobust_geometry.configs import Exact
from avrobust_geometry.convexity.pairs import Identities, Segments, draw_segments
from avrobust_geometry.convexity.summary import Summary, joined
from avrobust_geometry.density.summaries import members_of
from avrobust_geometry.inputs import Array, Floats, Ints, Labels
from avrobust_geometry.knn import nearest

ELEMENTS = 1 << 22
"""Distances of shortest paths held at once: 32 MiB."""


def measure_graph(
    summary: Summary,
    layer: str,
    points: Array,
    labels: Labels,
    identities: Identities,
    *,
    k: int,
    pairs: int,
    exact: Exact,
) -> None:
    """Add "graph" and "graph-permuted" for one layer.

    The score of a pair is the share of the path's inner clips that have the class; 1 where the path has none, because
    the two are neighbours, and 0 where there is no path. `graph-permuted` is the same after all clips' labels were
    permuted once: what the graph and the classes' sizes give without any geometry.

    Args:
        summary: to add to.
        layer: its name.
        points: (N, D) of floats.
        labels: of the clips.
        identities: of the clips.
        k: neighbours, by Euclidean distance; an edge joins two clips if one is among the other's.
        pairs: per class, drawn uniformly from all pairs of its clips.
        exact: whether neighbours are exact.
    """
    clips = len(identities.order)
    if clips < 2:
        return
    found = nearest(points, k, exact=exact, seed=identities.seed)
    starts = np.arange(clips + 1) * found.indices.shape[1]
    # By a power of two, so that no path is too long for float64; which path is the shortest does not change.
    lengths = np.ldexp(found.distances, -np.frexp(found.distances.max())[1])
    edges = csr_matrix((lengths.ravel(), found.indices.ravel(), starts), shape=(clips, clips))
    counts = {}
    for name, given in (("graph", labels), ("graph-permuted", labels[_permutation(identities)])):
        chosen = draw_segments(members_of(given, len(summary.classes)), summary.classes, identities, pairs)
        shares, counts[name] = path_shares(edges, chosen, given)
        summary.add((name, layer), chosen, shares, ends=2 if name == "graph" else 0)
    summary.details[joined(("graph", layer))] = {**counts["graph"], "neighbours": dict(found.report)}


def path_shares(edges: csr_matrix, pairs: Segments, labels: Labels) -> tuple[Floats, dict[str, Any]]:
    """The share of each shortest path's inner clips that have the pair's class, and what kinds of paths there were.

    Args:
        edges: (N, N) lengths of edges, either way; an explicit 0 is an edge between duplicates.
        pairs: of clips.
        labels: of all clips.
    """
    shares = np.ones(len(pairs))
    order = np.argsort(pairs.first, kind="stable")
    sources, begins = np.unique(pairs.first[order], return_index=True)
    ends = np.append(begins[1:], len(order))
    clips = edges.shape[0]
    step = max(1, ELEMENTS // clips)
    direct = unreachable = 0
    for start in range(0, len(sources), step):
        chosen = sources[start : start + step]
        before = dijkstra(edges, directed=False, indices=chosen, return_predecessors=True)[1]
        rows = order[begins[start] : ends[min(start + step, len(sources)) - 1]]
        row = np.searchsorted(chosen, pairs.first[rows])
        inner, own = _walk(before, row, pairs.second[rows], pairs.first[rows], pairs.cls[rows], labels)
        lost = before[row, pairs.second[rows]] < 0
        shares[rows] = np.where(lost, 0.0, np.divide(own, inner, out=np.ones(len(rows)), where=inner > 0))
        direct += int((inner[~lost] == 0).sum())
        unreachable += int(lost.sum())
    return shares, {"paths": len(pairs), "direct": direct, "unreachable": unreachable, "sources": len(sources)}


def _walk(
    before: NDArray[np.int32], row: Ints, target: Ints, source: Ints, cls: Ints, labels: Labels
) -> tuple[Floats, Floats]:
    """The numbers of each path's inner clips and of those with the class: all paths are walked back step by step."""
    inner, own = np.zeros(len(row)), np.zeros(len(row))
    going = np.arange(len(row))
    at = before[row, target].astype(np.int64)
    while True:
        keep = (at >= 0) & (at != source[going])
        going, at = going[keep], at[keep]
        if not len(going):
            return inner, own
        inner[going] += 1
        own[going] += labels[at, cls[going]] if labels.ndim == 2 else labels[at] == cls[going]
        at = before[row[going], at].astype(np.int64)


def _permutation(identities: Identities) -> Ints:
    """For each clip the one whose labels it is given: a permutation that depends on the ids, not on their order."""
    shuffled = identities.generator("permutation").permutation(len(identities.order))
    source: Ints = np.empty_like(identities.order)
    source[identities.order] = identities.order[shuffled]
    return source
