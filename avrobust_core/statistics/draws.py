"""Draws of clips, one by one or in groups, and the variance of a mean over them; free of torch."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PULL = 0.1
"""So many whole groups of the rarer outcome are taken for seen beside those that were: see `Draws.least`."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The independent draws: clips, or groups of them (speakers, source videos).

    Attributes:
        group: (N,) int64, of each clip, from 0 on; without groups each clip is one.
        sizes: (G,) float64, clips in each.
        grouped: True if groups were given.
    """

    group: NDArray[np.int64]
    sizes: Floats
    grouped: bool

    @classmethod
    def of(cls, groups: Sequence[Hashable] | NDArray[np.int64] | None, n: int) -> "Draws":
        """The draws of n clips.

        Args:
            groups: the group of each clip; None if each stands for itself.
            n: the number of clips.

        Raises:
            ValueError: if there is not one group per clip.
        """
        if groups is None:
            return cls(np.arange(n), np.ones(n), grouped=False)
        if len(groups) != n:
            raise ValueError(f"there are {n} clips, but groups of {len(groups)}: give one for each clip")
        numbers: dict[Hashable, int] = {}
        group = np.array([numbers.setdefault(name, len(numbers)) for name in groups], dtype=np.int64)
        return cls(group, np.bincount(group).astype(np.float64), grouped=True)

    @property
    def count(self) -> int:
        """G: how many draws there were."""
        return len(self.sizes)

    @property
    def alone(self) -> bool:
        """True if every clip was drawn by itself."""
        return self.count == len(self.group)

    @property
    def effective(self) -> float:
        """The number of equal groups worth as much (Kish 1965): smaller, where a few groups hold most clips."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum()) if self.count else 0.0

    @property
    def enough(self) -> bool:
        """True if there can be an interval: there is a clip, and two groups at least if groups were given."""
        return self.count > (1 if self.grouped else 0)

    @property
    def label(self) -> int | None:
        """The number of groups, where there are any."""
        return self.count if self.grouped else None

    def spread(self, values: Floats) -> tuple[float, float]:
        """The variance of the mean of a number per clip, and the degrees of freedom of that estimate.

        Clips by themselves: the variance over n, with n - 1 degrees. Groups: the jackknife over groups, but no less
        than clips by themselves would give, with as many degrees as the groups are worth, less one. Where the jackknife
        is larger, degrees are also at most those of Satterthwaite (1946), from the kurtosis of the groups' residuals
        beyond what the clips' own accounts for: where few groups decide the variance, they are few.

        Args:
            values: (N,), with two groups at least.
        """
        n = len(values)
        apart = values - values.mean()
        squares = float((apart**2).sum())
        independent = squares / n**2
        if self.alone:
            return independent, float(max(n - 1, 1))
        residuals = np.bincount(self.group, apart, self.count) / (1 - self.sizes / n)
        jackknife = (self.count - 1) / self.count * float((residuals**2).sum()) / n**2
        most = max(1.0, self.effective - 1)
        if jackknife <= independent:
            return independent, most
        # A group is worth n / count clips over the design effect, and the kurtosis of their sum falls by as much.
        excess = (n * float((apart**4).sum()) / squares**2 - 3) * self.effective / n * jackknife / independent
        kurtosis = self.count * float((residuals**4).sum()) / float((residuals**2).sum()) ** 2 - max(0.0, excess)
        return jackknife, max(1.0, min(most, 2 * self.count / max(kurtosis - 1, 1e-9)))

    def least(self, values: Floats) -> float:
        """A lower bound on the variance of the mean of a number per clip, however alike groups have come out.

        The variance of clips by themselves, and a part between groups: the one that is seen, pulled towards that of
        groups whose clips all agree as if `PULL` groups had been seen beside those that the rarer outcome would fill.
        A rare outcome that was seen twice, in two groups, says next to nothing of how it clusters, and the jackknife
        takes it for two independent clips; one that was never seen leaves as many outcomes as groups are worth. The
        pull was chosen by simulation (`benchmarks/intervals.py`).

        Args:
            values: (N,) in [0, 1], or in [-1, 1] where 0 is that nothing differs; not all the same.
        """
        n = len(values)
        apart = values - values.mean()
        independent = float((apart**2).sum()) / n**2
        between = float((np.bincount(self.group, apart, self.count) ** 2).sum()) / n**2 - independent
        whole = independent * (n / self.effective - 1)
        share = float(np.abs(values).mean())
        filled = self.effective * min(share, 1 - share)
        return independent + (filled * between + PULL * whole) / (filled + PULL)

    def outcomes_variance(self, values: Floats, confidence: float) -> float:
        """The variance of the mean that goes with the normal quantile: `spread` by Student's, and `least`.

        Args:
            values: (N,) as for `least`; of two groups at least.
            confidence: of the interval, e.g. 0.95.
        """
        variance, degrees = self.spread(values)
        if self.alone:
            return variance
        return max(variance * (student(confidence, degrees) / student(confidence, inf)) ** 2, self.least(values))


def student(confidence: float, degrees: float) -> float:
    """The quantile of Student's distribution that a two-sided interval reaches to; infinite degrees: the normal one."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(stdtrit(degrees, upper) if np.isfinite(degrees) else ndtri(upper))
