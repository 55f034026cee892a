"""Passes through the model that an attack takes: stated beforehand, from its steps and restarts alone."""

from dataclasses import dataclass, replace
from typing import Self

from avrobust_core.data.media import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """What decides how many passes an attack takes of a clip, beside its own configuration.

    Attributes:
        classes: K.
        task: one label per clip, or several.
        norms: of the threat's budgets.
        targeted: whether the goal is a class.
        started: whether there is a point to begin from, where a search under a smaller budget ended.
        repeatable: whether two looks at one point agree (`samples` is 1).
        exact: whether the attack computes in float32.
    """

    classes: int
    task: Task
    norms: frozenset[str]
    targeted: bool = False
    started: bool = False
    repeatable: bool = True
    exact: bool = True

    @property
    def settles(self) -> bool:
        """True if a clip is done at its first success: see `BoundVictim.settles`."""
        return self.task == "single-label" and self.repeatable

    def begun(self) -> Self:
        """The same, with a point to begin from."""
        return replace(self, started=True)


@dataclass(frozen=True, slots=True)
class Passes:
    """Passes of one clip through the model: at most so many, or exactly.

    Of a model with randomness of its own each counts as one, however many `samples` it takes.

    Attributes:
        forwards: with and without gradients.
        backwards: each belongs to one of the forwards, or to one of the same again.
        exact: whether every clip takes so many; False for a bound, where work on some clips stops early.
    """

    forwards: int = 0
    backwards: int = 0
    exact: bool = True

    def __add__(self, other: "Passes") -> "Passes":
        """Both, one after the other."""
        return Passes(
            self.forwards + other.forwards, self.backwards + other.backwards, exact=self.exact and other.exact
        )

    def times(self, count: int) -> "Passes":
        """The same so many times."""
        return Passes(self.forwards * count, self.backwards * count, exact=self.exact)


NO_PASSES = Passes()
