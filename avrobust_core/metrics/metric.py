"""Metrics: the base class that plugins subclass, its subject, and its findings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from avrobust_core.data.media import Task
from avrobust_core.metrics.latents import LatentRequest, Latents
from avrobust_core.metrics.probe import Probe
from avrobust_core.metrics.shares import Shares
from avrobust_core.statistics.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a metric: a model's predictions on one split, clean or under one attack.

    Attributes:
        ids: the clips.
        logits: (N, K) float32, finite; (N, 0) where only embeddings are known: `Metric.predictions` says whether it
            minds.
        targets: (N,) int64, or (N, K) float32 multi-hot.
        classes: K names.
        task: decides what `targets` is.
        confidence: of the intervals, e.g. 0.95.
        resamples: how many bootstrap resamples.
        seed: of the bootstrap.
        groups: what each clip was drawn with, in the order of `ids`; None if every clip stands for itself. Intervals
            are over groups where there are any: `bootstrap` and `share` take them.
        split: the name of the split that is evaluated.
        latents: by split, what the metric asked for (`Metric.latents`), of the clean clips; those of `split` are in the
            order of `ids`.
        probe: the model; None where the metric did not ask for it, or where there are only embeddings.
        shares: the processes that compute the metric together, where it is `shared`; else one alone.
    """

    ids: tuple[str, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    groups: Sequence[str] | None = None
    split: str = "test"
    latents: Mapping[str, Latents] = field(default_factory=dict)
    probe: Probe | None = None
    shares: Shares = field(default_factory=Shares)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The findings of a metric.

    Attributes:
        values: by name, e.g. "top-1", "map"; each with an interval.
        per_class: by name, then by class; NaN where a class has no clip to measure.
        per_clip: by name, (N,) float in the order of the subject's ids; NaN where a clip has no value.
        details: what a reader must know to trust the values, as JSON data: how it was computed, what was left out.
            "notes", a list of sentences, stand below the table of metrics, too.
    """

    values: Mapping[str, Estimate]
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_clip: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """From predictions, or from the latent space, to numbers with intervals.

    Attributes:
        under_attack: measured again on the predictions under each attack, not only on the clean ones.
        shared: whether every process of a run computes it, each a share of what takes long (`Subject.shares`), and all
            come to the same; otherwise the first one does, while the others wait.
        tasks: the tasks it is defined for; on others it is left out, and the result says so.
        predictions: whether it reads the logits; a metric that does not can be had for bare embeddings.
        latents: the embeddings that it asks for; the core computes them once for all metrics.
        probes: whether it puts points of its own through the model (`Subject.probe`).
        layers: the layers that it looks at by name (`Probe.outputs`); a study refuses one that none of its models has
            before anything is fitted. A model without one is the metric's to leave out, since others may have it.
    """

    under_attack: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = frozenset({"single-label", "multi-label"})
    predictions: bool = True
    latents: Sequence[LatentRequest] = ()
    probes: bool = False
    layers: Sequence[str] = ()

    def seconds(self, clips: Mapping[str, int], widths: Mapping[str, int], evaluated: str) -> float | None:
        """The seconds that measuring one subject is expected to take on this machine; passes are not among them.

        None, as here, where it cannot be told beforehand: `avrobust plan --cost` then leaves it out.

        Args:
            clips: of each split whose latents it asks for.
            widths: of each layer that the model has, by its name in `Latents.layers`: numbers per clip and position.
            evaluated: the split that is evaluated.
        """
        return None

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject."""
