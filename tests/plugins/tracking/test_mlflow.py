"""Runs in MLflow, read back by its own client: each epoch and result once, however often a run was begun."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from avrobust_tracking.configs import MlflowConfig
from avrobust_tracking.mlflow_runs import Mlflow

from avrobust_core import AvrobustError, Estimate, TrackedCell, TrackedRun

SETTINGS = {"seed": 0, "training": {"epochs": 2, "augment": ["mixup"]}, "data": {"path": "x" * 9000}}
CELL = TrackedCell("0123456789abcdef", "concat", "standard", 0, SETTINGS)
RESULT = {
    "robust accuracy/pgd/both": Estimate(0.25, 0.125, 0.5, 20, "clopper-pearson"),
    "accuracy/hit@1": Estimate(0.5, math.nan, math.nan, 20, "none"),
}


def tell(folder: Path, epochs: int, *, result: bool) -> None:
    """A command of a run, as far as it came: two cells, of which the second gets no result."""
    tracker = Mlflow(MlflowConfig())
    tracker.begin(TrackedRun("study", folder, {}))
    for cell in (CELL, replace(CELL, id="f" * 16, training="mixup")):
        tracker.cell(cell)
        for epoch in range(1, epochs + 1):
            tracker.scalars(epoch, {"training/loss": 1 / epoch})
        if result and cell is CELL:
            tracker.result(RESULT)
    tracker.close()


@pytest.mark.slow
def test_each_epoch_and_result_stands_once_after_a_stop_and_a_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="what the extra mlflow asks for is not installed: it is no part of `test`")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tell(tmp_path, 1, result=False)
    for _ in range(2):
        tell(tmp_path, 2, result=True)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"concat/standard, seed 0", "concat/mixup, seed 0"}
    done, other = runs["concat/standard, seed 0"], runs["concat/mixup, seed 0"]
    assert (done.info.status, other.info.status) == ("FINISHED", "KILLED")
    for run in (done, other):
        history = client.get_metric_history(run.info.run_id, "training/loss")
        assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 0.5)]
    assert done.data.metrics == {
        "training/loss": 0.5,
        "robust accuracy/pgd/both": 0.25,
        "robust accuracy/pgd/both low": 0.125,
        "robust accuracy/pgd/both high": 0.5,
        "accuracy/hit_1": 0.5,
    }
    (point,) = client.get_metric_history(done.info.run_id, "robust accuracy/pgd/both")
    assert (point.step, point.value) == (0, 0.25)
    assert done.data.params["training.epochs"] == "2"
    assert done.data.params["training.augment"] == '["mixup"]'
    assert done.data.params["data.path"] == "x" * 500


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(AvrobustError, match=r"pip install 'avrobust\[mlflow\]'"):
        Mlflow(MlflowConfig())
