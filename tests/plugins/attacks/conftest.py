"""Models with known answers, and one way to run an attack as the core does."""

import copy
from collections.abc import Callable, Iterator, Mapping
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
    Goal,
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

        Against each other class the margin is linear, so that the best move is known: see `largest_fall`.
        """
        clean = self.bias.double() + sum(
            batch.inputs[name].flatten(1).double() @ w.double().T for name, w in self.weights.items()
        )
        own = batch.targets
        margins = []
        for other in range(self.bias.numel()):
            apart = clean[torch.arange(len(own)), own] - clean[:, other]
            slopes = {
                name: (self.weights[name][own] - self.weights[name][other]).double() for name, _ in threat.items()
            }
            worst = apart - largest_fall(slopes, batch, threat, bounds)
            margins.append(torch.where(own == other, torch.inf, worst))
        return torch.stack(margins).amin(dim=0).detach()


def largest_fall(
    slopes: Mapping[str, Tensor], batch: Batch, threat: ThreatModel, bounds: tuple[float, float] | None
) -> Tensor:
    """By how much a function linear in each modality, with slopes (B, n), can be lowered inside the threat: (B,)."""
    rooms = {}
    for name, slope in slopes.items():
        x = batch.inputs[name].flatten(1).double()
        low, high = (bounds[0] - x, bounds[1] - x) if bounds is not None else (x - torch.inf, x + torch.inf)
        rooms[name] = torch.where(slope > 0, -low, high)  # how far each sample may move in the direction that lowers it
    steep = {name: slope.abs() for name, slope in slopes.items()}
    if threat.kind == "shared":
        return _l2_fall(steep, rooms, {name: budget.eps for name, budget in threat.items()})
    falls = []
    for name, budget in threat.items():
        size, room = steep[name], rooms[name]
        if budget.norm == "linf":
            falls.append((size * room.clamp(max=budget.eps)).sum(dim=1))
        elif budget.norm == "l2":
            falls.append(_l2_fall({name: size}, {name: room}, {name: budget.eps}))
        elif budget.norm == "l1":
            order = size.argsort(dim=1, descending=True)
            limits = room.gather(1, order).clamp(max=budget.eps)
            before = limits.cumsum(dim=1) - limits
            falls.append((size.gather(1, order) * torch.minimum(limits, (budget.eps - before).clamp(min=0))).sum(dim=1))
        else:
            gains = size * room.clamp(max=torch.inf if budget.cap is None else budget.cap)
            falls.append(gains.sort(dim=1, descending=True).values[:, : int(budget.eps)].sum(dim=1))
    return torch.stack(falls).sum(dim=0)


def _l2_fall(slopes: Mapping[str, Tensor], rooms: Mapping[str, Tensor], radii: Mapping[str, float]) -> Tensor:
    """In one Euclidean ball of all modalities, each over its radius: a sample moves by min(t radius^2 slope, room)."""
    low = torch.zeros(len(next(iter(slopes.values()))), 1, dtype=torch.float64)
    high = low + 1e6

    def moves(t: Tensor) -> dict[str, Tensor]:
        return {name: torch.minimum(t * radii[name] ** 2 * slope, rooms[name]) for name, slope in slopes.items()}

    for _ in range(80):
        t = (low + high) / 2
        size = sum((moved / radii[name]).square().sum(dim=1, keepdim=True) for name, moved in moves(t).items())
        low, high = torch.where(size <= 1, t, low), torch.where(size <= 1, high, t)
    return torch.stack([(slopes[name] * moved).sum(dim=1) for name, moved in moves(low).items()]).sum(dim=0)


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


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Models as small as these are slower on several threads, and far slower where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        goal: Goal | None = None,
        samples: int = 1,
        precision: str = "32-true",
        time_axis: int | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> Attacked:
        media = {
            name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=(bounds or {}).get(name), time_axis=time_axis)
            for name, x in batch.inputs.items()
        }
        victim = Victim(model, media=media, task=task, seed=seed, samples=samples, precision=precision)
        pristine = copy.deepcopy(batch.inputs)
        with victim.frozen():
            threat = threat if isinstance(threat, ThreatModel) else ThreatModel.model_validate(threat)
            bound = victim.bind(batch, threat, goal)
            if start is not None:
                bound = bound.scaled(1.0, start)
            result = attack(bound)
            return Attacked(result, bound, verify("tested", batch, pristine, bound, result))

    return run
