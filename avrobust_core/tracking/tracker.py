"""What plugins subclass to hand training curves and results on to a tool, and what such a tracker is told of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avrobust_core.statistics.intervals import Estimate


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run that is tracked.

    Attributes:
        name: of the study.
        folder: of the run; a tracker may keep a folder or a file of its own name in it.
        spec: the study with every default spelled out, as JSON data.
    """

    name: str
    folder: Path
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrackedCell:
    """A cell of a run: a model under a training regime, from one seed.

    Attributes:
        id: a hash of all that decides its weights.
        model, training: names in the spec.
        seed: of all that is drawn at random.
        settings: its hyperparameters, as JSON data: `seed`, `data`, `model`, `encoders` and `training`, as the spec
            says them.
    """

    id: str
    model: str
    training: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: "concat/standard, seed 0"."""
        return f"{self.model}/{self.training}, seed {self.seed}"


class Tracker(ABC):
    """Hands what a run finds on to a tool that shows it. It changes nothing of the run.

    The first process of a run calls `begin`, then for each cell `cell`, `scalars` for each epoch, and `result`; at the
    end, and when the run is stopped, `close`. Every command tells all of a cell, also the epochs and results that an
    earlier command has found: a tracker replaces what it holds of the same cell of the same folder, or passes over it,
    so that a run that was stopped, or is carried out again, stands there once.

    What a method raises is said once, and the tracker is told nothing more; the run goes on.
    """

    def begin(self, run: TrackedRun) -> None:  # noqa: B027  not every tracker needs it
        """Begin a run."""

    @abstractmethod
    def cell(self, cell: TrackedCell) -> None:
        """Begin a cell: what follows is of it."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take up one epoch of the cell's fit.

        Args:
            step: the epoch, from 1.
            values: by name: "training/loss", "training/accuracy", "training/learning_rate", "training/seconds",
                "validation/loss", ...; some may be NaN.
        """

    @abstractmethod
    def result(self, values: Mapping[str, Estimate]) -> None:
        """Take up the cell's results; not called for a cell that failed.

        Args:
            values: by name: "clean accuracy", "robust accuracy/ATTACK/THREAT", "attack success rate/ATTACK/THREAT",
                "worst case/THREAT", "METRIC/VALUE" of clean clips and "METRIC/VALUE/ATTACK/THREAT" of attacked ones;
                shares from 0 to 1. The ends of an interval may be NaN.
        """

    def close(self) -> None:  # noqa: B027  not every tracker needs it
        """End the run: write what is still held back."""
