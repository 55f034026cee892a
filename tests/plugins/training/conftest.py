"""Clips to be augmented, and where training stands."""

import pytest
import torch
from avrobust_training.plugin import avrobust_augmentations
from torch import nn

from avrobust_core import Batch, MediaSpec, TrainingStep

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 800), rate=800, bounds=(-1.0, 1.0), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 10, 6, 8), rate=10, bounds=(0.0, 1.0), time_axis=1),
}
FEATURES = {"audio": MediaSpec(kind="audio", shape=(1, 30, 16), bounds=(0.5, 2.0), time_axis=1)}


class Stand:
    """Clips of given media, each full of values of its own, and steps."""

    def __init__(self, media=MEDIA, *, clips=8, classes=4, task="single-label", model=None):
        self.media, self.classes, self.task = media, classes, task
        self.model = model if model is not None else nn.Identity()
        generator = torch.Generator().manual_seed(0)
        inputs = {}
        for name, spec in media.items():
            low, high = spec.bounds
            inputs[name] = low + (high - low) * torch.rand(clips, *spec.shape, generator=generator)
        targets = torch.arange(clips) % classes
        if task == "multi-label":
            targets = (torch.rand(clips, classes, generator=generator) < 0.4).float()
        self.batch = Batch(inputs, targets, tuple(f"clip-{i}" for i in range(clips)))

    def step(self, epoch=0, *, seed=0):
        return TrainingStep(
            epoch=epoch, seed=seed, model=self.model, classes=self.classes, task=self.task, media=self.media
        )

    @property
    def soft(self):
        targets = self.batch.targets
        return targets if targets.dim() == 2 else nn.functional.one_hot(targets, self.classes).float()


@pytest.fixture
def stand():
    return Stand


@pytest.fixture
def features():
    return FEATURES


@pytest.fixture
def make():
    """An augmentation by its name and configuration."""
    components = {component.name: component for component in avrobust_augmentations()}

    def build(name, **given):
        component = components[name]
        return component.make(component.config(**given))

    return build
