"""What several fits say of the method that they were made with: intervals over clips and fits; free of torch."""

from dataclasses import dataclass
from math import inf, nan

import numpy as np
from numpy.typing import NDArray

from avrobust_core.draws import Draws, student
from avrobust_core.statistics import Groups, share_interval

Right = NDArray[np.bool_]
"""Which clips are right in which fit: (S, N)."""


@dataclass(frozen=True, slots=True)
class AcrossFits:
    """An interval for what a method would come to with other fits, on other clips.

    Attributes:
        low, high: its ends; NaN where there is nothing to make one of.
        degrees: of freedom of the variance that it rests on.
        p: the two-sided p-value of no difference between two methods; NaN for one method's accuracy.
    """

    low: float
    high: float
    degrees: float
    p: float = nan


def accuracy_across_fits(right: Right, *, confidence: float = 0.95, groups: Groups = None) -> AcrossFits:
    """The interval of a method's mean accuracy over fits and clips.

    Its variance is the sum of two: that of the fits' accuracies over S, and that of the mean over clips of each clip's
    share of fits, which counts what is peculiar to a clip in a fit twice, and so errs on the safe side. Degrees of
    freedom are Satterthwaite's (1946).

    Args:
        right: (S, N), S at least 2.
        confidence: e.g. 0.95.
        groups: of the clips.
    """
    draws = Draws.of(groups, right.shape[1])
    if not _enough(draws):
        return AcrossFits(nan, nan, nan)
    value = float(right.mean())
    over_clips, clips_degrees = _over_clips(right.mean(axis=0), draws)
    variance, degrees = _sum((_over_fits(right), len(right) - 1), (over_clips, clips_degrees))
    return AcrossFits(*share_interval(value, variance, degrees, draws.effective, confidence), degrees)


def difference_across_fits(
    first: Right, second: Right, *, confidence: float = 0.95, groups: Groups = None
) -> AcrossFits:
    """The interval and the test of the difference between two methods' mean accuracies over fits and clips.

    Student's, after Welch (Biometrika 34, 1947): each side's fits have a spread of their own, and clips, on which both
    are measured, add theirs. Fits are not paired by seed: with few of them the degrees of freedom
    that pairing costs outweigh what it gains, unless fits of one seed go together at a correlation above about .6 (3
    fits) or .3 (5). `benchmarks/intervals.py` simulates it.

    Args:
        first: (S, N), S at least 2.
        second: (S', N), S' at least 2, of the same clips.
        confidence: e.g. 0.95.
        groups: of the clips.
    """
    from scipy.special import stdtr

    draws = Draws.of(groups, first.shape[1])
    if not _enough(draws):
        return AcrossFits(nan, nan, nan)
    shares = first.mean(axis=0) - second.mean(axis=0)
    value = float(shares.mean())
    over_clips, clips_degrees = _difference_over_clips(shares, draws)
    parts = [(_over_fits(side), len(side) - 1) for side in (first, second)]
    variance, degrees = _sum(*parts, (over_clips, clips_degrees))
    half = student(confidence, degrees) * variance**0.5
    p = float(2 * stdtr(degrees, -abs(value) / variance**0.5))
    return AcrossFits(max(-1.0, value - half), min(1.0, value + half), degrees, p)


def _enough(draws: Draws) -> bool:
    return len(draws.group) > 0 and not (draws.grouped and draws.count < 2)


def _over_clips(shares: NDArray[np.float64], draws: Draws) -> tuple[float, float]:
    """The variance of the mean of a share or difference per clip, and its degrees of freedom."""
    variance, degrees = draws.spread(shares)
    return variance if draws.alone or variance == 0 else max(variance, draws.least(shares)), degrees


def _difference_over_clips(differences: NDArray[np.float64], draws: Draws) -> tuple[float, float]:
    """As `_over_clips`, after half a clip is added to each cell of the table of pairs: it is not 0 where none differs.

    So do Agresti and Min (Statistics in Medicine 24, 2005). With groups all counts are divided by the design effect,
    by how much the variance over groups is larger than that of as many clips by themselves.

    Args:
        differences: (N,) in [-1, 1].
        draws: of the N clips, two at least if they are groups.
    """
    n = len(differences)
    independent = float(differences.var()) / n
    variance, degrees = _over_clips(differences, draws) if n > 1 else (independent, 1.0)
    design = variance / independent if independent > 0 else n / draws.effective
    total = n / design + 2
    middle = float(differences.sum()) / design / total
    squares = float((differences * differences).sum()) / design + 1
    return (squares - total * middle**2) / total**2, degrees


def _over_fits(right: Right) -> float:
    return float(right.mean(axis=1).var(ddof=1)) / len(right)


def _sum(*parts: tuple[float, float]) -> tuple[float, float]:
    """The sum of variances that were estimated independently, each with its degrees of freedom, and its own."""
    total = sum(variance for variance, _ in parts)
    uncertain = sum(variance**2 / degrees for variance, degrees in parts)
    return total, total**2 / uncertain if uncertain > 0 else inf
