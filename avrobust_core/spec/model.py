"""The structure of a spec: what may stand where. What a component's `with` may hold, its own configuration says."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from avrobust_core.config.sections import Section
from avrobust_core.data.media import GoalName
from avrobust_core.registry.choices import (
    AttackChoice,
    AugmentationChoice,
    DatasetChoice,
    EncoderChoice,
    FusionChoice,
    MetricChoice,
    TrackerChoice,
)
from avrobust_core.spec.jobs import JobsSection
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.training.settings import Regime

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MAX_NAME = 100
"""Most characters of a name."""

DEFAULT_BATCH_SIZE = 32
"""Clips per forward pass, where a spec does not say how many."""


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: letters, digits, '-' and '_', starting with a letter or digit")
    if len(value) > MAX_NAME:
        raise ValueError(f"a name of {len(value)} characters: at most {MAX_NAME}, since folders are named after it")
    return value


Name = Annotated[str, AfterValidator(_name)]
Word = Annotated[str, Field(min_length=1)]
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000, json_schema_extra={"uniqueItems": True})]
Devices = (
    Annotated[int, Field(ge=1, le=1024)]
    | Literal["auto"]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
)
Values = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Compared = Annotated[list[str], Field(min_length=2, json_schema_extra={"uniqueItems": True})]


def _file(value: Any) -> Any:
    if value == "":
        raise ValueError("the path of a file, or null for none")
    return value


File = Annotated[Path, BeforeValidator(_file)]
Classes = Literal["trusted", "new"] | File


def _need_weights(classes: Path | str | None, weights: Path | None) -> None:
    if classes is not None and weights is None:
        raise ValueError("`classes` says what the classifier in a file of `weights` tells apart, and none is given")


class EncoderEntry(EncoderChoice):
    """An encoder and the modality that it reads."""

    modality: Word | None = None
    """The modality of the data set that it reads; by default the entry's own name."""
    weights: File | None = None
    """A file of weights to start from: safetensors, or one of torch.save, in the encoder's own layout or a published
    one that it knows. A classifier that the file holds becomes the head of a model with this encoder alone, if its
    classes are the data set's by name and order. Relative to the working directory."""
    classes: Classes | None = None
    """What the classifier in that file tells apart, where neither the file nor its layout says it: `trusted`, the data
    set's classes; `new`, others, so that the head starts from initial weights; or a file of their names in order, such
    as AudioSet's class_labels_indices.csv."""

    @model_validator(mode="after")
    def _classes_of_weights(self) -> "EncoderEntry":
        _need_weights(self.classes, self.weights)
        return self


class WindowsEntry(Section):
    """The parts of a clip that a model reads one by one: its answer is the mean of its logits for each.

    They are cut inside the model, in training as in evaluation: an attack perturbs the whole clip, within one budget,
    against the mean.
    """

    count: int = Field(ge=2, le=1000)
    """How many, evenly spaced from the clip's beginning to its end."""
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The length of each: a whole number of samples and of pictures. They may overlap, or leave parts unread. By
    default the clip's length divided by their number, so that they lie one behind another."""


class ModelEntry(Section):
    """A model: which encoders, fused how."""

    encoders: Annotated[list[str], Field(min_length=1)]
    """Names from `encoders`, of different modalities."""
    fusion: FusionChoice | None = None
    """The fusion of them; needed with two encoders or more."""
    windows: WindowsEntry | None = None
    """The windows of a clip whose logits are averaged; null for the clip as it is."""
    weights: File | None = None
    """A file of weights of the whole model to start from: encoders, fusion and head, which is taken as an encoder's."""
    classes: Classes | None = None
    """What the classifier in that file tells apart; as with encoders."""

    @model_validator(mode="after")
    def _classes_of_weights(self) -> "ModelEntry":
        _need_weights(self.classes, self.weights)
        return self


class TrainingEntry(Regime):
    """A training regime, and how clips are learned from."""

    augment: list[AugmentationChoice] = Field(default_factory=list)
    """Augmentations, applied to each batch in this order."""


class AttackEntry(AttackChoice):
    """An attack, the threats under which it is run, and what it wants."""

    threats: list[str] | None = None
    """Names from `threats`; by default all."""
    goal: GoalName = "untargeted"
    """untargeted: any other class; or at a class: the least-likely, the runner-up, one drawn at random for each clip,
    or one and the same class for all clips."""
    target: Word | None = None
    """The class that is aimed at, by its name in the data set; with `goal: class` only."""
    curve: list[Factor] = Field(default_factory=list, max_length=100)
    """Factors of the threats' radii at which robust accuracy is measured beside 1: one sweep, each budget begun where
    the smaller one ended. An attack that looks for the smallest perturbation gives all of it in one run."""
    front: int | None = Field(default=None, ge=3, le=1000)
    """For an attack that looks for the smallest perturbation, under threats of two modalities: also the smallest joint
    budgets along so many ratios of the two radii (the Pareto front)."""

    @model_validator(mode="after")
    def _target_fits(self) -> "AttackEntry":
        if (self.goal == "class") != (self.target is not None):
            raise ValueError("target: belongs to `goal: class`, and `goal: class` needs it")
        return self

    @property
    def factors(self) -> tuple[float, ...]:
        """The factors of the curve, ascending, 1 among them."""
        return tuple(sorted({*self.curve, 1.0}))


class EvaluationSection(Section):
    """The clips that are evaluated, and the intervals."""

    split: Word = "test"
    """The split that is evaluated and attacked."""
    clips: int | None = Field(default=None, ge=1, le=10**9)
    """Evaluate only this many clips, chosen by a hash of their ids; null for all."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of the intervals."""
    resamples: int = Field(default=1000, ge=100, le=1_000_000)
    """Bootstrap resamples over clips."""
    samples: int = Field(default=1, ge=1, le=10_000)
    """Forward passes whose mean logits stand for the model, in attacks and in their check: more than 1 for models with
    randomness of their own (expectation over transformation)."""


class AuditSection(Section):
    """The bounds of the audit: other probes on a few clips, which say whether a number can be believed."""

    clips: int = Field(default=64, ge=1, le=10**9)
    """Clips that each check may look at, chosen by a hash of their ids."""
    share: float = Field(default=0.2, gt=0, le=1000)
    """Its cost at most: this share of the forward and backward passes that the attacks have cost. A pass of the audit
    takes a little longer than one of an attack, since its batches are smaller and a few are in float64."""


class EngineSection(Section):
    """The machine and the precisions. Of these only the two precisions change results."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The kind of device on which models run; auto takes the GPU if there is one."""
    devices: Devices = "auto"
    """Number of devices or processes, or which ones by number from 0; auto takes every GPU there is, or one process on
    CPU."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Precision of training; evaluation always runs in float32."""
    attack_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Precision of the attacks' own passes; what they find is confirmed, and verified, in float32."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = DEFAULT_BATCH_SIZE
    """Clips per forward pass in evaluation and attacks; changes speed and memory, not results. Halved by itself where
    the device's memory does not hold it; auto finds for each fitted model how many the free memory holds, and says
    it."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Processes that read clips, for the whole of a run. Each clip is always read by the same one, and each keeps in
    memory what a data set keeps per process. 0 reads in the main process."""
    batch_timeout: float | None = Field(default=14400, gt=0, le=1e8, allow_inf_nan=False)
    """Seconds that reading, attacking, embedding or learning from one batch may take before it is taken for hanging: it
    is interrupted and recorded as failed, and the run goes on; null for no limit."""
    channels_last: bool | Literal["auto"] = False
    """Keep convolutions in channels-last order: faster for some networks and devices, slower for others (figures are in
    docs/encoders.md); auto measures at the first batch of a fitted model, encoder by encoder, and says what it chose.
    Results differ by rounding alone."""
    compile: bool = False
    """Compile encoders with torch.compile while they are trained: the first steps take seconds to minutes longer, later
    ones may be faster; results differ by rounding alone. For attacks see `attack_compile`."""
    attack_compile: bool | Literal["auto"] = False
    """Compile encoders with torch.compile for the attacks' own passes, which takes seconds to minutes for each model;
    auto measures at the first batch, encoder by encoder, and says what it chose. Predictions, and the check of what
    attacks find, use encoders as they are; results differ by rounding alone."""
    cudnn_benchmark: bool | Literal["auto"] = False
    """On a GPU, let cuDNN search for the fastest algorithm of each convolution, anew for each size of a batch; auto
    measures at the first batch of a fitted model, and says what it chose. Results differ by rounding alone."""
    cells: JobsSection | None = None
    """Send each cell to a job of its own: `local` or `slurm`, or a map with settings; null to carry out one after the
    other here. Results are the same."""

    @property
    def stated_batch_size(self) -> int:
        """`batch_size`, and its default where it is auto: for few clips, and for what is foretold."""
        return DEFAULT_BATCH_SIZE if self.batch_size == "auto" else self.batch_size


class Pattern(Section):
    """Shell patterns on names that select cells; one that is left out matches everything."""

    model: str = "*"
    """Name of the model."""
    training: str = "*"
    """Name of the training regime."""
    attack: str | None = None
    """Name of the attack; if this or `threat` is given, only attacks are trimmed, not whole cells."""
    threat: str | None = None
    """Name of the threat."""


class Comparison(Section):
    """Cells that are compared clip by clip: every two of the models, or of the training regimes, that are listed."""

    # A null is the absence of a list: what is resolved spells it out.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"properties": {name: {"type": "array"}}, "required": [name]} for name in ("models", "training")]
        }
    )

    models: Compared | None = None
    """Names from `models`: compared within each training regime, the earlier minus the later."""
    training: Compared | None = None
    """Names from `training`: compared for each model, the earlier minus the later."""
    question: Word | None = None
    """The question that the comparison answers: the title of its table."""

    @model_validator(mode="after")
    def _one_list(self) -> "Comparison":
        if (self.models is None) == (self.training is None):
            raise ValueError("give either `models` or `training`: what is compared with one another")
        return self


class Sweep(Section):
    """Values that one entry takes in turn: the entry becomes one for each point."""

    # A null is the absence of a map: what is resolved spells it out.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"properties": {name: {"type": "object"}}, "required": [name]} for name in ("matrix", "zip")]
        }
    )

    matrix: Values | None = None
    """By path, as in training.vertex.epochs, the values: every combination of them is a point."""
    zip: Values | None = None
    """By path, the values, lists of one length: the first of each are a point, then the second, and so on."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Sweep":
        if (self.matrix is None) == (self.zip is None):
            raise ValueError("give either `matrix`, for every combination, or `zip`, for one value of each at a time")
        return self


class Spec(Section):
    """A study: data, encoders, models x training regimes x seeds, attacks x threats, metrics."""

    model_config = ConfigDict(populate_by_name=False)  # the seed stands under `seed` alone

    version: Literal[1]
    """The version of this format."""
    name: Name
    """The study's name: its runs lie in runs/<name>."""
    seed_: Seed | Seeds = Field(default=0, alias="seed")
    """Seed of initial weights, training order and attacks; or a list of seeds, each of which gives every model and
    training regime a cell of its own, on the same clips."""
    prefer: list[Word] = Field(default_factory=list)
    """Distributions, the first before the others: where several offer a component of a name, a bare name means theirs.
    Without it, that of avrobust itself, with a warning."""
    data: DatasetChoice
    """The data set."""
    encoders: dict[Name, EncoderEntry] = Field(min_length=1)
    """Encoders by name."""
    models: dict[Name, ModelEntry] = Field(min_length=1)
    """Models by name."""
    training: dict[Name, TrainingEntry] = Field(min_length=1)
    """Training regimes by name."""
    threats: dict[Name, ThreatModel] = Field(default_factory=dict)
    """Threat models by name: for each attacked modality a budget."""
    attacks: dict[Name, AttackEntry] = Field(default_factory=dict)
    """Attacks by name."""
    metrics: list[MetricChoice] = Field(default_factory=list)
    """Metrics measured on every cell."""
    correlate: list[str] = Field(default_factory=list)
    """Attacks and threats, as attack/threat: how far do the metrics, and plain baselines, tell how robust clips,
    classes and models are against them? Rank correlations with intervals."""
    compare: list[Comparison] = Field(default_factory=list)
    """Differences in accuracy, clip by clip, clean and under each attack: with intervals and p-values."""
    sweep: list[Sweep] = Field(default_factory=list)
    """Entries of encoders, models, training, threats or attacks that become several, each with other values."""
    include: list[Pattern] = Field(default_factory=list)
    """If given, only what matches one of these is kept."""
    exclude: list[Pattern] = Field(default_factory=list)
    """Cells and attacks that match one of these are left out."""
    evaluation: EvaluationSection = EvaluationSection()
    """The clips that are evaluated, and the intervals."""
    audit: AuditSection | Literal["off"] = AuditSection()
    """Probes other than the attacks' own, on a few clips of every model, whose verdict stands beside its numbers; `off`
    for none."""
    engine: EngineSection = EngineSection()
    """The machine and the precisions."""
    track: list[TrackerChoice] = Field(default_factory=list)
    """Trackers: told of training curves and results as they come, and of all that is reused. They change neither."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, in the order of the spec."""
        return (self.seed_,) if isinstance(self.seed_, int) else tuple(self.seed_)

    @property
    def seed(self) -> int:
        """The seed, the first if there are several: also that of the resampling by which cells are compared."""
        return self.seeds[0]

    def with_seed(self, seed: int) -> "Spec":
        """The same study with this seed alone."""
        return self.model_copy(update={"seed_": seed})
