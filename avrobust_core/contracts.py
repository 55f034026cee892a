"""What each kind of component is: the base classes that plugins subclass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from avrobust_core.batches import Clip, Encoded
from avrobust_core.errors import AvrobustError
from avrobust_core.latents import Latents, Wanted
from avrobust_core.media import MediaSpec, Task
from avrobust_core.statistics import Estimate

if TYPE_CHECKING:
    from avrobust_core.probing import Probe
    from avrobust_core.victim import BoundVictim
    from avrobust_core.weights import CheckpointLayout


class Dataset(ABC):
    """Clips with labels, in named splits. It must be picklable: worker processes get a copy.

    Attributes:
        media: what each modality is.
        classes: the class names, in the order of the targets' indices.
        task: whether a clip has one label or several.
        max_unreadable: the share of a split's clips that may fail to load before the run ends with an error.
    """

    media: Mapping[str, MediaSpec]
    classes: tuple[str, ...]
    task: Task
    max_unreadable: float = 0.0

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: "train" and "test" at least; "val" is used for selection where there is one."""

    @abstractmethod
    def ids(self, split: str) -> Sequence[str]:
        """The ids of a split's clips, in order: unique over all splits, known without reading any media."""

    def groups(self, split: str) -> Sequence[str] | None:
        """What each clip of a split was drawn with (a speaker, a source video), in the order of `ids`.

        Clips of one group are no independent draws: intervals then resample groups. None, as here, if every clip stands
        for itself.
        """
        return None

    @abstractmethod
    def read(self, split: str, index: int) -> Clip:
        """Read one clip; deterministic.

        Raises:
            ClipError: if it cannot be read; the loader skips it, counts it and names it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that decides what `read` returns, but not of where it lies: part of every cell's id."""


@dataclass(frozen=True, slots=True)
class EncodedDims:
    """The width of what an encoder returns: `token` is D of tokens (B, T, D), `embed` is E of pooled (B, E)."""

    token: int
    embed: int


class Encoder(nn.Module, ABC):
    """From one modality to tokens and a pooled embedding.

    What has a gradient but is no parameter (log-mel, pixel normalisation) is the `frontend`, so that budgets are
    stated on the raw input.

    Attributes:
        dims: the widths of the tokens and of the pooled embedding.
        frontend: differentiable, from the raw input (B, ...) to features (B, ...).
        time_axis: which axis of one clip's features is time; None if it is not known. Budgets with `space: features`
            that speak of time need it.
        layouts: published layouts of weights that it can read beside its own.
    """

    dims: EncodedDims
    frontend: nn.Module
    time_axis: int | None = None
    layouts: "Sequence[CheckpointLayout]" = ()

    @abstractmethod
    def encode(self, features: Tensor) -> Encoded:
        """From the frontend's features to tokens (B, T, D) and pooled (B, E)."""

    def forward(self, x: Tensor) -> Encoded:
        """From the raw input to tokens and pooled."""
        return self.encode(self.frontend(x))

    def make_head(self, classes: int) -> nn.Module | None:
        """The classifier of a model with this encoder alone, from its tokens (B, T, D) to logits (B, classes).

        None, as here, for a linear map of its pooled embedding.
        """
        return None


class Fusion(nn.Module, ABC):
    """From what the encoders of a model return to one fused embedding.

    Attributes:
        dim: the width F of the fused embedding.
        layouts: published layouts of the weights of whole models with this fusion; they convert to the model's own
            keys: "encoders.<modality>....", "fusion....", "head....".
    """

    dim: int
    layouts: "Sequence[CheckpointLayout]" = ()

    @abstractmethod
    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """From encodings by modality to the fused embedding: (B, F), or (B, L, F) if the head pools it."""

    def make_head(self, classes: int) -> nn.Module:
        """The module from the fused embedding to logits (B, classes); linear unless the fusion needs its own."""
        return nn.Linear(self.dim, classes)


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What an attack returns; the core measures norms, success and queries itself.

    Attributes:
        inputs: the attacked modalities only, each (B, ...), inside its ball; the clean clip where it failed.
        success: (B,) bool: the attack believes that the clip is where its goal wants it.
        trace: (steps, B) loss per step, NaN where a clip was already done; None if it keeps none.
        last: the attacked modalities where the search stood when it ended, inside the region: from there a search
            under a larger budget begins (`BoundVictim.start`); None to begin from `inputs`.
    """

    inputs: Mapping[str, Tensor]
    success: Tensor
    trace: Tensor | None = None
    last: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Preparation:
    """What an attack must see before it attacks: clips of one split, in batches of a size that is the attack's own.

    Attributes:
        split: a split of the data set; None for the one that is attacked.
        batch_size: clips per batch; the results may depend on it, so that it is the attack's and not the engine's.
    """

    split: str | None = None
    batch_size: int = 32


class Attack(ABC):
    """From a bound victim to perturbed inputs.

    Attributes:
        norms: the norms that it can attack in; a spec that asks for another is refused before anything runs.
        minimal: whether it looks for the smallest perturbation that reaches the goal, in the sense of
            `victim.region.size`, and takes the region only as the limit of the search; one run gives the whole curve.
        bounded: False for a corruption (a modality that is removed, say) that takes no notice of the radius: the core
            then reports how far it went, instead of refusing it. Media bounds hold all the same.
        preparation: what it must see before it attacks; None for nothing.
        members: the attacks that it is made of, each with its name: clip by clip it must be at least as strong as each.
    """

    norms: ClassVar[frozenset[str]]
    minimal: bool = False
    bounded: bool = True
    preparation: Preparation | None = None
    members: "Sequence[tuple[str, Attack]]" = ()

    def prepare(self, victims: "Callable[[], Iterator[BoundVictim]]") -> "Attack":
        """The attack, ready to be called; only called where there is a `preparation`.

        Args:
            victims: gives all clips asked for, bound batch by batch; may be called again for another pass.
        """
        raise AvrobustError(
            f"{type(self).__name__} has a preparation, but does not override `prepare`: a plugin's fault"
        )

    @abstractmethod
    def __call__(self, victim: "BoundVictim") -> AttackResult:
        """Attack the clips of `victim`, each by itself: the result for a clip does not depend on its batch mates.

        Random numbers come from `victim.generators(purpose)`. Nothing of the model, of the clean clips or of the
        global random state may be changed.
        """


@dataclass(frozen=True, slots=True)
class Subject:
    """What a metric measures: a model's predictions on one split, clean or under one attack.

    Attributes:
        ids: the clips.
        logits: (N, K) float32; (N, 0) where only embeddings are known: `Metric.predictions` says whether it minds.
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
    probe: "Probe | None" = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a metric found.

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
        tasks: the tasks it is defined for; on others it is left out, and the result says so.
        predictions: whether it reads the logits; a metric that does not can be had for bare embeddings.
        latents: the embeddings that it asks for; the core computes them once for all metrics.
        probes: whether it puts points of its own through the model (`Subject.probe`).
    """

    under_attack: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = frozenset({"single-label", "multi-label"})
    predictions: bool = True
    latents: Sequence[Wanted] = ()
    probes: bool = False

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject."""
