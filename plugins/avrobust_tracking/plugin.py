"""The plugin `tracking`: what shows training curves and results of runs elsewhere."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_tracking.configs import MlflowConfig, TensorboardConfig


@hookimpl
def avrobust_trackers() -> Iterator[Component]:
    """TensorBoard and MLflow."""
    yield Component(
        name="tensorboard",
        summary="Event files for TensorBoard: curves of training, results with intervals, hyperparameters.",
        config=TensorboardConfig,
        build="avrobust_tracking.event_files:Tensorboard",
        references=("https://www.tensorflow.org/tensorboard",),
        extras=("tensorboard",),
        requires=("tensorboard",),
    )
    yield Component(
        name="mlflow",
        summary="Runs in MLflow, one for each cell: curves of training, results with intervals, hyperparameters.",
        config=MlflowConfig,
        build="avrobust_tracking.mlflow_runs:Mlflow",
        references=("https://mlflow.org",),
        extras=("mlflow",),
        requires=("mlflow",),
    )
