"""Clips of two modalities and a linear model of them: what is put around either is what a test is about."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avrobust_core

CLIPS, CLASSES = 40, 3


class Net(nn.Module):
    """A linear map of each modality; `after` makes of (logits, inputs) what is returned."""

    def __init__(self, after: Callable[[Tensor, Mapping[str, Tensor]], Any] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.audio = nn.Linear(12, CLASSES)
        self.video = nn.Linear(24, CLASSES)
        self.after = after
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        logits = self.audio(inputs["audio"].flatten(1)) + self.video(inputs["video"].flatten(1))
        return logits if self.after is None else self.after(logits, inputs)


@pytest.fixture
def net() -> type[Net]:
    return Net


@pytest.fixture
def clips() -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "audio": torch.rand(CLIPS, 1, 12, generator=generator) * 2 - 1,
        "video": torch.rand(CLIPS, 3, 2, 2, 2, generator=generator),
    }
    with torch.no_grad():
        targets = Net()(inputs).argmax(dim=1)
    targets[::4] = (targets[::4] + 1) % CLASSES  # a quarter of the labels is wrong
    return inputs, targets


@pytest.fixture
def batches(clips):
    """The clips in batches, as pairs: new tensors each time."""

    def make(size: int = 8) -> list[Any]:
        inputs, targets = clips
        return [
            ({name: x[i : i + size].clone() for name, x in inputs.items()}, targets[i : i + size].clone())
            for i in range(0, CLIPS, size)
        ]

    return make


@pytest.fixture
def attack(batches):
    """`evaluate` with one step of the sign, within little; any of its arguments may be replaced."""

    def run(model: nn.Module | None = None, loader: Any = None, **options: Any) -> avrobust_core.Evaluation:
        settings: dict[str, Any] = {
            "attacks": ["fgsm"],
            "threats": {"audio": {"audio": {"eps": 0.1}}},
            "bounds": {"audio": (-1, 1), "video": (0, 1)},
            "resamples": 100,
            "audit": "off",
        }
        return avrobust_core.evaluate(model or Net(), batches() if loader is None else loader, **(settings | options))

    return run
