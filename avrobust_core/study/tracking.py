"""Telling a study's trackers what it finds. One that fails is named once, and left out; the run goes on."""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avrobust_core.blame import place_of, sentence
from avrobust_core.deadline import limited
from avrobust_core.errors import AvrobustError, AvrobustWarning
from avrobust_core.evaluation.failures import interruption
from avrobust_core.registry.choices import Configured
from avrobust_core.statistics.intervals import Estimate
from avrobust_core.study.plan import PlannedCell
from avrobust_core.tracking.tracker import TrackedCell, TrackedRun, Tracker
from avrobust_core.training.fit import HISTORY, Row

_VALIDATION = "validation_"


class Tracking:
    """The trackers of a run, in the process that speaks for all; those of the other processes are told nothing.

    Args:
        run: what they are told of it; None where nothing is tracked.
        asked: the trackers that the spec names; none in the other processes.
    """

    def __init__(self, run: TrackedRun | None = None, asked: Iterable[Configured] = ()) -> None:
        self._spec: Mapping[str, Any] = {} if run is None else run.spec
        self._trackers: list[tuple[Configured, Tracker]] = []
        if run is None:
            return
        for choice in asked:
            with self._guarded(choice):
                tracker: Tracker = choice.build()
                tracker.begin(run)
                self._trackers.append((choice, tracker))

    def cell(self, cell: PlannedCell) -> None:
        """Begin a cell."""
        if self._trackers:
            told = TrackedCell(cell.id, cell.model, cell.training, cell.seed, self._settings(cell))
            self._tell(lambda tracker: tracker.cell(told))

    def epoch(self, row: Row) -> None:
        """Tell of an epoch of the cell's fit."""
        values = scalars_of(row)
        self._tell(lambda tracker: tracker.scalars(row["epoch"], values))

    def history(self, folder: Path) -> None:
        """Tell of all epochs of a fit that an earlier command has made.

        Args:
            folder: the cell's.
        """
        if self._trackers:
            for row in _rows(folder / HISTORY):
                self.epoch(row)

    def result(self, result: Mapping[str, Any]) -> None:
        """Tell of a cell's result, as result.json has it; of none of a cell that failed."""
        if "error" not in result:
            values = results_of(result)
            self._tell(lambda tracker: tracker.result(values))

    def close(self) -> None:
        """End the run."""
        self._tell(lambda tracker: tracker.close())
        self._trackers.clear()

    def _settings(self, cell: PlannedCell) -> dict[str, Any]:
        spec = self._spec
        model = spec["models"][cell.model]
        return {
            "seed": cell.seed,
            "data": spec["data"],
            "model": model,
            "encoders": {name: spec["encoders"][name] for name in model["encoders"]},
            "training": spec["training"][cell.training],
        }

    def _tell(self, what: Callable[[Tracker], object]) -> None:
        for choice, tracker in list(self._trackers):
            with self._guarded(choice):
                what(tracker)

    @contextmanager
    def _guarded(self, choice: Configured) -> Iterator[None]:
        """Leave a tracker out that fails or hangs, sys.exit of it too, and say so."""
        entry = choice.entry
        who = f"tracker {entry.full_name} (plugin {entry.plugin!r} of {entry.distribution})"
        try:
            with limited(self._spec["engine"]["batch_timeout"], lambda: who):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  sys.exit of a plugin, too, must not end the run
            interrupt = interruption(error)
            if interrupt is not None:
                raise interrupt from None
            self._trackers = [each for each in self._trackers if each[0] is not choice]
            # Of what ends programs the sentence has the place already; our own errors need none.
            foreign = isinstance(error, Exception) and not isinstance(error, AvrobustError)
            place = place_of(error) if foreign else None
            warnings.warn(
                f"{who} failed, and is told nothing more: {sentence(error)}{f' ({place})' if place else ''}. The run "
                "goes on; the same command tells it all of it once that is mended",
                AvrobustWarning,
                stacklevel=2,
            )


def scalars_of(row: Row) -> dict[str, float]:
    """The numbers of an epoch by the names that trackers are told."""
    return {
        f"validation/{name.removeprefix(_VALIDATION)}" if name.startswith(_VALIDATION) else f"training/{name}": value
        for name, value in row.items()
        if name != "epoch" and isinstance(value, int | float)
    }


def results_of(result: Mapping[str, Any]) -> dict[str, Estimate]:
    """The numbers of a cell's result by the names that trackers are told; those that could not be had are left out."""
    found = {"clean accuracy": result["clean_accuracy"]}
    for section in ("robust_accuracy", "attack_success_rate"):
        for attack, threats in result[section].items():
            found |= {f"{section.replace('_', ' ')}/{attack}/{threat}": entry for threat, entry in threats.items()}
    found |= {f"worst case/{threat}": entry for threat, entry in result["worst_case"].items()}
    for entry in result["metrics"]:
        where = "" if entry["attack"] is None else f"/{entry['attack']}/{entry['threat']}"
        for name, value in entry.get("values", {}).items():
            found[_untaken(entry["metric"], f"/{name}{where}", found)] = value
    return {name: _estimate(entry) for name, entry in found.items() if entry["value"] is not None}


def _untaken(metric: str, of: str, taken: Mapping[str, object]) -> str:
    """The name of a metric's value; a metric that stands in the spec again, otherwise configured, is numbered."""
    numbered = (metric, *(f"{metric} {number}" for number in range(2, len(taken) + 3)))
    return next(name + of for name in numbered if name + of not in taken)


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    low, high = (math.nan if entry[end] is None else entry[end] for end in ("low", "high"))
    return Estimate(entry["value"], low, high, entry["n"], entry["method"], entry.get("groups"))


def _rows(path: Path) -> Sequence[Row]:
    """The rows of a history; none of one that cannot be read: it is no result, and must not end a run."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if all(isinstance(row, dict) and isinstance(row["epoch"], int) for row in rows):
            return rows
        reason = "a line of it is not that of an epoch"
    except (OSError, ValueError, LookupError) as error:
        reason = sentence(error)
    warnings.warn(f"{path}: {reason}; the trackers are not told of its epochs", AvrobustWarning, stacklevel=2)
    return []
