"""Event files for TensorBoard, by torch's own writer: a folder for each cell, written anew by each command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avrobust_core import AvrobustError, Estimate, TrackedCell, TrackedRun, Tracker
from avrobust_tracking.configs import TensorboardConfig
from avrobust_tracking.flat import flat_settings, with_ends

EVENTS = "events.out.tfevents.*"
"""The names that TensorBoard gives its files."""


class Tensorboard(Tracker):
    """Writes curves, results and hyperparameters of each cell to FOLDER/STUDY/MODEL-TRAINING-seedSEED-ID.

    The core tells all of a cell in every command, so the event files of an earlier one are replaced. Results stand at
    the step of the last epoch.

    Args:
        config: where.

    Raises:
        AvrobustError: if the package tensorboard is not installed.
    """

    def __init__(self, config: TensorboardConfig) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise AvrobustError(
                f"tensorboard needs the package of that name ({error}): pip install 'avrobust[tensorboard]'"
            ) from error
        self._open: type[Any] = SummaryWriter
        self._given = config.folder
        self._folder = Path()
        self._writer: Any = None
        self._settings: Mapping[str, Any] = {}
        self._step = 0

    def begin(self, run: TrackedRun) -> None:
        self._folder = run.folder / "tensorboard" if self._given is None else self._given / run.name

    def cell(self, cell: TrackedCell) -> None:
        self.close()
        folder = self._folder / f"{cell.model}-{cell.training}-seed{cell.seed}-{cell.id}"
        for earlier in folder.glob(EVENTS):
            earlier.unlink()
        self._writer = self._open(str(folder))
        self._settings, self._step = cell.settings, 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._step = step
        self._writer.flush()

    def result(self, values: Mapping[str, Estimate]) -> None:
        # Into the cell's own folder: by default add_hparams makes another one, named after the time.
        settings, found = flat_settings(self._settings), dict(with_ends(values))
        self._writer.add_hparams(settings, found, run_name=".", global_step=self._step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
