"""A data set and a model small enough to fit in a blink, made of the core's contracts alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core import AVModel, Clip, ClipError, Dataset, Encoded, EncodedDims, Encoder, Fusion, MediaSpec
from avrobust_core.spec.model import EngineSection, TrainingEntry
from avrobust_core.study.training import Fit


class Blobs(Dataset):
    """Two modalities, three classes; the label shows in both. Clips named in `corrupt` cannot be read."""

    task = "single-label"
    classes = ("a", "b", "c")
    media = {  # noqa: RUF012
        "left": MediaSpec(kind="left", shape=(1, 8), bounds=(-4.0, 4.0)),
        "right": MediaSpec(kind="right", shape=(2, 3, 3), bounds=(-4.0, 4.0)),
    }

    def __init__(self, train: int = 48, test: int = 20, corrupt: Sequence[str] = (), max_unreadable: float = 0.5):
        self.sizes = {"train": train, "test": test}
        self.corrupt = set(corrupt)
        self.max_unreadable = max_unreadable
        self.reads: list[str] = []

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def ids(self, split: str) -> Sequence[str]:
        return [f"{split}-{i}" for i in range(self.sizes[split])]

    def read(self, split: str, index: int) -> Clip:
        clip_id = f"{split}-{index}"
        self.reads.append(clip_id)
        if clip_id in self.corrupt:
            raise ClipError(clip_id, "made corrupt")
        generator = torch.Generator().manual_seed(index + 1000 * len(split))
        label = index % 3
        shift = torch.tensor([-1.0, 0.0, 1.0])[label]
        left = (torch.randn(1, 8, generator=generator) + shift).clamp(-4, 4)
        right = (torch.randn(2, 3, 3, generator=generator) - shift).clamp(-4, 4)
        return Clip(clip_id, {"left": left, "right": right}, torch.tensor(label))

    def fingerprint(self) -> str:
        return f"blobs-{self.sizes}"


class Flat(Encoder):
    """Flatten, one hidden layer with dropout and batch normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dims = EncodedDims(token=6, embed=6)
        self.frontend = nn.Identity()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))

    def encode(self, features: Tensor) -> Encoded:
        pooled = self.net(features)
        return Encoded(pooled.unsqueeze(1), pooled)


class Join(Fusion):
    """Concatenation."""

    dim = 12

    def forward(self, encoded) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def make_model(seed: int = 0) -> AVModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AVModel({"left": Flat(8), "right": Flat(18)}, Join(), 3)


@pytest.fixture
def blobs() -> type[Blobs]:
    return Blobs


@pytest.fixture
def new_model():
    return make_model


@pytest.fixture
def new_fit(fabric: Fabric):
    """A fit of the small model; keyword arguments override the regime's fields."""

    def make(folder: Path, dataset: Dataset | None = None, augmentations=(), report=None, model=None, **regime) -> Fit:
        settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01} | regime
        return Fit(
            fabric,
            model or make_model(),
            dataset or Blobs(),
            TrainingEntry(**settings),
            list(augmentations),
            seed=5,
            folder=folder,
            engine=EngineSection(),
            report=report or (lambda done, total: None),
        )

    return make
