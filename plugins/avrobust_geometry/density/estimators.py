"""Estimates of density for single clips, as plain functions of distances and indices of neighbours.

None of them adds an epsilon. A duplicate, at distance 0, gives what the formula says: an infinite value, or NaN where
it says 0 / 0.
"""

import numpy as np
from scipy.special import digamma, gammaln

from avrobust_geometry.density.summaries import group_means
from avrobust_geometry.inputs import Floats, Ints


def intrinsic_dimension(distances: Floats) -> float:
    """One intrinsic dimension for a whole set, by maximum likelihood.

    Each pair of a point's j-th and k-th neighbour, j < k, estimates 1 / m by log(r_k / r_j); all of them are averaged.
    This pools the inverses, without which points in sparse places would count too much. Duplicates, r_j = 0, say
    nothing of the dimension and are no pair.

    Levina and Bickel 2004, "Maximum likelihood estimation of intrinsic dimension"; MacKay and Ghahramani 2005,
    "Comments on 'Maximum likelihood estimation of intrinsic dimension'".

    Args:
        distances: (N, k) to each point's neighbours, ascending.

    Returns:
        m; NaN where there is no pair, or where all neighbours are equally far, so that m would be infinite.
    """
    nearer = distances[:, :-1]
    pairs = nearer > 0
    inverses = np.log(np.broadcast_to(distances[:, -1:], nearer.shape)[pairs] / nearer[pairs])
    total = float(inverses.sum())
    return inverses.size / total if total > 0 else float("nan")


def log_density(radius: Floats, k: int, others: Ints | int, m: float) -> Floats:
    """The logarithm of the density at each point, from its k-th neighbour's distance.

    digamma(k) - digamma(n) - log V_m - m log r_k, with V_m the volume of the unit ball in m dimensions, which need not
    be whole. The share of the distribution inside the ball to the k-th of n - 1 other points has the expected logarithm
    digamma(k) - digamma(n), so that n counts the point itself. Kozachenko and Leonenko 1987, "Sample estimate of the
    entropy of a random vector", for k = 1; Goria et al. 2005, "A new class of random vector entropy estimators and its
    applications in testing statistical hypotheses", for any k.

    Args:
        radius: (N,) r_k.
        k: which neighbour that is.
        others: n - 1, the points among which neighbours were looked for, the point itself left out.
        m: the dimension.

    Returns:
        (N,) nats; infinite where r_k = 0; NaN where m is.
    """
    volume = m / 2 * np.log(np.pi) - gammaln(m / 2 + 1)
    with np.errstate(divide="ignore"):
        return np.asarray(digamma(k) - digamma(np.asarray(others) + 1) - volume - m * np.log(radius))


def local_dimension(distances: Floats) -> Floats:
    """The local intrinsic dimensionality at each point: -1 over the mean of log(r_j / r_k), j from 1 to k.

    Ma et al. 2018, "Characterizing adversarial subspaces using local intrinsic dimensionality".

    Args:
        distances: (N, k) to each point's neighbours, ascending.

    Returns:
        (N,); 0 where a neighbour is a duplicate, NaN where all are, infinite where all are equally far.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-1 / np.log(distances / distances[:, -1:]).mean(axis=1))


def reachability_density(distances: Floats, indices: Ints, radii: Floats) -> Floats:
    """One over the mean distance at which each point is reached from its neighbours.

    A neighbour with the radius r_k reaches no point in less than r_k. Breunig et al. 2000, "LOF: identifying
    density-based local outliers", definition 6.

    Args:
        distances: (N, k) to each point's neighbours.
        indices: (N, k) the neighbours' rows.
        radii: (M,) each row's own distance to its k-th neighbour.

    Returns:
        (N,); infinite where a point and all its neighbours are duplicates.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(1 / np.maximum(distances, radii[indices]).mean(axis=1))


def outlier_factor(density: Floats, reference_density: Floats, indices: Ints) -> Floats:
    """The local outlier factor: the mean reachability density of a point's neighbours over its own; about 1 inside.

    Breunig et al. 2000, definition 7.

    Args:
        density: (N,) of the points.
        reference_density: (M,) of the rows among which their neighbours are.
        indices: (N, k) the neighbours' rows.

    Returns:
        (N,); NaN where both are infinite, infinite where only a neighbour's is, 0 where only the point's is.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(reference_density[indices].mean(axis=1) / density)


def log_distance_ratio(same: Floats, other: Floats) -> Floats:
    """log(r_k to other classes / r_k to the same class).

    Args:
        same: (P,) distances to the k-th neighbour in the class.
        other: (P,) to the k-th outside.

    Returns:
        (P,) positive where the class is nearer; infinite where one of both is 0, NaN where both are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(other) - np.log(same))


def class_log_odds(ratio: Floats, n_same: Ints, n_other: Ints, m: float) -> Floats:
    """The log-odds of the class against all others, each side's density estimated from its k-th neighbour.

    m log(r_k other / r_k same) + log(n_other / n_same). Each side's density is k / (n V_m r_k^m): with the same k, this
    is what is left of their ratio. It is a ratio of densities, not of posteriors: no class is favoured for its size.

    Args:
        ratio: (P,) `log_distance_ratio`.
        n_same: (P,) clips in the class, the point itself left out.
        n_other: (P,) clips outside.
        m: the dimension.

    Returns:
        (P,) nats; NaN where a side has no clip, or m is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(m * ratio + np.log(n_other / n_same))


def distance_ratio(same: Floats, other: Floats) -> Floats:
    """The trust score: the distance to the nearest clip outside the predicted class over that to the nearest inside.

    Jiang et al. 2018, "To trust or not to trust a classifier", algorithm 2, without the filter of algorithm 1.

    Args:
        same: (N,) distance to the nearest clip of the predicted class.
        other: (N,) to the nearest of all others.

    Returns:
        (N,) at least 0, above 1 where the prediction is the nearer; infinite where `same` is 0, NaN where both are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(other / same)


def mean_by_clip(values: Floats, clip: Ints, n: int) -> Floats:
    """The mean of each clip's pairs that have a value.

    Args:
        values: (P,) of pairs of a clip and one of its classes; NaN for none.
        clip: (P,) the clip of each.
        n: clips.

    Returns:
        (n,); NaN for a clip without any, or with infinities of both signs.
    """
    there = ~np.isnan(values)
    return group_means(values[there], clip[there], n)
