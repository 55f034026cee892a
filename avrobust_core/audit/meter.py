"""Passes of the model, counted and limited: what an audit may cost."""

from avrobust_core.attacks.bound import BoundVictim


class Meter:
    """Forward and backward passes of single clips, spent and left.

    Args:
        limit: how many may be spent.
        whole: the meter that this one is a part of, which counts the same passes.
    """

    def __init__(self, limit: int, whole: "Meter | None" = None) -> None:
        self.limit = limit
        self.spent = 0
        self._whole = whole

    @property
    def left(self) -> int:
        """The passes that may still be spent."""
        return max(self.limit - self.spent, 0)

    def part(self, share: float) -> "Meter":
        """A share of the rest, with a limit of its own."""
        return Meter(int(share * self.left), self)

    def affords(self, cost: int, most: int) -> int:
        """For how many clips of so many passes each there is enough left, at most `most`."""
        return min(most, self.left // max(cost, 1))

    def spend(self, passes: int) -> None:
        """Note passes that were made."""
        self.spent += passes
        if self._whole is not None:
            self._whole.spend(passes)

    def count(self, bound: BoundVictim) -> None:
        """Note what a bound victim, used here alone, has cost."""
        self.spend(int(bound.queries.sum()) + int(bound.gradients.passes.sum()))
