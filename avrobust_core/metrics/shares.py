"""The processes of a run that compute a metric together: each its share, and all of them what was found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from avrobust_core.errors import AvrobustError


@dataclass(frozen=True, slots=True)
class _Failed:
    """Sent instead of what others wait for."""

    message: str


class _TheirFailure(AvrobustError):
    """Raised for what another process has sent instead."""


@dataclass(frozen=True, slots=True)
class Shares:
    """This process's place among those that compute a metric together; by default it is alone.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        exchange: from this process's object to those of all, in the order of their ranks; every process must call it.
    """

    rank: int = 0
    world: int = 1
    exchange: Callable[[Any], list[Any]] = lambda mine: [mine]

    def gather(self, mine: Any) -> list[Any]:
        """The objects of all processes, in the order of their ranks; each must call it as often as the others.

        Raises:
            AvrobustError: if another process has failed meanwhile.
        """
        found = self.exchange(mine)
        for rank, theirs in enumerate(found):
            if isinstance(theirs, _Failed):
                raise _TheirFailure(f"process {rank + 1} of {self.world} failed at its share: {theirs.message}")
        return found

    def slice_of(self, count: int) -> slice:
        """This process's part of so many things in order."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def together(self, work: Callable[[], Any]) -> Any:
        """Do work that gathers; where it fails in one process, it fails in all, and nobody waits for anybody.

        Raises:
            Exception: what `work` raises; AvrobustError where that is another process's.
        """
        try:
            found = work()
        except _TheirFailure:
            raise
        except Exception as error:
            self.exchange(_Failed(f"{type(error).__name__}: {error}"))
            raise
        self.gather(None)
        return found
