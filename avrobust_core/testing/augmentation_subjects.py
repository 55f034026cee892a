"""The subject of checks of augmentations: one that can be made anew, and training for it to be part of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cache, partial
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import one_hot

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import AvrobustError
from avrobust_core.models.model import AVModel
from avrobust_core.randomness import clip_generator, derive_seed
from avrobust_core.registry.loading import one_line
from avrobust_core.testing.oracles import LinearOracle
from avrobust_core.testing.running import CheckFailed, NotApplicable, Renewable
from avrobust_core.training.augmentations import Augmentation, AugmentedStep, Gather, TrainingStep
from avrobust_core.training.costs import Cost, counting
from avrobust_core.training.learner import Learned, Learner
from avrobust_core.training.mixing import soft_targets
from avrobust_core.training.processes import share_of

CLIPS = 26
IDS = tuple(f"clip-{i:02d}" for i in range(CLIPS))
CLASSES = 4
BATCH_SIZE = 8
"""The last batch of an epoch has two clips."""


Watch = Callable[..., Any]
"""Called in place of a method of an augmentation, or of its part in a pass, with the method and its arguments: it calls
the method, looks before and after, and returns what the method returned."""


@dataclass(frozen=True, slots=True)
class AugmentationSubject(Renewable[Augmentation]):
    """An augmentation that is checked."""

    def scenes(self) -> list[Scene]:
        """The scenes in which it can be tried.

        Raises:
            NotApplicable: if it refuses all of them, with an `AvrobustError` each.
            CheckFailed: if it raises anything else.
        """
        found, refusals = [], []
        for scene in SCENES:
            try:
                list(Course(self.make(), scene).epoch(0, stop=1))
                found.append(scene)
            except AvrobustError as error:
                refusals.append(str(error))
            except Exception as error:
                raise CheckFailed(
                    f"it raised {one_line(error)} for {scene.name}: refuse what it cannot take with an AvrobustError "
                    "that says why"
                ) from error
        if not found:
            raise NotApplicable(f"it refuses all clips that it is tried with: {'; '.join(dict.fromkeys(refusals))}")
        return found


@dataclass(frozen=True, slots=True)
class Scene:
    """Clips to be trained on.

    Attributes:
        name: for messages.
        media: of each modality.
        task: one label per clip, or several.
    """

    name: str
    media: Mapping[str, MediaSpec]
    task: Task

    def model(self) -> LinearOracle:
        """A linear model in training mode whose rows do not depend on one another, not even in their last bits."""
        shapes = {name: spec.shape for name, spec in self.media.items()}
        return LinearOracle.random(shapes, classes=CLASSES).train()

    def read(self, positions: Sequence[int]) -> Batch:
        """The clips at these positions, stacked: a fifth of their values lies at the bounds."""
        inputs = {name: torch.stack([_values(spec, IDS[i]) for i in positions]) for name, spec in self.media.items()}
        return Batch(inputs, self._targets(positions), tuple(IDS[i] for i in positions))

    def labels(self, clips: Sequence[str]) -> csr_array:
        """The labels of clips, (n, K) of zeros and ones."""
        return csr_array(soft_targets(self._targets([IDS.index(clip) for clip in clips]), CLASSES).numpy())

    def _targets(self, positions: Sequence[int]) -> Tensor:
        rows = torch.tensor(positions)
        targets = rows % CLASSES
        if self.task == "multi-label":
            targets = (one_hot(targets, CLASSES) | one_hot(rows // 3 % CLASSES, CLASSES)).float()
        return targets


@cache
def _values(spec: MediaSpec, clip_id: str) -> Tensor:
    generator = clip_generator(0, clip_id, spec.kind)
    if spec.bounds is None:
        return torch.randn(spec.shape, generator=generator)
    low, high = spec.bounds
    return (low + (high - low) * (1.2 * torch.rand(spec.shape, generator=generator) - 0.1)).clamp(low, high)


_RAW = {
    "audio": MediaSpec(kind="audio", shape=(1, 64), rate=64, bounds=(-1.0, 1.0), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 4, 4, 4), rate=4, bounds=(0.0, 1.0), time_axis=1),
}
_FEATURES = {
    "audio": MediaSpec(kind="audio", shape=(1, 12, 6), rate=12, time_axis=1),
    "video": MediaSpec(kind="video", shape=(4, 10), rate=4, bounds=(0.25, 1.5), time_axis=0),
}
SCENES: tuple[Scene, ...] = (
    Scene("raw clips of one label", _RAW, "single-label"),
    Scene("raw clips of several labels", _RAW, "multi-label"),
    Scene("features of one label", _FEATURES, "single-label"),
    Scene("features of several labels", _FEATURES, "multi-label"),
)
"""Waveforms and pictures; features without bounds, and features whose bounds leave out zero."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One training pass, as it went.

    Attributes:
        read: the batch before the augmentation.
        inputs: that went through the model, by modality.
        encoded: the fusion's input.
        targets: of the loss.
        losses: (B,).
        spent: forwards and backwards that the augmentation says it has added.
        counted: clips that went through the head, forwards and backwards, beside training's own pass.
    """

    read: Batch
    inputs: Mapping[str, Tensor]
    encoded: Mapping[str, Encoded]
    targets: Tensor
    losses: Tensor
    spent: Cost
    counted: Cost

    def values(self) -> dict[str, Tensor]:
        """All of it by name, the clips in the order of their ids."""
        found = {f"input {name}": x for name, x in self.inputs.items()}
        for name, encoded in self.encoded.items():
            found |= {f"tokens of {name}": encoded.tokens, f"embedding of {name}": encoded.pooled}
        found |= {"targets": soft_targets(self.targets, CLASSES), "losses": self.losses}
        rows = torch.tensor(sorted(range(len(self.read)), key=self.read.ids.__getitem__))
        return {name: x.index_select(0, rows.to(x.device)) for name, x in found.items()}


@dataclass(slots=True)
class Course:
    """Training with one augmentation, in which the weights stay as they are, so that results can be compared.

    Attributes:
        augmentation: under trial.
        scene: the clips.
        seed: of the fit.
        model: None for the scene's linear one.
        epochs: of the fit, as the augmentation is told.
        reverse: put the clips of each batch the other way round, unless the augmentation has chosen the order.
        share: the rank of this process, and the number of processes.
        watch: looks at the augmentation's methods.
        device: of the training.
        ordered: let the augmentation choose the order of the clips.
        learner: the model and the augmentation.
    """

    augmentation: Augmentation
    scene: Scene
    seed: int = 0
    model: InitVar[AVModel | None] = None
    epochs: int = 3
    reverse: bool = False
    share: tuple[int, int] = (0, 1)
    watch: Watch | None = None
    device: str = "cpu"
    ordered: bool = True
    learner: Learner = field(init=False)

    def __post_init__(self, model: AVModel | None) -> None:
        if self.watch is not None:
            _watch(self.augmentation, self.watch, "order", "begin", "end_epoch")
        self.learner = Learner((model or self.scene.model()).to(self.device), [self.augmentation])

    def where(self, epoch: int, cost: Cost | None = None, replay: int = 0) -> TrainingStep:
        """The step that the augmentation is told."""
        return TrainingStep(
            epoch=epoch,
            seed=self.seed,
            model=self.learner.model,
            classes=CLASSES,
            task=self.scene.task,
            epochs=self.epochs,
            replay=replay,
            media=self.scene.media,
            cost=Cost() if cost is None else cost,
            labels=self.scene.labels,
        )

    def epoch(self, epoch: int, *, start: int = 0, stop: int | None = None) -> Iterator[Seen]:
        """The passes of an epoch's batches from `start` to before `stop`; without `stop`, the epoch is ended, too."""
        positions: Sequence[int] = range(CLIPS)
        if self.ordered:
            positions = self.learner.order(positions, IDS, self.where(epoch))
        reverse = self.reverse and list(positions) == list(range(CLIPS))
        batches = [positions[i : i + BATCH_SIZE] for i in range(0, CLIPS, BATCH_SIZE)]
        rank, world = self.share
        for i, batch in list(enumerate(batches))[start:stop]:
            mine = share_of(batch, rank, world)
            read = self.scene.read(mine[::-1] if reverse else mine).to(self.device)
            learned: Learned | None = None
            for replay in range(self.learner.replays):
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(derive_seed(self.seed, epoch, i, replay))
                    seen, learned = self._pass(read, epoch, replay, learned)
                yield seen
        if stop is None:
            self.end_epoch(epoch)

    def two_epochs(self) -> Iterator[Seen]:
        """The passes of the first two."""
        for epoch in range(2):
            yield from self.epoch(epoch)

    def end_epoch(self, epoch: int, gather: Gather = lambda mine: [mine]) -> tuple[Cost, Cost]:
        """End the epoch; what the augmentation says it has spent on that, and what was counted."""
        spent, counted = Cost(), Cost()
        with counting(self.learner.model, counted):
            self.learner.end_epoch(self.where(epoch, spent), gather)
        return spent, counted

    def _pass(self, read: Batch, epoch: int, replay: int, earlier: Learned | None) -> tuple[Seen, Learned]:
        spent, counted = Cost(), Cost(forwards=-len(read), backwards=-len(read))
        with counting(self.learner.model, counted):
            learned = self.learner.learn(read, self.where(epoch, spent, replay), earlier)
            forward = learned.forward
            inputs = {name: x.detach().clone() for name, x in forward.batch.inputs.items()}
            encoded = {
                name: Encoded(found.tokens.detach().clone(), found.pooled.detach().clone())
                for name, found in forward.encoded.items()
            }
            torch.autograd.backward(learned.losses.mean())
            learned.after_backward()
        self.learner.model.zero_grad(set_to_none=True)
        losses, targets = learned.losses.detach().clone(), forward.batch.targets.detach().clone()
        return Seen(read, inputs, encoded, targets, losses, spent, counted), learned


def _watch(of: object, watch: Watch, *names: str) -> None:
    """Have methods of an object called through `watch`, and those of an augmentation's part in a pass that they return.

    The object itself is changed: a wrapper around it would have to pass on every method.
    """

    def called(method: Callable[..., Any], *arguments: Any) -> Any:
        found = watch(method, *arguments)
        if isinstance(found, AugmentedStep):
            _watch(found, watch, "encodings", "loss", "after_backward", "again")
        return found

    for name in names:
        vars(of).setdefault(name, partial(called, getattr(of, name)))


def difference(first: Iterable[Seen], second: Iterable[Seen]) -> str:
    """The name of what differs between two runs, each clip compared with itself; empty if nothing does."""
    for one, other in zip(first, second, strict=True):
        if sorted(one.read.ids) != sorted(other.read.ids):
            return "clips in a batch"
        mine, theirs = one.values(), other.values()
        for name, x in mine.items():
            if name not in theirs or not torch.allclose(x, theirs[name], rtol=1e-4, atol=1e-5):
                return name
    return ""
