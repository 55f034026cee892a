"""Numbers with intervals: the bootstrap over clips; free of torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK_ELEMENTS = 8_000_000
"""Bootstrap weights held at once: 64 MB of float64."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: the point estimate.
        low, high: the interval's ends; both NaN if there is nothing to measure.
        n: the number of clips behind it.
        method: "bootstrap" (percentile, multinomial weights over clips); "wilson" where every clip agrees, so that
            resampling would claim certainty; "dyadic" where pairs of clips are measured, which share clips; "none"
            without clips, or where no resample has a value.
    """

    value: float
    low: float
    high: float
    n: int
    method: Literal["bootstrap", "wilson", "dyadic", "none"]

    def to_json(self) -> dict[str, Any]:
        """As JSON data: NaN and infinity, which JSON has no number for, become None."""
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in asdict(self).items()
        }


def bootstrap_mean(values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of one 0/1 outcome per clip, with a percentile bootstrap interval over clips.

    Where all outcomes agree the bootstrap's interval has no width; Wilson's (1927) is given instead.

    Args:
        values: (N,) bool or 0/1.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resampling.
    """
    outcomes = np.asarray(values, dtype=np.float64)
    if outcomes.size and outcomes.min() == outcomes.max() and outcomes[0] in (0.0, 1.0):
        low, high = _wilson(float(outcomes[0]), outcomes.size, confidence)
        return Estimate(float(outcomes[0]), low, high, outcomes.size, "wilson")

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights @ outcomes / weights.sum(axis=1))

    return bootstrap(mean, outcomes.size, confidence=confidence, resamples=resamples, seed=seed)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n: int,
    *,
    value: float | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Any statistic that can be computed from weights over clips, with a percentile bootstrap interval.

    Args:
        statistic: from weights (R, n) to values (R,); weights of one row sum to n. NaN rows are left out.
        n: number of clips.
        value: the point estimate, if another code computes it; by default the statistic at weights of 1.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resampling.
    """
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "none")
    if value is None:
        value = float(statistic(np.ones((1, n)))[0])
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // n)
    uniform = np.full(n, 1 / n)
    found = [
        statistic(generator.multinomial(n, uniform, size=min(chunk, resamples - start)).astype(np.float64))
        for start in range(0, resamples, chunk)
    ]
    tail = (1 - confidence) / 2
    # Where values may be infinite there is nothing between two of them: the nearest one stands.
    samples = np.concatenate(found)
    if np.isnan(samples).all():
        return Estimate(value, float("nan"), float("nan"), n, "none")
    finite = bool(np.isfinite(samples[~np.isnan(samples)]).all())
    low, high = np.nanquantile(samples, [tail, 1 - tail], method="linear" if finite else "nearest")
    return Estimate(value, float(low), float(high), n, "bootstrap")


def weighted_median(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A statistic for `bootstrap`: the median of one number per clip.

    It is the smallest value at which half of the weight is reached, so that it is a value of a clip, which may be
    infinite.

    Args:
        values: (N,), not NaN.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]

    def median(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        reached = np.cumsum(weights[:, order], axis=1)
        return np.asarray(ordered[(reached >= reached[:, -1:] / 2).argmax(axis=1)])

    return median


def _wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    # At a share of 0 or 1 one end is that very number, which rounding must not pass.
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)
