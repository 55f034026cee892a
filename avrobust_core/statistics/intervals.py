"""Numbers with intervals, and paired differences with their tests: over clips or groups of clips; free of torch."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avrobust_core.blame import sentence
from avrobust_core.errors import AvrobustError, ComponentError
from avrobust_core.statistics.draws import Draws, student

CHUNK_ELEMENTS = 8_000_000
"""Bootstrap weights held at once: 64 MB of float64."""

Groups = Sequence[Hashable] | NDArray[np.int64] | None
"""The group that each clip was drawn with, one per clip; None if every clip stands for itself."""


def finite_or_none(data: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON data: NaN and infinity, which JSON has no number for, become None."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in data.items()}


Method = Literal["bootstrap", "clopper-pearson", "square-and-add", "dyadic", "prediction", "none"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: the point estimate.
        low, high: the interval's ends; both NaN if there is nothing to measure, or one group only.
        n: the number of clips behind it.
        method: "clopper-pearson" for shares of clips, and perfect rankings; "square-and-add" for paired differences of
            shares; "bootstrap" (percentile, multinomial weights over clips or groups) for all else; "dyadic" where
            pairs of clips are measured, which share clips; "prediction" where the interval is for what was not measured
            itself; "none" where there is no interval.
        groups: the number of groups of clips that were resampled, or taken for the draws; None where clips stand for
            themselves.
    """

    value: float
    low: float
    high: float
    n: int
    method: Method
    groups: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data: NaN and infinity, which JSON has no number for, become None."""
        return finite_or_none(asdict(self))


def share(values: ArrayLike, *, confidence: float = 0.95, groups: Groups = None) -> Estimate:
    """The share of clips for which an outcome is 1, or the mean of a share per clip, such as that of the seeds.

    The interval is that of Clopper and Pearson (Biometrika 26, 1934) for as many independent outcomes as would give
    the mean the variance that it has (Korn and Graubard, Survey Methodology 24, 1998). For one outcome per clip, and no
    groups, these are the clips themselves, and the coverage is never below the confidence. With groups they are fewer,
    reduced once more by the square of the normal quantile over Student's, and never more than the groups' clips can be
    trusted to be worth where the outcome is rare (`Draws.least`): Korn and Graubard's own rule covers down to 75 %
    there. Where all clips agree there are as many outcomes as clips, or as the groups are worth.
    `benchmarks/intervals.py` simulates it.

    Args:
        values: (N,) bool, or in [0, 1].
        confidence: e.g. 0.95.
        groups: of the clips.
    """

    def ends(values: NDArray[np.float64], value: float, variance: float, draws: Draws) -> tuple[float, float]:
        return share_interval(value, variance, inf, draws.effective, confidence)

    return _mean(values, ends, "clopper-pearson", confidence, groups)


Ends = Callable[[NDArray[np.float64], float, float, Draws], tuple[float, float]]
"""From a number per clip, (N,), its mean, the mean's variance and how clips were drawn to an interval's ends."""


def _mean(values: ArrayLike, ends: Ends, method: Method, confidence: float, groups: Groups) -> Estimate:
    """The mean, with the interval where there is a clip, and two groups at least if there are groups."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    draws = Draws.of(groups, n)
    if not draws.enough:
        return Estimate(float(values.mean()) if n else nan, nan, nan, n, "none", draws.label)
    agree = values.min() == values.max()
    value = float(values[0] if agree else values.mean())
    variance = 0.0 if agree else draws.outcomes_variance(values, confidence)
    low, high = ends(values, value, variance, draws)
    return Estimate(value, min(low, value), max(high, value), n, method, draws.label)


def share_interval(
    value: float, variance: float, degrees: float, least: float, confidence: float
) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share for as many independent outcomes as have its variance.

    Args:
        value: in [0, 1].
        variance: of the share.
        degrees: of freedom of the variance; infinite if it follows from the share itself.
        least: the number of outcomes where there is no variance.
        confidence: e.g. 0.95.
    """
    from scipy.special import betaincinv

    outcomes = least
    if variance > 0 and 0 < value < 1:
        outcomes = value * (1 - value) / variance * (student(confidence, inf) / student(confidence, degrees)) ** 2
    hits, misses, tail = value * outcomes, (1 - value) * outcomes, (1 - confidence) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if value > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if value < 1 else 1.0
    return min(low, value), max(high, value)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n: int,
    *,
    value: float | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    groups: Groups = None,
    recentred: bool = False,
) -> Estimate:
    """Any statistic that can be computed from weights over clips, with a percentile bootstrap interval.

    Clips are resampled, or groups of them, each with all of its clips. The percentiles lie as far out as makes up for
    the bootstrap's narrowness and for the normal quantile where draws are few (Hesterberg, American Statistician 69,
    2015): with 10 groups at 0.9 and 99.1 %, with 200 clips at 2.4 and 97.6.

    Args:
        statistic: from weights (R, n) to values (R,); weights are whole numbers, those of one row sum to n where there
            are no groups. NaN rows are left out.
        n: number of clips.
        value: the point estimate, if another code computes it; by default the statistic at weights of 1.
        confidence: e.g. 0.95.
        resamples: number of resamples.
        seed: of the resampling.
        groups: of the clips.
        recentred: the percentiles are moved by the bootstrap's own estimate of its bias, and kept within [0, 1].

    Raises:
        ComponentError: if the statistic fails on such weights, or returns no such values; what it was given is said.
    """
    from scipy.special import ndtr

    draws = Draws.of(groups, n)
    if n == 0:
        return Estimate(nan, nan, nan, 0, "none", draws.label)
    if value is None:
        value = float(_of_weights(statistic, np.ones((1, n)))[0])
    samples = np.concatenate([_of_weights(statistic, weights) for weights in _resampled(draws, resamples, seed)])
    if np.isnan(samples).all() or draws.effective <= 1:
        return Estimate(value, nan, nan, n, "none", draws.label)
    degrees = draws.effective - 1
    tail = float(ndtr(-((draws.effective / degrees) ** 0.5) * student(confidence, degrees)))
    # Where values may be infinite there is nothing between two of them: the nearest one stands.
    method: Literal["nearest", "linear"] = "nearest" if np.isinf(samples).any() else "linear"
    low, high = np.nanquantile(samples, [tail, 1 - tail], method=method)
    if recentred:
        bias = float(np.nanmean(samples)) - value
        low, high = max(0.0, low - bias), min(1.0, high - bias)
    return Estimate(value, float(low), float(high), n, "bootstrap", draws.label)


def _of_weights(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The statistic's values (R,) at weights (R, n), looked at."""
    rows, n = weights.shape
    given = (
        f"it is given weights, float64 of shape ({rows}, {n}), one row per resample and one column per clip, not the "
        f"clips' values, and returns one number per row: shape ({rows},), such as "
        "weights @ values / weights.sum(axis=1)"
    )
    name = getattr(statistic, "__qualname__", type(statistic).__name__)
    try:
        found = statistic(weights)
    except (AvrobustError, MemoryError):
        raise
    except Exception as error:
        raise ComponentError(f"bootstrap: the statistic {name} failed with {sentence(error)}; {given}") from error
    values = np.asarray(found)
    if values.shape != (rows,) or values.dtype.kind not in "fiub":
        seen = f"{type(found).__name__}, {values.dtype} of shape {values.shape}"
        raise ComponentError(f"bootstrap: the statistic {name} returned {seen}; {given}")
    return values


def paired_difference(differences: ArrayLike, *, confidence: float = 0.95, groups: Groups = None) -> Estimate:
    """The mean of a difference per clip, with an interval by squaring and adding.

    How often only the first is right, and how often only the second, are two shares; each end of the interval lies as
    far from their difference as the roots of the squares of their own ends' distances add up to, with the correlation
    that two shares of one table have (Newcombe, Statistics in Medicine 17, 1998; Zou and Donner, Statistics in Medicine
    27, 2008). The shares' ends are Wilson's for as many independent clips as would give the difference its variance,
    with groups as in `share`. It has width even where no clip differs.

    Args:
        differences: (N,) in [-1, 1]: for each clip the first's outcome minus the second's, or the mean over seeds.
        confidence: e.g. 0.95.
        groups: of the clips.

    Returns:
        The estimate; swapping the two sides changes its signs.
    """

    def ends(values: NDArray[np.float64], value: float, variance: float, draws: Draws) -> tuple[float, float]:
        first, second = float(values.clip(0).mean()), float((-values).clip(0).mean())
        outcomes = (first + second - value**2) / variance if variance > 0 else draws.effective
        return _squared_and_added(first, second, outcomes, student(confidence, inf))

    return _mean(differences, ends, "square-and-add", confidence, groups)


def _squared_and_added(first: float, second: float, outcomes: float, quantile: float) -> tuple[float, float]:
    """The ends of the interval of the difference of two exclusive outcomes' shares of one sample."""
    ends = [_wilson(share, outcomes, quantile) for share in (first, second)]
    (first_low, first_high), (second_low, second_high) = ends
    both = first * second
    alike = 0.0 if both == 0 else -((both / ((1 - first) * (1 - second))) ** 0.5)

    def distance(one: float, other: float) -> float:
        return float((one**2 + other**2 - 2 * alike * one * other) ** 0.5)

    value = first - second
    low = value - distance(first - first_low, second_high - second)
    high = value + distance(first_high - first, second - second_low)
    return max(-1.0, low), min(1.0, high)


def _wilson(share: float, outcomes: float, quantile: float) -> tuple[float, float]:
    """The ends of Wilson's interval of a share (Journal of the American Statistical Association 22, 1927)."""
    square = quantile**2 / outcomes
    middle = (share + square / 2) / (1 + square)
    half = (square * share * (1 - share) + square**2 / 4) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def sign_flip_p(differences: ArrayLike, *, groups: Groups = None) -> float:
    """The exact two-sided p-value of the test that flips the sign of each clip's difference, or of each group's.

    The hypothesis: which of the two sides a clip's outcomes belong to is a matter of chance; with groups, those of a
    group together. The p-value is the share of all flips whose sum lies at least as far from 0 as the one found,
    computed, not sampled: clips or groups of one size of difference add up to a binomial variable. For differences of
    -1, 0 and 1, and no groups, it is McNemar's exact test (Psychometrika 12, 1947): the binomial test on the clips that
    differ.

    Args:
        differences: (N,) whole numbers: for each clip, in how many more seeds the first is right than the second.
        groups: of the clips.
    """
    from scipy.stats import binom

    of_clips = np.asarray(differences).astype(np.int64)
    draws = Draws.of(groups, len(of_clips))
    found = np.bincount(draws.group, of_clips, draws.count).astype(np.int64)
    chances, lowest = np.ones(1), 0
    for size, count in zip(*np.unique(np.abs(found[found != 0]), return_counts=True), strict=True):
        flipped = binom.pmf(np.arange(count + 1), count, 0.5)
        possible = np.flatnonzero(flipped)  # far tails of many clips are 0 in float64, and only cost time
        first, last = int(possible[0]), int(possible[-1])
        step = 2 * int(size)  # sums that lie a step apart mix with one another, and with no others
        phases = np.pad(chances, (0, -len(chances) % step)).reshape(-1, step).T
        chances = np.stack([np.convolve(phase, flipped[first : last + 1]) for phase in phases], axis=1).ravel()
        lowest += int(size) * (2 * first - int(count))
    sums = lowest + np.arange(len(chances))
    return float(min(1.0, chances[np.abs(sums) >= abs(int(found.sum()))].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (Scandinavian Journal of Statistics 6, 1979): p-values that hold for all tests together.

    Args:
        p_values: of one family of tests.

    Returns:
        The corrected ones in the same order; rejecting those below a level errs anywhere in the family with at most
        that probability, whatever the tests have to do with one another.
    """
    count = len(p_values)
    found = [0.0] * count
    reached = 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (count - rank) * p_values[place]))
        found[place] = reached
    return found


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


def _resampled(draws: Draws, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Bootstrap weights over n clips, (R, n) in chunks; the rows do not depend on the chunks."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // len(draws.group))
    uniform = np.full(draws.count, 1 / draws.count)
    for start in range(0, resamples, chunk):
        drawn = generator.multinomial(draws.count, uniform, size=min(chunk, resamples - start)).astype(np.float64)
        yield drawn if draws.alone else drawn[:, draws.group]
