"""The trackers' configurations."""

from pathlib import Path

from pydantic import Field

from avrobust_core import Config


class TensorboardConfig(Config):
    """Configuration of `tensorboard`."""

    folder: Path | None = None
    """Where the event files go, each cell's in a folder of its own below the study's name; by default the folder
    `tensorboard` of the run."""


class MlflowConfig(Config):
    """Configuration of `mlflow`."""

    uri: str | None = Field(default=None, min_length=1)
    """A server, or a database as sqlite:///FILE; by default what MLFLOW_TRACKING_URI says, or else the file `mlflow.db`
    in the run's folder, for which no server is needed."""
    experiment: str | None = Field(default=None, min_length=1)
    """The experiment that the cells' runs belong to; by default the study's name."""
