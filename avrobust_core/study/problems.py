"""Failures outside of the cells' own results: each is noted once, and the run goes on."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from avrobust_core.evaluation.failures import Failure, recorded
from avrobust_core.files import write_json
from avrobust_core.study.console import Monitor


class Problems:
    """The problems of a run.

    Args:
        monitor: shows each of them.

    Attributes:
        found: as JSON data: the `step` that failed, and its failure.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.found: list[dict[str, Any]] = []

    def noted(self, step: str) -> AbstractContextManager[None]:
        """Note what fails inside, once, and go on."""

        def keep(failure: Failure) -> None:
            if failure["message"] not in [problem["message"] for problem in self.found]:
                self.monitor.say(f"{step} failed: {failure['message']}")
                self.found.append({"step": step, **failure})

        return recorded(keep)

    def take_in(self, found: Iterable[dict[str, Any]]) -> None:
        """Take in what another process has found and shown."""
        known = [problem["message"] for problem in self.found]
        self.found += [problem for problem in found if problem["message"] not in known]

    def write(self, path: Path, data: object) -> None:
        """Write JSON; a failure is noted, since the run still prints what it has found at its end."""
        with self.noted("writing"):
            write_json(path, data)
