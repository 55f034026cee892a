"""Certificates of randomised smoothing: from counts of noisy predictions to the radius within which none is another.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri


def lower_bound(hits: NDArray[np.int64], draws: int, alpha: float) -> NDArray[np.float64]:
    """A one-sided lower bound of a probability, exact at confidence 1 - alpha (Clopper and Pearson 1934).

    Args:
        hits: (N,) how often it came true.
        draws: of how many.
        alpha: probability that the bound is wrong.

    Returns:
        (N,) in [0, 1); 0 without a hit.
    """
    hits = np.asarray(hits)
    found = betaincinv(np.maximum(hits, 1), draws - hits + 1, alpha)
    return np.where(hits > 0, found, 0.0)


def radius(hits: NDArray[np.int64], draws: int, alpha: float) -> NDArray[np.float64]:
    """The certified radius of each clip, (N,), in standard deviations of the noise; NaN for an abstention.

    With pA the lower bound of the chosen class's probability and all others together at 1 - pA at most, it is
    Phi^-1(pA) (theorem 1, with the bound that Certify of the paper takes), wherever pA is above 1/2.

    Noise of another sigma on each modality is noise of sigma 1 on inputs divided by it: so for several modalities the
    certificate is of the ellipsoid of all changes d with a sum over modalities of (|d_m|_2 / sigma_m)^2 < radius^2.

    Args:
        hits: (N,) how often the chosen class came first.
        draws: of how many, none of which chose the class.
        alpha: see `lower_bound`.
    """
    likely = lower_bound(hits, draws, alpha)
    return np.where(likely > 0.5, ndtri(np.maximum(likely, 0.5)), np.nan)
