"""When a fit is saved: as often as it should be, and after the same steps in every process."""

import time
from collections.abc import Callable

from lightning_fabric import Fabric

from avrobust_core.training.processes import gathered


class Pauses:
    """Says after which steps a fit is saved: about so many seconds apart.

    Time passes differently in each process, so that all go by the first one's. They ask for it after 1, 2, 4, ... steps
    since the last pause, and once the pace is known, when the time must be over: a few times between two pauses.

    Args:
        fabric: of the fit.
        seconds: between two pauses.
        clock: gives the time in seconds.
    """

    def __init__(self, fabric: Fabric, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.fabric = fabric
        self.seconds = seconds
        self.clock = clock
        self._began = clock()
        self._steps = 0
        self._ask = 1

    def due(self) -> bool:
        """Tell if it is time, after one more step; every process must call it."""
        self._steps += 1
        if self._steps < self._ask and self.fabric.world_size > 1:
            return False
        passed = float(gathered(self.fabric, self.clock() - self._began)[0])
        if passed > self.seconds:
            self._began, self._steps, self._ask = self.clock(), 0, max(1, self._steps // 8)
            return True
        enough = int(self._steps * self.seconds / max(passed, 1e-9)) + 1
        self._ask = max(self._steps + 1, min(2 * self._steps, enough))
        return False
