"""`density`: the density of embeddings and labels that are arrays, without a model or a study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avrobust_core import Measurement
from avrobust_geometry.configs import DensityConfig, Exact
from avrobust_geometry.density.choices import Choices
from avrobust_geometry.density.space import ESTIMATORS, Space, check_estimators
from avrobust_geometry.inputs import Ints, as_array, averaged, check_exact, check_length, own_rows, with_classes


def density(
    embeddings: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    reference: ArrayLike | Tensor | None = None,
    reference_labels: ArrayLike | Tensor | None = None,
    ids: Sequence[str] | None = None,
    reference_ids: Sequence[str] | None = None,
    logits: ArrayLike | Tensor | None = None,
    k: int = 10,
    estimators: Sequence[str] | None = None,
    exact: Exact = "auto",
    most: int | None = None,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Measurement:
    """The density of clips among those of a reference, and how much denser those of their own classes lie.

    r_k is the Euclidean distance to the k-th nearest reference clip, the clip itself left out; m is one intrinsic
    dimension, of the reference. There is one number per clip, the median per class, and the mean over clips with an
    interval by bootstrap over the clips that are measured; the reference stays fixed.

    `class-ratio` gives "class-ratio", m log(r_k other / r_k same) + log(n_other / n_same) in nats, with the distances
    to the k-th neighbours outside a clip's class and in it, and "class-ratio-plain", the first logarithm alone. With
    several labels it is averaged over the clip's classes; per class it is the median of that class's own values.

    `log-knn` gives "log-knn", the log-density after Kozachenko and Leonenko in nats, and "entropy", minus its mean.
    Levels may only be compared within one space. Its noise has a standard deviation of about 1 / sqrt(k): where true
    log-densities differ by little more (Gaussians of two dimensions, say), ranks want k = 50.

    `lof` is the local outlier factor: 1 inside, more outside. `lid` is the local intrinsic dimensionality.

    `coverage-density` gives "density", in how many of the balls that reach from reference clips to their own k-th
    neighbours a clip lies, over k; and "coverage", the share of those balls with a clip in them, not per clip.

    `trust` is the distance to the nearest clip that is not of the predicted class over that to the nearest that is.

    Duplicates are not hidden. A clip with k of them (r_k = 0) has an infinite log-knn; one with k in its own class an
    infinite class-ratio; lid is 0 with one and undefined with k; lof is undefined with k whose own neighbours are
    duplicates, too. Infinite values are left out of means, but not of medians (an infinite median is given as NaN), and
    the details count them. Where a class, or all others together, hold fewer than k reference clips beside the clip
    itself, k is clipped to that on both sides of the ratio; where they hold none, the clip has no class-ratio. The
    details name those classes.

    One clip far from all others may have a lof or a lid so large that it alone makes the mean: `dominated` in the
    details names that clip, by its row, and its share of the sum. Medians and other clips' values are not touched.

    Args:
        embeddings: (N, D) numbers, perhaps memory-mapped, or (N, L, D), which are averaged over L.
        labels: (N,) integers or strings, or (N, K) bool or 0/1 for several per clip, or none.
        reference: (M, D) or (M, L, D), M at least 2; by default the embeddings themselves, each its own row.
        reference_labels: as `labels`.
        ids: N names. A clip is not a neighbour of the reference clip that has its id.
        reference_ids: M names, each once.
        logits: (N, K), whose highest is the predicted class, for `trust`; integer labels are then its columns.
        k: neighbours; clipped to M - 1.
        estimators: those of the table's first column; by default all.
        exact: exact neighbours (True), pynndescent's (False), or whichever is faster ("auto"); among a reference's own
            clips only, for all else is always exact.
        most: distances, N times M, up to which all are computed for class-ratio, trust and coverage-density; beyond it
            the first two look at a subsample of the reference, and the last is left out. `exact=True` lifts it.
        classes: K names; integer labels are then places among them. By default the labels that occur.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of all subsamples.
        device: where distances are computed.

    Returns:
        values, per_class and per_clip under the names above. The details have `k`, `m` (None where it cannot be told),
        `duplicates`, `not_finite`, the classes that were clipped or left out, and how neighbours were found.

    Raises:
        ValueError: if shapes do not fit, labels are not among the classes, an id occurs twice, a number is not finite,
            there are fewer than two reference clips, or an estimator is unknown.
    """
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least one neighbour")
    check_exact(exact)
    points = averaged(embeddings, "embeddings")
    among = None if reference is None else averaged(reference, "reference")
    if len(points if among is None else among) < 2:
        raise ValueError("the reference has fewer than two clips: there are no neighbours to measure")
    if (reference is None) != (reference_labels is None):
        raise ValueError("reference and reference_labels go together: give both, or none")
    scores = None if logits is None else as_array(logits)
    targets, known, names = _classes_of(
        as_array(labels),
        None if reference_labels is None else as_array(reference_labels),
        classes if classes is not None or scores is None else [str(c) for c in range(scores.shape[-1])],
    )
    check_length("labels", targets, len(points))
    if known is not None and among is not None:
        check_length("reference_labels", known, len(among))
    space = Space(
        points,
        targets,
        reference=among,
        reference_labels=known,
        own=_own_rows(ids, reference_ids, len(points), None if among is None else len(among)),
        predicted=None if scores is None else _predicted_classes(scores, len(points), len(names)),
        classes=names,
        choices=Choices(
            k=k,
            estimators=ESTIMATORS if estimators is None else check_estimators(estimators),
            exact=exact,
            most=DensityConfig().most if most is None else most,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
            device=device,
        ),
    )
    return space.measure()


def _own_rows(
    ids: Sequence[str] | None, reference_ids: Sequence[str] | None, points: int, among: int | None
) -> Ints | None:
    """The row of each clip among `among` reference clips; None where no ids tell."""
    if ids is not None:
        check_length("ids", ids, points)
    if reference_ids is None:
        return None
    if among is None or ids is None:
        raise ValueError("reference_ids go with a reference and with ids: they tell which clips are the same")
    check_length("reference_ids", reference_ids, among)
    return own_rows(ids, reference_ids)


def _predicted_classes(logits: NDArray[Any], clips: int, classes: int) -> Ints:
    """The class with the highest logit, (N,).

    Raises:
        ValueError: if the logits' shape does not fit, or one is NaN.
    """
    if logits.shape != (clips, classes):
        raise ValueError(f"logits have shape {logits.shape}: give ({clips}, {classes}), a column for each class")
    if np.isnan(logits).any():
        broken = np.flatnonzero(np.isnan(logits).any(axis=1))
        raise ValueError(f"logits are NaN for clip {broken[0]}, and for {len(broken)} in all: they predict no class")
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def _classes_of(
    labels: NDArray[Any], others: NDArray[Any] | None, classes: Sequence[str] | None
) -> tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]:
    """The labels, those of the reference, and the classes' names; see `with_classes`."""
    given = [labels] if others is None else [labels, others]
    if labels.ndim not in (1, 2) or any(each.shape[1:] != labels.shape[1:] or not each.ndim for each in given):
        raise ValueError(
            f"labels have the shapes {' and '.join(str(each.shape) for each in given)}: give (N,), or (N, K) for "
            "several per clip, and the same for the reference"
        )
    found, names = with_classes(given, classes)
    return found[0], None if others is None else found[1], names
