"""Models with known answers, and one way to run an attack as the core does."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import (
    Attack,
    AttackResult,
    AVModel,
    Batch,
    BoundVictim,
    Encoded,
    EncodedDims,
    Encoder,
    Fusion,
    MediaSpec,
    ThreatModel,
    Verdict,
    Victim,
    verify,
)


class LinearModel(nn.Module):
    """logits = scale * (sum over modalities of W x + b), optionally shifted or normalised."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(classes, torch.Size(shape).numel(), generator=generator))
                for name, shape in shapes.items()
            }
        )
        self.bias = nn.Parameter(torch.randn(classes, generator=generator))
        self.after: Callable[[Tensor], Tensor] = lambda logits: logits

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.after(sum(inputs[name].flatten(1) @ w.T for name, w in self.weights.items()) + self.bias)

    def smallest_margin(self, batch: Batch, threat: ThreatModel, bounds: tuple[float, float] | None) -> Tensor:
        """The smallest margin that any point of the threat reaches, (B,) float64: at most 0 where an attack exists.

        Against each other class the margin is linear, so each coordinate (linf) or the whole (l2) moves straight down.
        """
        clean = self.bias.double() + sum(
            batch.inputs[name].flatten(1).double() @ w.double().T for name, w in self.weights.items()
        )
        own = batch.targets
        margins = []
        for other in range(self.bias.numel()):
            worst = clean[torch.arange(len(own)), own] - clean[:, other]
            for name, budget in threat.items():
                direction = (self.weights[name][own] - self.weights[name][other]).double()
                x = batch.inputs[name].flatten(1).double()
                if budget.norm == "l2":
                    worst = worst - budget.eps * direction.norm(dim=1)
                    continue
                low, high = -budget.eps * torch.ones_like(x), budget.eps * torch.ones_like(x)
                if bounds is not None:
                    low, high = torch.maximum(low, bounds[0] - x), torch.minimum(high, bounds[1] - x)
                worst = worst + torch.minimum(direction * low, direction * high).sum(dim=1)
            margins.append(torch.where(own == other, torch.inf, worst))
        return torch.stack(margins).amin(dim=0).detach()


class ConvEncoder(Encoder):
    """A small convolution over (B, C, T) with batch normalisation and dropout; counts its calls."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dims = EncodedDims(token=6, embed=6)
        self.frontend = nn.Identity()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Conv1d(6, 6, 3)
        )
        self.calls = 0

    def encode(self, features: Tensor) -> Encoded:
        self.calls += 1
        tokens = self.layers(features.flatten(2)).transpose(1, 2)
        return Encoded(tokens=tokens, pooled=tokens.amax(dim=1))


class Concat(Fusion):
    dim = 12

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


@dataclass
class Attacked:
    result: AttackResult
    bound: BoundVictim
    verdict: Verdict


@pytest.fixture
def linear_model() -> type[LinearModel]:
    return LinearModel


@pytest.fixture
def av_model() -> AVModel:
    """A nonlinear model of audio (1, 20) and video (3, 4, 5, 5), 3 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AVModel({"audio": ConvEncoder(1), "video": ConvEncoder(3)}, Concat(), 3)
        nn.init.normal_(model.head.weight, std=1.0)
    return model


@pytest.fixture
def av_batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    return Batch(
        inputs={
            "audio": torch.rand(12, 1, 20, generator=generator) * 2 - 1,
            "video": torch.rand(12, 3, 4, 5, 5, generator=generator),
        },
        targets=torch.randint(3, (12,), generator=generator),
        ids=tuple(f"clip-{i}" for i in range(12)),
    )


@pytest.fixture
def run_attack() -> Callable[..., Attacked]:
    """Run an attack as the core does: bound to a frozen victim, and verified afterwards."""

    def run(
        attack: Attack,
        model: nn.Module,
        batch: Batch,
        threat: ThreatModel | dict[str, object],
        *,
        bounds: Mapping[str, tuple[float, float] | None] | None = None,
        task: str = "single-label",
        seed: int = 0,
    ) -> Attacked:
        media = {
            name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=(bounds or {}).get(name))
            for name, x in batch.inputs.items()
        }
        victim = Victim(model, media=media, task=task, seed=seed)
        pristine = copy.deepcopy(batch.inputs)
        with victim.frozen():
            bound = victim.bind(
                batch, threat if isinstance(threat, ThreatModel) else ThreatModel.model_validate(threat)
            )
            result = attack(bound)
            return Attacked(result, bound, verify("tested", batch, pristine, bound, result))

    return run
