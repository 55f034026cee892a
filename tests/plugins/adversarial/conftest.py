"""Augmentations by name, training steps, and a model that has all that crafting must leave alone."""

from collections.abc import Mapping

import pytest
import torch
from avrobust_adversarial.plugin import avrobust_augmentations
from torch import Tensor, nn

from avrobust_core import AVModel, Batch, Cost, Encoded, EncodedDims, Encoder, Fusion, MediaSpec, TrainingStep

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 12), bounds=(-1.0, 1.0), time_axis=1),
    "video": MediaSpec(kind="video", shape=(2, 2, 2, 2), bounds=(-1.0, 1.0), time_axis=1),
}
SIZES = {"audio": 12, "video": 16}


class Flat(Encoder):
    """Flatten, one hidden layer with batch normalisation and dropout."""

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

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


def make_network(modalities=("audio", "video"), classes: int = 3, sizes: Mapping[str, int] = SIZES) -> AVModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fusion = Join(6 * len(modalities)) if len(modalities) > 1 else None
        return AVModel({name: Flat(sizes[name]) for name in modalities}, fusion, classes).train()


def make_clips(n: int = 10, *, classes: int = 3, task: str = "single-label") -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.rand(n, *spec.shape, generator=generator) * 1.8 - 0.9 for name, spec in MEDIA.items()}
    targets = torch.randint(classes, (n,), generator=generator)
    if task == "multi-label":
        targets = (torch.rand(n, classes, generator=generator) < 0.4).float()
    return Batch(inputs, targets, tuple(f"clip-{i}" for i in range(n)))


@pytest.fixture(scope="session")
def network():
    return make_network


@pytest.fixture
def clips():
    return make_clips


@pytest.fixture(scope="session")
def make():
    """From a component's name and its configuration to the augmentation."""
    components = {component.name: component for component in avrobust_augmentations()}

    def build(name, **given):
        component = components[name]
        return component.make(component.config.model_validate(given))

    return build


@pytest.fixture
def step_of():
    """A training step on a model, with a cost of its own."""

    def build(model, *, task="single-label", classes=3, media=MEDIA, **given):
        settings = {"epoch": 0, "seed": 7, "epochs": 4, "cost": Cost()} | given
        return TrainingStep(model=model, classes=classes, task=task, media=media, **settings)

    return build
