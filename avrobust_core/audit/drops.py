"""By how much a probe on some of the surviving clips lowers a robust accuracy: what is certain, and what is not."""

from dataclasses import dataclass

CONFIDENCE = 0.99
"""Of the bound on the share of survivors that a probe breaks: many probes are made of many models, and a false alarm
would cost the trust in all of them."""

TOLERATED = 0.02
"""A robust accuracy may be too high by this much: attacks of few steps are, and the interval is wider."""

FEWEST_BROKEN = 3
"""Clips that a probe must break before it speaks against a number."""


@dataclass(frozen=True, slots=True)
class Drop:
    """What a probe found among the clips that an attack had left robust.

    Attributes:
        robust: the robust accuracy that the attack has left.
        survivors: how many clips that is, of those that a probe can be put to.
        probed: how many of them, chosen by a hash of their ids, were probed.
        broken: how many of those the probe broke.
        unseen: how many more are left robust, of other shapes: nothing is known of them, and they count as robust.
    """

    robust: float
    survivors: int
    probed: int
    broken: int
    unseen: int = 0

    @property
    def share(self) -> float:
        """The share of the survivors that the probe breaks: an estimate, if it has not seen all of them."""
        return self._of_all(self.broken / self.probed) if self.probed else 0.0

    @property
    def certain(self) -> float:
        """The smallest share that agrees with what was seen (Clopper and Pearson 1934, one end of `CONFIDENCE`)."""
        if not self.broken:
            return 0.0
        if self.probed >= self.survivors:
            return self.share
        from scipy.stats import beta

        low = float(beta.ppf((1 - CONFIDENCE) / 2, self.broken, self.probed - self.broken + 1))
        # Those that broke are broken, whatever the others do.
        return self._of_all(max(low, self.broken / self.survivors))

    def _of_all(self, share: float) -> float:
        """From a share of those that a probe can be put to."""
        return share * self.survivors / (self.survivors + self.unseen)

    @property
    def expected(self) -> float:
        """The robust accuracy that the probe would leave of all clips, estimated."""
        return self.robust * (1 - self.share)

    @property
    def at_most(self) -> float:
        """The robust accuracy that the probe leaves at most, with the confidence stated."""
        return self.robust * (1 - self.certain)

    @property
    def established(self) -> bool:
        """Whether the number is too high by more than is tolerated, beyond doubt."""
        return self.broken >= FEWEST_BROKEN and self.robust - self.at_most > TOLERATED

    def contradicts(self, low: float) -> bool:
        """Whether even the most that the probe leaves lies below an interval's lower end."""
        return self.established and self.at_most < low

    def figures(self) -> dict[str, float]:
        """For a check."""
        return {
            "survivors": self.survivors,
            "probed": self.probed,
            "broken": self.broken,
            "robust_accuracy": self.robust,
            "expected": self.expected,
            "at_most": self.at_most,
        }
