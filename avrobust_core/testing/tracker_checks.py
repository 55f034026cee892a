"""Checks of trackers: what they must take, again and again, and what they must leave alone."""

from __future__ import annotations

import copy
import io
import math
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from avrobust_core.errors import AvrobustError
from avrobust_core.registry.loading import one_line
from avrobust_core.statistics.intervals import Estimate
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.independence_checks import global_state, refuse_moved, seeded_globals
from avrobust_core.testing.running import CheckFailed, NotApplicable
from avrobust_core.tracking.tracker import TrackedCell, TrackedRun

_CELLS = tuple(
    TrackedCell(
        16 * str(number), "concat", "standard", number, {"training": {"epochs": 2, "augment": []}, "data": None}
    )
    for number in range(2)
)
_EPOCH = {"training/loss": 0.5, "training/learning_rate": 1e-3, "validation/loss": math.nan}
_RESULT = {
    "clean accuracy": Estimate(0.9, 0.8, 1.0, 20, "clopper-pearson"),
    "accuracy/hit@1": Estimate(0.5, math.nan, math.nan, 20, "none"),
    "robust accuracy/pgd/both": Estimate(0.1, 0.0, 0.2, 20, "clopper-pearson"),
}


def check_takes_a_run_again(subject: ComponentSubject) -> None:
    """It takes all of a run, one cell without a result and numbers that are NaN, and then the same run once more."""
    with tempfile.TemporaryDirectory() as folder:
        for how in ("", " that it was told of before"):
            _told(subject, Path(folder), how)


def check_prints_nothing(subject: ComponentSubject) -> None:
    """It prints nothing to standard output, which is the command's own."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(said):
        _told(subject, Path(folder))
    if said.getvalue():
        raise CheckFailed(
            f"it prints {said.getvalue().strip()[:80]!r} to standard output, among the tables of the run: log it, or "
            "leave it out"
        )


def check_leaves_the_random_states(subject: ComponentSubject) -> None:
    """It leaves the global random states of Python, numpy and torch, and global settings, as they are."""
    with seeded_globals() as seeds:
        for _ in seeds:  # one of which a tracker may set itself
            before = global_state()
            with tempfile.TemporaryDirectory() as folder:
                _told(subject, Path(folder))
            refuse_moved(before, "use a generator of its own")


def check_leaves_what_it_is_told(subject: ComponentSubject) -> None:
    """It leaves the settings, curves and results that it is told of as they are."""
    with tempfile.TemporaryDirectory() as folder:
        story = _Story(Path(folder))
        before = repr(story)  # in which NaN is the same as NaN
        _told(subject, Path(folder), story=story)
    if repr(story) != before:
        raise CheckFailed("it changed what it was told of, with which the run goes on: work on a copy")


class _Story:
    """All that a tracker is told of a run."""

    def __init__(self, folder: Path) -> None:
        self.run = TrackedRun("study", folder, {"name": "study", "training": {"standard": {"epochs": 2}}})
        self.cells = copy.deepcopy(_CELLS)
        self.epoch = dict(_EPOCH)
        self.result = dict(_RESULT)

    def __repr__(self) -> str:
        return repr(vars(self))


def _told(subject: ComponentSubject, folder: Path, how: str = "", story: _Story | None = None) -> None:
    """Tell a tracker, made anew, of a run: of its second cell the result, too.

    Raises:
        CheckFailed: if it raises.
        NotApplicable: if it refuses: it needs a server that is not here.
    """
    tracker = subject.build()
    story = story or _Story(folder)
    try:
        tracker.begin(story.run)
        for number, cell in enumerate(story.cells):
            tracker.cell(cell)
            for epoch in (1, 2):
                tracker.scalars(epoch, story.epoch)
            if number:
                tracker.result(story.result)
        tracker.close()
    except AvrobustError as error:
        raise NotApplicable(f"it refuses the run: {error}") from error
    except Exception as error:
        raise CheckFailed(f"told of a run{how} it raised {one_line(error)}: a run would go on without it") from error
