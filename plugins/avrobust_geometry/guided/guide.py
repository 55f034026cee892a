"""From noted embeddings to a guide: the weight of each clip, and the partners that lie near it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_geometry.configs import GuidanceConfig, GuidedMixupConfig, GuidedWeightsConfig
from avrobust_geometry.density.choices import Choices
from avrobust_geometry.density.space import Space
from avrobust_geometry.guided.notes import Notes
from avrobust_geometry.guided.tally import Floats
from avrobust_geometry.knn import nearest

Integers = NDArray[np.int64]

MOST_OTHERS = 20_000
"""Clips among which densities and neighbours of other classes are looked for at most; of more, a seeded subsample."""

UNUSUAL = 5.0
"""Interquartile ranges from the median, beyond which densities are cut off before their mean and spread are taken."""

WIDEST = 3.0
"""Standardised densities beyond this count as this."""


_ARRAYS = ("labels", "weights", "partners", "chances")


@dataclass(frozen=True, slots=True)
class Guide:
    """The weight and the near partners of each clip, by the last embeddings.

    Attributes:
        ids: N clips.
        labels: (N,) int64, or (N, K) float32.
        weights: (N,) > 0; times what its class has failed, see `clip_weights`.
        partners: (N, k) rows of near clips, -1 for none.
        chances: (N, k), summing to 1 over the partners there are; all 0 where there is none.
    """

    ids: tuple[str, ...]
    labels: NDArray[Any]
    weights: Floats
    partners: Integers
    chances: Floats

    def state_dict(self) -> dict[str, Any]:
        """As tensors and lists."""
        return {"ids": list(self.ids)} | {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Guide":
        """From a state."""
        return cls(tuple(state["ids"]), *(state[name].numpy() for name in _ARRAYS))


def make_guide(
    notes: Notes,
    classes: int,
    config: GuidedMixupConfig | GuidedWeightsConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> Guide:
    """Make the guide of an epoch from the embeddings noted so far.

    Args:
        notes: of at least two clips.
        classes: K.
        config: of guided mix-up, which also wants partners, or of weights alone.
        seed: of subsamples and of the permuted control.
        device: where distances are computed.
    """
    ids = notes.ids()
    labels = notes.labels()
    weights = np.ones(len(ids))
    partners, chances = np.full((len(ids), 1), -1, dtype=np.int64), np.zeros((len(ids), 1))
    inverted = config.control == "inverted"
    if "density" in config.guide:
        space = space_of(notes.embeddings(), labels, classes, config, seed, device)
        if not inverted and isinstance(
            config, GuidedMixupConfig
        ):  # the opposite of a near partner is one from anywhere
            partners, chances = near(space, config)
        weights *= density_weights(space, config)
    if "balance" in config.guide:
        weights *= class_weights(labels, 1 / np.maximum(_counts(labels, classes), 1))
    if inverted:
        weights = 1 / weights
    if config.control == "permuted":
        lent = permuted_within_classes(labels, np.random.default_rng(seed))
        weights, partners, chances = weights[lent], partners[lent], chances[lent]
        partners, chances = _without_itself(partners, chances)
    return Guide(ids, labels, weights, partners, chances)


def clip_weights(guide: Guide, class_budget: Floats | None = None, *, inverted: bool = False) -> dict[str, float]:
    """The weight of each clip by its id, above 0 and 1 in the mean.

    Args:
        guide: of the last embeddings.
        class_budget: (K,) what the classes have failed; None where that does not count.
        inverted: classes that have failed weigh less.
    """
    weights = guide.weights
    if class_budget is not None:
        budget = class_weights(guide.labels, class_budget)
        weights = weights / budget if inverted else weights * budget
    return dict(zip(guide.ids, (weights / weights.mean()).tolist(), strict=True))


def space_of(
    points: NDArray[Any],
    labels: NDArray[Any],
    classes: int,
    config: GuidanceConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> Space:
    """The latent space as the density metric sees it; neighbours in it are searched once.

    Args:
        points: (N, D) floats.
        labels: (N,) int64, or (N, K) floats: above 1/2 a clip has the label.
        classes: K.
        config: names the density and the number of neighbours.
        seed: of subsamples.
        device: where distances are computed.
    """
    return Space(
        points,
        labels if labels.ndim == 1 else labels > 0.5,
        reference=None,
        reference_labels=None,
        own=None,
        predicted=None,
        classes=[str(c) for c in range(classes)],
        choices=Choices(
            k=config.k,
            estimators=(config.score,),
            exact="auto",
            most=len(points) * MOST_OTHERS,
            confidence=0.95,
            resamples=1,
            seed=seed,
            device=device,
        ),
    )


def density_weights(space: Space, config: GuidanceConfig) -> Floats:
    """exp(beta z), z the standardised density: with beta > 0, the denser its own lie around it. (N,) > 0."""
    found = space.measure()
    score = np.asarray(found.per_clip[config.score], dtype=np.float64)
    finite = np.isfinite(score)
    if not finite.any():
        return np.ones(len(score))
    low, median, high = np.quantile(score[finite], [0.25, 0.5, 0.75])
    if high > low:  # one clip far off would make all others alike
        reach = UNUSUAL * (high - low)
        score = np.where(finite, np.clip(score, median - reach, median + reach), score)
    middle, spread = score[finite].mean(), score[finite].std()
    # Infinite: k duplicates in its own class, as dense as can be. NaN: a class of one clip, of which nothing is known.
    z = np.where(np.isnan(score), 0.0, (score - middle) / max(spread, 1e-12))
    return np.asarray(np.exp(config.beta * np.clip(z, -WIDEST, WIDEST)))


def class_weights(labels: NDArray[Any], budget: Floats) -> Floats:
    """The budget of a clip's class, or the mean over its classes: (N,), mean 1."""
    if labels.ndim == 1:
        weights = budget[labels]
    else:
        count = labels.sum(axis=1)
        weights = np.where(count > 0, labels @ budget / np.maximum(count, 1), budget.mean())
    return np.asarray(weights / weights.mean())


def near(space: Space, config: GuidedMixupConfig) -> tuple[Integers, Floats]:
    """The neighbours that may be partners, and the chance of each.

    The chance of j for i is proportional to exp(-d_ij^2 / (2 tau r_i r_j)), r being the distance to the k-th neighbour
    (self-tuning: Zelnik-Manor and Perona 2004, "Self-tuning spectral clustering").
    """
    if config.partners == "other-class" and space.labels.ndim == 1:
        indices, distances = _nearest_of_other_classes(space)
    else:
        k, found = space.near.k, space.near.within
        indices, distances = found.indices[:, :k], found.distances[:, :k]
    usable = indices >= 0
    if config.partners != "any":
        together = _share_a_class(space.labels, indices)
        usable &= together if config.partners == "same-class" else ~together
    radius = np.where(np.isfinite(distances), distances, 0).max(axis=1)
    scale = np.maximum(radius[:, None] * radius[np.maximum(indices, 0)], 1e-24)
    with np.errstate(over="ignore"):
        exponent = -np.square(np.where(usable, distances, 0)) / (2 * config.tau * scale)
    exponent = np.where(usable, exponent, -np.inf)
    top = np.where(usable.any(axis=1), exponent.max(axis=1), 0)
    chances = np.where(usable, np.exp(exponent - top[:, None]), 0)
    return np.where(usable, indices, -1), _normalised(chances)


def permuted_within_classes(labels: NDArray[Any], generator: np.random.Generator) -> Integers:
    """For each clip the row of one of its class, each row once: (N,). Clips of equal label sets are one class."""
    groups = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    lent = np.arange(len(labels))
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        lent[rows] = generator.permutation(rows)
    return lent


def _nearest_of_other_classes(space: Space) -> tuple[Integers, Floats]:
    points, labels, choices = space.points, space.labels, space.choices
    n, k = len(points), choices.k
    among = np.arange(n)
    if n > MOST_OTHERS:
        among = np.sort(np.random.default_rng(choices.seed).choice(n, MOST_OTHERS, replace=False))
    indices, distances = np.full((n, k), -1, dtype=np.int64), np.full((n, k), np.inf)
    for label in np.unique(labels):
        rows, others = np.flatnonzero(labels == label), among[labels[among] != label]
        if len(others) < 2:
            continue
        found = nearest(points[rows], k, reference=points[others], seed=choices.seed, device=choices.device)
        width = found.indices.shape[1]
        indices[rows, :width], distances[rows, :width] = others[found.indices], found.distances
    return indices, distances


def _share_a_class(labels: NDArray[Any], indices: Integers) -> NDArray[np.bool_]:
    if labels.ndim == 1:
        return np.asarray(labels[indices] == labels[:, None])
    return np.stack([(labels[indices[:, j]] & labels).any(axis=1) for j in range(indices.shape[1])], axis=1)


def _counts(labels: NDArray[Any], classes: int) -> Floats:
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    return np.asarray(counts, dtype=np.float64)


def _without_itself(partners: Integers, chances: Floats) -> tuple[Integers, Floats]:
    itself = partners == np.arange(len(partners))[:, None]
    return np.where(itself, -1, partners), _normalised(np.where(itself, 0, chances))


def _normalised(chances: Floats) -> Floats:
    total = chances.sum(axis=1, keepdims=True)
    return np.asarray(chances / np.where(total > 0, total, 1))
