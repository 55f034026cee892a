"""Runs in MLflow: one for each cell, found again by the cell's id and the folder of avrobust's run."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from avrobust_core import AvrobustError, Estimate, TrackedCell, TrackedRun, Tracker
from avrobust_tracking.configs import MlflowConfig
from avrobust_tracking.flat import flat_settings, with_ends

CELL, FOLDER = "avrobust.cell", "avrobust.folder"
"""The tags by which a cell's run is found again."""

_AT_ONCE = 100
"""Parameters in one request: what MLflow takes."""

_LONGEST = 500
"""Characters of a parameter's value that every version of MLflow takes."""

T = TypeVar("T")


class Mlflow(Tracker):
    """Logs curves, results and hyperparameters of each cell to an MLflow run of its own.

    The core tells all of a cell in every command. What the cell's run has already, from an earlier command, is not
    logged again. Results stand at step 0.

    Args:
        config: where.

    Raises:
        AvrobustError: if MLflow, or what it needs for a database, is not installed.
    """

    def __init__(self, config: MlflowConfig) -> None:
        # It sends what it is used for to its makers unless it is told not to; a study's settings are nobody's affair.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import alembic
            import mlflow
            import sqlalchemy
        except ImportError as error:
            raise AvrobustError(
                f"mlflow needs packages that are not installed ({error}): pip install 'avrobust[mlflow]'"
            ) from error
        del alembic, sqlalchemy  # which MLflow imports itself, with another error
        self._mlflow: Any = mlflow
        self._config = config
        self._client: Any = None
        self._experiment = self._folder = self._run = ""
        self._known: dict[str, dict[int, float]] = {}

    def begin(self, run: TrackedRun) -> None:
        self._folder = str(run.folder.resolve())
        uri = self._config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder}/mlflow.db"
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        name = self._config.experiment or run.name
        found = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id

    def cell(self, cell: TrackedCell) -> None:
        self.close()
        tags = {CELL: cell.id, FOLDER: self._folder}
        alike = self._client.search_runs([self._experiment], f"tags.`{CELL}` = '{cell.id}'")
        found = [run for run in alike if run.data.tags.get(FOLDER) == self._folder]
        run = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=cell.label)
        self._run = run.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        self._known = {name: self._logged(name) for name in run.data.metrics}
        param = self._mlflow.entities.Param
        settings = flat_settings(cell.settings)
        new = [param(_key(name), str(value)[:_LONGEST]) for name, value in settings.items()]
        for some in _in_parts([each for each in new if each.key not in run.data.params]):
            self._client.log_batch(self._run, params=some)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(values, step)

    def result(self, values: Mapping[str, Estimate]) -> None:
        self._log(dict(with_ends(values)), 0)
        self._client.set_terminated(self._run)
        self._run = ""

    def close(self) -> None:
        if self._run:  # without a result: it failed, or was stopped
            self._client.set_terminated(self._run, status="KILLED")
            self._run = ""

    def _logged(self, name: str) -> dict[int, float]:
        """The values of a metric by their steps, the latest where there are several."""
        return {entry.step: entry.value for entry in self._client.get_metric_history(self._run, name)}

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        named = {_key(name): float(value) for name, value in values.items()}
        new = {key: value for key, value in named.items() if self._known.get(key, {}).get(step) != value}
        for some in _in_parts([metric(key, value, now, step) for key, value in new.items()]):
            self._client.log_batch(self._run, metrics=some)


def _in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE))


def _key(name: str) -> str:
    """The name with signs alone that every version of MLflow takes."""
    return re.sub(r"[^-/\w. ]", "_", name)
