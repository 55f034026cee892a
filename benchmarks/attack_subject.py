"""What the attacks are compared on: one trained audio-visual model, and test clips that it classifies correctly."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core import AVModel, Batch, Dataset, Registry
from avrobust_core.data.loader import Loader
from avrobust_core.models.saving import load_weights
from avrobust_core.spec.model import Spec
from avrobust_core.study.building import Builder
from avrobust_core.training.fit import Fit

WEIGHTS = "last.safetensors"


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, in evaluation mode, and what it reads.

    Attributes:
        registry: where our attacks are found.
        dataset: says what each modality is.
        model: parameters have gradients, as a trained model comes.
        batch: the clips that are attacked, each classified correctly when clean.
        accuracy: clean, over the whole test split.
    """

    registry: Registry
    dataset: Dataset
    model: AVModel
    batch: Batch
    accuracy: float

    def first(self, clips: int) -> Batch:
        """The first so many of the clips."""
        inputs = {name: x[:clips] for name, x in self.batch.inputs.items()}
        return Batch(inputs, self.batch.targets[:clips], self.batch.ids[:clips])


@dataclass(slots=True)
class Costs:
    """Work done by the model, in clips.

    Attributes:
        forwards: clips that reached the logits.
        backwards: clips whose gradient was taken from the logits.
        encoded: by modality, clips that went through its encoder.
    """

    forwards: int = 0
    backwards: int = 0
    encoded: dict[str, int] = field(default_factory=dict)


@contextmanager
def counted(model: AVModel) -> Iterator[Costs]:
    """Count what the model does inside, whoever calls it and however often a graph is walked back."""
    costs = Costs(encoded=dict.fromkeys(model.modalities, 0))

    def went_back(gradient: Tensor) -> None:
        costs.backwards += len(gradient)

    def went_forward(module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        costs.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(went_back)  # type: ignore[no-untyped-call]

    def count_encoding(name: str, encoder: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def encoded(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            costs.encoded[name] += len(arguments[0])

        return encoder.register_forward_pre_hook(encoded)

    handles = [model.head.register_forward_hook(went_forward)]
    handles += [count_encoding(name, encoder) for name, encoder in model.encoders.items()]
    try:
        yield costs
    finally:
        for handle in handles:
            handle.remove()


def make_subject(
    clips: int, cache: Path, spec: Spec | None = None, head: Callable[[nn.Module], nn.Module] = lambda head: head
) -> Subject:
    """Train the model, or take its weights from the cache, and choose the clips.

    Args:
        clips: how many; the first of the test split that the model classifies correctly.
        cache: folder of weights, each named by a hash of all that decides them.
        spec: of the data, one model and one regime; `study_spec` by default.
        head: what the trained head is replaced by.

    Raises:
        ValueError: if the model classifies fewer clips correctly.
    """
    registry = Registry.discover()
    builder = Builder(spec or study_spec(), registry)
    dataset = builder.dataset()
    model = trained(builder, dataset, cache)
    model.head = head(model.head)
    everything = Batch.stack([dataset.read("test", position) for position in range(len(dataset.ids("test")))])
    with torch.no_grad():
        right = model(everything.inputs).argmax(dim=1) == everything.targets
    chosen = right.nonzero().squeeze(1)[:clips]
    if len(chosen) < clips:
        raise ValueError(f"the model classifies {len(chosen)} test clips correctly, not {clips}: ask for fewer clips")
    inputs = {name: x[chosen] for name, x in everything.inputs.items()}
    ids = tuple(everything.ids[position] for position in chosen.tolist())
    batch = Batch(inputs, everything.targets[chosen], ids)
    return Subject(registry, dataset, model, batch, accuracy=float(right.float().mean()))


def study_spec() -> Spec:
    """An audio-visual model on toy-av, whose video encoder does most of the work, as in every real one."""
    return Spec.model_validate(
        {
            "version": 1,
            "name": "attacks",
            "data": "toy-av",
            "encoders": {
                "audio": {"use": "cnn", "with": {"channels": [16, 32, 64], "n_mels": 32, "hop_ms": 32}},
                "video": "slowfast-tiny",
            },
            "models": {"concat": {"encoders": ["audio", "video"], "fusion": "concat"}},
            "training": {"standard": {"epochs": 8, "learning_rate": 0.003, "select": "last"}},
        }
    )


def trained(builder: Builder, dataset: Dataset, cache: Path) -> AVModel:
    """The model after training, in evaluation mode."""
    (name,), (regime,) = builder.spec.models, builder.spec.training
    identity = json.dumps(builder.fit_identity(name, regime, dataset), sort_keys=True)
    weights = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    model = builder.model(name, dataset)
    if not weights.exists():
        with tempfile.TemporaryDirectory() as folder:
            fit(builder, regime, dataset, model, Path(folder))
            cache.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder) / WEIGHTS, weights)
    load_weights(model, weights)
    return model.eval()


def fit(builder: Builder, regime: str, dataset: Dataset, model: AVModel, folder: Path) -> None:
    """Train the model by the study's own loop; its weights are written to the folder."""
    print("training the model (about a minute)", flush=True)
    entry = builder.spec.training[regime]
    Fit(
        Fabric(accelerator="cpu", devices=1),
        model,
        Loader(dataset),
        entry,
        builder.augmentations(entry),
        seed=builder.spec.seed,
        folder=folder,
        report=lambda done, total: None,
    ).run()
