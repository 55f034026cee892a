"""`toy-avd`: clips of sound, pictures and depth, generated from a seed."""

import hashlib
import json
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from avrobust_core import Clip, DataError, Dataset, MediaSpec, clip_generator
from avrobust_depth.configs import ToyAVDConfig

RATE, SAMPLES, FRAMES, SIDE = 8000, 4000, 8, 24
VERSION = 1  # raised when the same index gives another clip


class ToyAVD(Dataset):
    """Eight classes of three bits: a low or high tone, a bar that moves across or down, a hollow or a bump.

    Args:
        config: how many clips, and their seed.
    """

    def __init__(self, config: ToyAVDConfig) -> None:
        self.config = config
        self.media = {
            "audio": MediaSpec(kind="audio", shape=(1, SAMPLES), rate=RATE, bounds=(-1, 1), time_axis=1),
            "video": MediaSpec(
                kind="video", shape=(3, FRAMES, SIDE, SIDE), rate=FRAMES * RATE / SAMPLES, bounds=(0, 1), time_axis=1
            ),
            "depth": MediaSpec(kind="depth", shape=(1, SIDE, SIDE), bounds=(0, 1)),
        }
        self.classes = tuple(
            f"{tone}-{motion}-{form}"
            for form in ("hollow", "bump")
            for motion in ("across", "down")
            for tone in ("low", "high")
        )
        self.task = "single-label"
        self._sizes = {"train": config.train, "test": config.test}

    @property
    def splits(self) -> tuple[str, ...]:
        """The two names, train and test."""
        return tuple(self._sizes)

    def ids(self, split: str) -> Sequence[str]:
        """Unique over both splits.

        Raises:
            DataError: if there is no such split.
        """
        if split not in self._sizes:
            raise DataError(f"toy-avd has no split {split!r}; it has {', '.join(self._sizes)}")
        return [f"{split}-{index}" for index in range(self._sizes[split])]

    def read(self, split: str, index: int) -> Clip:
        """Generate a clip: audio (1, T) in [-1, 1], video (3, F, S, S) in [0, 1], depth (1, S, S) in [0, 1]."""
        clip_id = self.ids(split)[index]
        label = index % len(self.classes)
        rng = clip_generator(self.config.seed, clip_id, "toy-avd")  # its own numbers, whatever was read before
        inputs = {
            "audio": tone(bool(label & 1), rng),
            "video": bar(bool(label & 2), rng),
            "depth": form(bool(label & 4), rng),
        }
        return Clip(id=clip_id, inputs=inputs, target=torch.tensor(label))

    def fingerprint(self) -> str:
        """Of all that decides what `read` returns."""
        content = json.dumps([VERSION, self.config.identity()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def tone(high: bool, rng: Generator) -> Tensor:
    """A tone around 500 or 1500 Hz in noise: (1, SAMPLES)."""
    hertz = (1500 if high else 500) * uniform(0.85, 1.15, rng)
    wave = torch.sin(2 * math.pi * (hertz * torch.arange(SAMPLES) / RATE + uniform(0, 1, rng)))
    noise = torch.randn(SAMPLES, generator=rng)
    return (0.1 * wave + 0.03 * noise).clamp(-1, 1)[None]


def bar(down: bool, rng: Generator) -> Tensor:
    """A bright bar that moves down, or across: (3, FRAMES, SIDE, SIDE)."""
    place = torch.arange(SIDE)
    at = (uniform(0, SIDE, rng) + 3 * torch.arange(FRAMES)) % SIDE
    lit = 0.5 * ((place[None, :] - at[:, None]).abs() < 3)
    video = (lit[:, :, None] if down else lit[:, None, :]).expand(FRAMES, SIDE, SIDE)
    noise = 0.05 * torch.randn(3, FRAMES, SIDE, SIDE, generator=rng)
    return (0.2 + video + noise).clamp(0, 1)


def form(bump: bool, rng: Generator) -> Tensor:
    """A round form that is nearer or further than what is around it: (1, SIDE, SIDE)."""
    place = torch.arange(SIDE)
    x, y = uniform(8, SIDE - 8, rng), uniform(8, SIDE - 8, rng)
    height = torch.exp(-((place[None, :] - x) ** 2 + (place[:, None] - y) ** 2) / (2 * 4**2))
    noise = 0.1 * torch.randn(SIDE, SIDE, generator=rng)
    return (0.5 + (0.3 if bump else -0.3) * height + noise).clamp(0, 1)[None]


def uniform(low: float, high: float, rng: Generator) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng))
