"""What benchmarks/gpu.py measures on: a network of real size, clips that it is sure of, and a rehearsal's sizes."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Batch, Clip, Dataset, MediaSpec, Registry
from avrobust_core.registry.choices import configure
from benchmarks.attack_subject import Subject

DISTINCT = 32
"""Clips that differ; a data set gives each of them again and again under other ids."""

LABELS = 10
"""Classes that clips to learn from have, so that there are several of each in an epoch."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is.

    Attributes:
        audio: the encoder of sound and its configuration.
        video: that of pictures.
        sound: (1, samples) of a clip.
        pictures: (3, T, H, W) of a clip.
        short_sound: of a clip that is trained on.
        short_pictures: likewise.
        classes: of the network.
        batch: clips that are attacked, and learned from, at once.
        steps: of PGD.
        turns: of each comparison.
        train: clips of an epoch.
        neighbours: (points, features) of a set searched within itself.
        queries: (queries, points) searched for in another set.
        labels: classes of the density.
        product: side of the matrices that the card's peak is taken from.
    """

    audio: tuple[str, Mapping[str, Any]] = ("cnn14", {})
    video: tuple[str, Mapping[str, Any]] = ("slowfast", {"size": "r50"})
    sound: tuple[int, ...] = (1, 320_000)
    pictures: tuple[int, ...] = (3, 32, 224, 224)
    short_sound: tuple[int, ...] = (1, 64_000)
    short_pictures: tuple[int, ...] = (3, 16, 112, 112)
    classes: int = 100
    batch: int = 16
    steps: int = 20
    turns: int = 2
    train: int = 256
    neighbours: tuple[int, int] = (100_000, 512)
    queries: tuple[int, int] = (20_000, 1_000_000)
    labels: int = 527
    product: int = 8192


REAL = Size()

SMALL = Size(
    audio=("cnn", {"channels": [4, 8], "n_mels": 16, "hop_ms": 16}),
    video=("slowfast", {"size": "tiny"}),
    sound=(1, 4000),
    pictures=(3, 4, 16, 16),
    short_sound=(1, 4000),
    short_pictures=(3, 4, 16, 16),
    classes=6,
    batch=4,
    steps=3,
    turns=1,
    train=16,
    neighbours=(2000, 32),
    queries=(200, 4000),
    labels=12,
    product=256,
)


class Held(Dataset):
    """Random clips that lie in memory, of which reading is a copy: what is timed is not their decoding."""

    task = "single-label"

    def __init__(self, size: Size, *, short: bool) -> None:
        self.short = short
        sound, pictures = (size.short_sound, size.short_pictures) if short else (size.sound, size.pictures)
        self.classes = tuple(f"class {i}" for i in range(size.classes))
        self.media = {
            "audio": MediaSpec(kind="audio", shape=sound, rate=32_000, bounds=(-1, 1), time_axis=1),
            "video": MediaSpec(kind="video", shape=pictures, rate=16, bounds=(0, 1), time_axis=1),
        }
        self._sizes = {"train": size.train, "test": 3 * size.batch}
        generator = torch.Generator().manual_seed(0)
        self._sound = torch.rand(DISTINCT, *sound, generator=generator) * 2 - 1
        self._pictures = torch.rand(DISTINCT, *pictures, generator=generator)
        self._means = torch.rand(DISTINCT, generator=generator)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._sizes)

    def ids(self, split: str) -> Sequence[str]:
        return [f"{split}-{i}" for i in range(self._sizes[split])]

    def read(self, split: str, index: int) -> Clip:
        place = index % DISTINCT
        inputs = {"audio": self._sound[place] * self._means[place], "video": self._pictures[place].clone()}
        # Clips of nothing but noise are one to a network: each has a loudness and a colour of its own.
        inputs["video"][: 1 + index % 3].mul_(self._means[place])
        return Clip(f"{split}-{index}", inputs, torch.tensor(index % min(LABELS, len(self.classes))))

    def fingerprint(self) -> str:
        return "held"


@dataclass(eq=False)
class Bench:
    """What every part is given.

    Attributes:
        size: how large everything is.
        device: the card, or a processor for a rehearsal.
        registry: where our components are found.
        until: the time, on the clock of `time.monotonic`, after which no part begins.
        found: what parts have found, by name, for those that come later.
    """

    size: Size
    device: torch.device
    registry: Registry
    until: float
    found: dict[str, Any] = field(default_factory=dict)
    _models: dict[bool, AVModel] = field(default_factory=dict)
    _subject: Subject | None = None

    @property
    def left(self) -> float:
        """Seconds until `until`."""
        return self.until - time.monotonic()

    def now(self) -> float:
        """Seconds, once the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, run: Callable[[], object], turns: int = 3, *, warm: bool = True) -> float:
        """The median seconds of some runs, after one that does not count."""
        if warm:
            run()
        taken = []
        for _ in range(turns):
            began = self.now()
            run()
            taken.append(self.now() - began)
        return sorted(taken)[turns // 2]

    def component(self, kind: Any, name: str, config: Mapping[str, object]) -> Any:
        """A component of the registry, configured."""
        return configure(self.registry, kind, name, config)

    def model(self, dataset: Held) -> AVModel:
        """A network with random weights, on the device, in evaluation mode; a copy of the same each time."""
        if dataset.short not in self._models:
            self._models[dataset.short] = self._made(dataset)
        return copy.deepcopy(self._models[dataset.short])

    def _made(self, dataset: Held) -> AVModel:
        size = self.size
        torch.manual_seed(0)
        encoders = {
            name: self.component("encoder", used, config).build(dataset.media[name])
            for name, (used, config) in (("audio", size.audio), ("video", size.video))
        }
        fusion = self.component("fusion", "concat", {}).build({name: each.dims for name, each in encoders.items()})
        model = AVModel(encoders, fusion, size.classes)
        for name, parameter in model.named_parameters():
            if name.endswith("norm_c.weight"):  # at 0, as it starts, every block would be its shortcut
                nn.init.constant_(parameter, 0.5)
        return model.to(self.device).eval()

    def subject(self) -> Subject:
        """A network that is attacked, and a batch of those clips that it is surest of; their labels are its own."""
        if self._subject is None:
            self._subject = self._attacked()
        return replace(self._subject, model=copy.deepcopy(self._subject.model))

    def _attacked(self) -> Subject:
        dataset = Held(self.size, short=False)
        model = self.model(dataset)
        clips = Batch.stack([dataset.read("test", i) for i in range(len(dataset.ids("test")))])
        parts = [
            clips.select(chosen).to(self.device) for chosen in torch.split(torch.arange(len(clips)), self.size.batch)
        ]
        _take_statistics(model, parts[0].inputs)
        with torch.no_grad():
            logits = torch.cat([model(part.inputs).float() for part in parts]).cpu()
        best = logits.topk(2, dim=1).values
        chosen = (best[:, 0] - best[:, 1]).topk(self.size.batch).indices.sort().values
        batch = Batch(clips.select(chosen).inputs, logits.argmax(dim=1)[chosen], clips.select(chosen).ids)
        return Subject(self.registry, dataset, model, batch.to(self.device), accuracy=1.0)


@torch.no_grad()
def _take_statistics(model: AVModel, inputs: Mapping[str, Tensor]) -> None:
    """Let batch normalisation take its statistics from some clips, as training would have."""
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(inputs)
    model.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
