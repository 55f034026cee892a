"""`convexity` and `graph_convexity`: of arrays, without a study."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_core import Measurement
from avrobust_geometry.configs import Exact
from avrobust_geometry.convexity.classified import METHODS, NO_BETWEEN, Classified, measure_segments
from avrobust_geometry.convexity.graph import measure_graph
from avrobust_geometry.convexity.levels import Level, array_level
from avrobust_geometry.convexity.pairs import Identities
from avrobust_geometry.convexity.rules import AtLeast, Highest, Rule, best_thresholds
from avrobust_geometry.convexity.summary import Summary
from avrobust_geometry.density.summaries import members_of
from avrobust_geometry.inputs import as_array, averaged, check_exact, check_length, with_classes

FLOATS = ("float16", "float32", "float64")
"""The types that embeddings may have, in either order of bytes."""


def convexity(
    embeddings: NDArray[Any] | Tensor,
    labels: ArrayLike | Tensor,
    classify: Callable[[Any], Any],
    *,
    methods: Collection[str] = ("interpolation",),
    pairs: int = 1000,
    euclidean_pairs: int = 5000,
    ids: Sequence[str] | None = None,
    logits: ArrayLike | Tensor | None = None,
    thresholds: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
) -> Measurement:
    """The share of points between two clips of a class that are taken for that class, too.

    The values are those of the metric `convexity` without a level: "recall"; "conditional", "conditional-micro",
    "failure-rate" and "margin" by `interpolation`; "kept" and "third-class", each with "-micro", and "kept-length" by
    `between`; "euclidean" and "reference", each with "-micro". See `avrobust_geometry.convexity.metric.Convexity` for
    what they are.

    Args:
        embeddings: (N, ...) of floats; points between their rows are classified.
        labels: (N,) integers, columns of the logits, or (N, K) bool or 0/1 for several per clip, or none.
        classify: from rows (B, ...), an array or a tensor as `embeddings` are, to logits (B, K), an array or a tensor.
        methods: some of "interpolation", "between", "euclidean", "reference".
        pairs: segments per class of `interpolation` and of `between`; a class with fewer pairs gives all of them.
        euclidean_pairs: the same of `euclidean`.
        ids: N names, on which what is drawn depends; by default the rows' numbers.
        logits: (N, K), of the embeddings themselves; by default what `classify` gives.
        thresholds: (K,) logits at which a point is of a class, for several labels per clip; by default those with the
            best F1 for these very clips.
        classes: K names; by default the columns' numbers.
        confidence: of the intervals.
        resamples: of the bootstrap of the recall.
        seed: of all that is drawn.
        batch_size: rows per call of `classify`; by default as many as 16 MiB hold.

    Returns:
        values, per_class, per_clip and details.

    Raises:
        ValueError: if shapes do not fit, labels are no columns, an id occurs twice, a method is unknown or is `between`
            with several labels per clip, an amount is below one, or logits are not finite.
        AvrobustError: if logits are not finite between clips.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods: there is no {', '.join(unknown)}; there are: {', '.join(METHODS)}")
    if min(pairs, euclidean_pairs, 1 if batch_size is None else batch_size) < 1:
        raise ValueError("pairs, euclidean_pairs and batch_size must be at least 1")
    points = embeddings.detach() if isinstance(embeddings, Tensor) else np.asarray(embeddings)
    floats = points.is_floating_point() if isinstance(points, Tensor) else points.dtype.name in FLOATS
    if points.ndim < 2 or not len(points) or not floats:
        raise ValueError(f"embeddings are {points.dtype} of shape {tuple(points.shape)}: give floats (N, ...)")
    level = array_level(points, classify)
    level = level if batch_size is None else replace(level, batch=batch_size)
    scores = _own_logits(level, len(points)) if logits is None else as_array(logits)
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    if scores.ndim != 2 or len(scores) != len(points):
        raise ValueError(f"logits have shape {scores.shape}: give ({len(points)}, K)")
    if not np.isfinite(scores).all():
        broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ValueError(f"logits are not finite for clip {broken[0]}, and for {len(broken)} in all")
    own, names = _labels(as_array(labels), len(points), classes, scores.shape[1])
    summary = Summary(len(points), names, confidence)
    rule: Rule = Highest()
    if own.ndim == 2:
        if "between" in methods:
            raise ValueError(f"methods: {NO_BETWEEN}")
        given = best_thresholds(scores, own) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
        if given.shape != (len(names),):
            raise ValueError(f"thresholds have shape {given.shape}: give ({len(names)},)")
        rule = AtLeast(given)
    members = members_of(own, len(names))
    clips = Classified(_identities(ids, len(points), seed), scores, members, rule)
    summary.add_recall(members, clips.inside, resamples=resamples, seed=seed)
    measure_segments(summary, [level], methods, clips, pairs=pairs, euclidean_pairs=euclidean_pairs)
    return summary.measurement()


def graph_convexity(
    embeddings: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    k: int = 10,
    pairs: int = 5000,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    exact: Exact = "auto",
    confidence: float = 0.95,
    seed: int = 0,
) -> Measurement:
    """The share of shortest paths between clips of a class, in the graph of nearest neighbours, that is of the class.

    Values: "graph" (mean over classes), "graph-micro" (over paths), and both for permuted labels, "graph-permuted".
    Source: Tetkova et al. 2025 (arXiv 2305.17154). Theirs is the mean over paths; and clips at distance 0 of each other
    are neighbours here.

    Args:
        embeddings: (N, D) numbers, or (N, L, D), which are averaged over L.
        labels: (N,) integers or strings, or (N, K) bool or 0/1 for several per clip, or none.
        k: neighbours; clipped to N - 1.
        pairs: paths per class; a class with fewer pairs of clips gives all of them.
        ids: N names, on which what is drawn depends; by default the rows' numbers.
        classes: K names; integer labels are then places among them. By default the labels that occur.
        exact: exact neighbours (True), pynndescent's (False), or whichever is faster ("auto").
        confidence: of the intervals.
        seed: of all that is drawn.

    Returns:
        values, per_class, per_clip and details.

    Raises:
        ValueError: if shapes do not fit, labels are not among the classes, an id occurs twice, an embedding is not
            finite, or k or pairs are below one.
    """
    if min(k, pairs) < 1:
        raise ValueError(f"k is {k} and pairs is {pairs}: both must be at least 1")
    check_exact(exact)
    points = averaged(embeddings, "embeddings")
    own, names = _labels(as_array(labels), len(points), classes, None)
    summary = Summary(len(points), names, confidence)
    measure_graph(summary, "", points, own, _identities(ids, len(points), seed), k=k, pairs=pairs, exact=exact)
    return summary.measurement()


def _own_logits(level: Level, clips: int) -> NDArray[np.float64]:
    """Those of the clips themselves, (N, K)."""
    starts = range(0, clips, level.batch)
    parts = [level.classify(level.fetch(np.arange(start, min(start + level.batch, clips)))) for start in starts]
    return torch.cat(parts).double().cpu().numpy()


def _identities(ids: Sequence[str] | None, clips: int, seed: int) -> Identities:
    names = [str(i) for i in range(clips)] if ids is None else list(ids)
    check_length("ids", names, clips)
    if len(set(names)) < clips:
        raise ValueError("an id occurs twice: give each clip an id of its own")
    return Identities(names, seed)


def _labels(
    labels: NDArray[Any], clips: int, classes: Sequence[str] | None, columns: int | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels as (N,) places among the classes or (N, K) bool, and the classes' names.

    Args:
        labels: as given.
        clips: N.
        classes: names as given.
        columns: of the logits, whose places integer labels are; None without logits.
    """
    if labels.ndim not in (1, 2) or len(labels) != clips:
        raise ValueError(f"labels have shape {labels.shape}: give ({clips},), or ({clips}, K) for several per clip")
    width = labels.shape[1] if columns is None and labels.ndim == 2 else columns
    names = classes if classes is not None or width is None else tuple(map(str, range(width)))
    if names is not None and any(n not in (None, len(names)) for n in (width, *labels.shape[1:])):
        raise ValueError(
            f"labels of shape {labels.shape}, {len(names)} classes and {width} columns do not fit together"
        )
    [found], known = with_classes([labels], names)
    return found, known
