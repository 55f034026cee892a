"""Passes of the model, counted and limited: what an audit may cost."""

from avrobust_core.attacks.bound import BoundVictim


class Meter:
    """Forward and backward passes of single clips, spent and left.

    Args:
        limit: how many may be spent.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    @property
    def left(self) -> int:
        """The passes that may still be spent."""
        return max(self.limit - self.spent, 0)

    def part(self, share: float) -> "Meter":
        """A share of the rest, metered by itself; `take` adds what it has spent."""
        return Meter(int(share * self.left))

    def take(self, part: "Meter") -> None:
        """Note what a part has spent."""
        self.spent += part.spent

    def affords(self, cost: int, most: int) -> int:
        """For how many clips of so many passes each there is enough left, at most `most`."""
        return min(most, self.left // max(cost, 1))

    def count(self, bound: BoundVictim) -> None:
        """Note what a bound victim, used here alone, has cost."""
        self.spent += int(bound.queries.sum()) + int(bound.gradients.passes.sum())
