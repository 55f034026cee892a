"""Audio-visual models on which the best attack is known exactly: linear encoders, linear fusion, linear head."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.data.media import MediaSpec
from avrobust_core.models.base_classes import EncodedDims, Encoder, Fusion
from avrobust_core.models.model import AVModel
from avrobust_core.testing.closed_forms import FALLS, fall_l2, smallest_size
from avrobust_core.threats.balls import Bounds
from avrobust_core.threats.budgets import Budget, NormName, ThreatKind, ThreatModel
from avrobust_core.threats.regions import radii

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of one clip, without the batch, by modality."""

SHAPES: Shapes = {"audio": (1, 12), "video": (2, 2, 2, 2)}
"""Two modalities of different rank."""

WIDTH = 4
"""Of the embeddings of a random oracle."""


class RowwiseLinear(nn.Module):
    """x W' + b, summed row by row: unlike a matrix product, a row's last bits do not depend on how many rows there are.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs) to (B, outputs)."""
        return (x.unsqueeze(1) * self.weight).sum(dim=2) + self.bias


class LinearEncoder(Encoder):
    """A clip of any rank laid flat, times a matrix.

    Args:
        weight: (E, n).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.dims = EncodedDims(token=len(weight), embed=len(weight))
        self.frontend = nn.Identity()
        self.linear = RowwiseLinear(weight, torch.zeros(len(weight)))

    def encode(self, features: Tensor) -> Encoded:
        """One token, which is the pooled embedding."""
        pooled = self.linear(features.flatten(1))
        return Encoded(tokens=pooled.unsqueeze(1), pooled=pooled)


class LinearFusion(Fusion):
    """The pooled embeddings laid end to end, in the order of the modalities' names, with a linear head.

    Args:
        weight: (K, F) of the head.
        bias: (K,) of the head.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.dim = weight.shape[1]
        self._head = (weight, bias)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, F)."""
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)

    def make_head(self, classes: int) -> nn.Module:
        """The head given."""
        return RowwiseLinear(*self._head)


class LinearOracle(AVModel):
    """logits = sum over modalities of H_m E_m x_m, plus b: encoders E_m, and the head's columns H_m.

    Args:
        encoders: (E, n) by modality.
        heads: (K, E) by modality.
        bias: (K,).
    """

    def __init__(self, encoders: Mapping[str, Tensor], heads: Mapping[str, Tensor], bias: Tensor) -> None:
        names = sorted(encoders)
        fusion = LinearFusion(torch.cat([heads[name] for name in names], dim=1), bias)
        super().__init__({name: LinearEncoder(encoders[name]) for name in names}, fusion, len(bias))

    @classmethod
    def random(cls, shapes: Shapes = SHAPES, *, classes: int = 3, seed: int = 0, bias: float = 0.1) -> "LinearOracle":
        """An oracle with normal weights, each modality's of the same size whatever the number of its samples."""
        generator = torch.Generator().manual_seed(seed)
        sizes = {name: torch.Size(shape).numel() for name, shape in sorted(shapes.items())}
        encoders = {name: torch.randn(WIDTH, n, generator=generator) / n**0.5 for name, n in sizes.items()}
        heads = {name: torch.randn(classes, WIDTH, generator=generator) for name in sizes}
        return cls(encoders, heads, torch.randn(classes, generator=generator) * bias)

    def weight(self, modality: str) -> Tensor:
        """The matrix from one modality, laid flat, to the logits: (K, n) float64."""
        encoders = [cast(LinearEncoder, encoder).linear.weight.detach().double() for encoder in self.encoders.values()]
        whole = cast(RowwiseLinear, self.head).weight.detach().double()
        heads = torch.split(whole, [len(weight) for weight in encoders], dim=1)
        i = self.modalities.index(modality)
        return heads[i] @ encoders[i]

    @property
    def bias(self) -> Tensor:
        """(K,) float64."""
        return cast(RowwiseLinear, self.head).bias.detach().double()

    def alone(self, modality: str) -> "LinearOracle":
        """The uni-modal model that has this modality's weights, without the bias."""
        return self._of({modality: self.weight(modality)}, torch.zeros_like(self.bias))

    def moved(self, scale: float, shift: float) -> "LinearOracle":
        """The oracle that says of scale * x + shift what this one says of x."""
        weights = {name: self.weight(name) / scale for name in self.modalities}
        return self._of(weights, self.bias - sum(w.sum(dim=1) * shift for w in weights.values()))

    @classmethod
    def _of(cls, weights: Mapping[str, Tensor], bias: Tensor) -> "LinearOracle":
        identity = torch.eye(len(bias))
        return cls({name: w.float() for name, w in weights.items()}, dict.fromkeys(weights, identity), bias.float())


@dataclass(frozen=True, slots=True, eq=False)
class LinearProblem:
    """An oracle, clips and their bounds: all that is needed to say what the best untargeted attack reaches.

    Problems are kept and shared: nothing of one may be changed.

    Attributes:
        oracle: the model.
        batch: clips with one label each.
        bounds: of all modalities.
    """

    oracle: LinearOracle
    batch: Batch
    bounds: Bounds

    @property
    def media(self) -> dict[str, MediaSpec]:
        """The media of each modality."""
        return {
            name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=self.bounds)
            for name, x in self.batch.inputs.items()
        }

    def select(self, index: Tensor) -> "LinearProblem":
        """The problem of the clips at `index` (int64 positions)."""
        return replace(self, batch=self.batch.select(index))

    def reshaped(self, shapes: Shapes) -> "LinearProblem":
        """The same problem, with clips of other shapes and as many samples."""
        return self._showing({name: x.reshape(len(x), *shapes[name]) for name, x in self.batch.inputs.items()})

    def moved(self, scale: float, shift: float, *, bounded: bool = True) -> "LinearProblem":
        """The same problem, with x and the bounds replaced by scale * x + shift; a radius becomes scale times it."""
        bounds = None
        if bounded and self.bounds is not None:
            bounds = (self.bounds[0] * scale + shift, self.bounds[1] * scale + shift)
        shown = self._showing({name: x * scale + shift for name, x in self.batch.inputs.items()})
        return replace(shown, oracle=self.oracle.moved(scale, shift), bounds=bounds)

    def margins(self) -> Tensor:
        """The excess of each clip's own logit over each other: (B, K) float64, infinite for its own."""
        flat = {name: self.batch.inputs[name].double().flatten(1) for name in self.oracle.modalities}
        logits = self.oracle.bias + sum(x @ self.oracle.weight(name).T for name, x in flat.items())
        found = logits.gather(1, self.batch.targets.unsqueeze(1)) - logits
        return found.scatter(1, self.batch.targets.unsqueeze(1), torch.inf)

    def margins_of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Each clip's smallest margin, (B,) float64, with some of its modalities replaced."""
        return self._showing({**self.batch.inputs, **inputs}).margins().amin(dim=1)

    def smallest_margin(self, threat: ThreatModel) -> Tensor:
        """The smallest margin that any point of the threat has: (B,) float64; an attack exists where it is <= 0."""
        heights = self.margins()
        one = torch.ones(heights.numel(), dtype=torch.float64)
        return (heights - self._falls(threat)(one).view_as(heights)).amin(dim=1)

    def smallest_size(self, threat: ThreatModel) -> Tensor:
        """The smallest factor by which the threat must be scaled for an attack to exist: (B,) float64.

        That is the best `region.size` that an attack can reach; 0 for clips that are misclassified as they are,
        infinite for those that no perturbation within the bounds reaches.
        """
        heights = self.margins()
        return smallest_size(self._falls(threat), heights.flatten()).view_as(heights).amin(dim=1)

    def threat(
        self,
        names: Iterable[str],
        norm: NormName,
        *,
        share: float = 1.0,
        slack: float = 1.0,
        kind: ThreatKind = "separate",
    ) -> ThreatModel:
        """A threat under which an attack exists on a given share of the clips, with something to spare.

        Args:
            names: the attacked modalities, all with the same radius.
            norm: of all of them.
            share: of the clips, in (0, 1], on which an attack exists.
            slack: a factor on the smallest such radius.
            kind: separate balls, or one shared.
        """
        sizes = _sorted_sizes(self, tuple(names), norm, kind)
        eps = sizes[max(round(share * len(sizes)) - 1, 0)] * slack
        if norm == "l0":
            eps = float(max(round(eps), 1))
        return make_threat(names, norm, eps, kind)

    def unbreakable(self, norm: NormName) -> ThreatModel:
        """A threat under which no clip can be broken; in l0 the smallest there is, one sample, which may break some."""
        smallest = float(self.smallest_size(make_threat(self.oracle.modalities, norm, 1.0)).min())
        return make_threat(self.oracle.modalities, norm, 1.0 if norm == "l0" else 0.3 * smallest)

    def _showing(self, inputs: dict[str, Tensor]) -> "LinearProblem":
        return replace(self, batch=replace(self.batch, inputs=inputs))

    def _falls(self, threat: ThreatModel) -> Callable[[Tensor], Tensor]:
        """From sizes (B * K,) to how far each clip's margin over each class can fall under the scaled threat."""
        ways = [(FALLS[budget.norm], *self._downhill(name, budget)) for name, budget in threat.items()]
        if threat.kind == "shared":
            slopes = torch.cat([slope * radius.unsqueeze(1) for _, slope, _, radius in ways], dim=1)
            rooms = torch.cat([room / radius.unsqueeze(1) for _, _, room, radius in ways], dim=1)
            return lambda size: fall_l2(slopes, rooms, size)
        return lambda size: torch.stack([fall(slope, room, size * radius) for fall, slope, room, radius in ways]).sum(
            dim=0
        )

    def _downhill(self, name: str, budget: Budget) -> tuple[Tensor, Tensor, Tensor]:
        """Each margin's slope in each sample, and that sample's way downhill: (B * K, n) both; the radii (B * K,)."""
        if budget.needs_time or budget.space != "input":
            raise ValueError("closed forms are of budgets on the whole raw input, without regard to time")
        radius = radii(self.batch.inputs[name], budget).repeat_interleave(len(self.oracle.bias))
        x = self.batch.inputs[name].double().flatten(1).unsqueeze(1)
        slope = torch.zeros(len(x), len(self.oracle.bias), x.shape[2], dtype=torch.float64)
        if name in self.oracle.modalities:
            weight = self.oracle.weight(name)
            slope = weight[self.batch.targets].unsqueeze(1) - weight
        low, high = budget.bounds or self.bounds or (-torch.inf, torch.inf)
        room = torch.where(slope > 0, x - low, high - x)
        room = room if budget.cap is None else room.clamp(max=budget.cap)
        return slope.abs().flatten(0, 1), room.flatten(0, 1), radius


@lru_cache(maxsize=1024)
def _sorted_sizes(
    problem: LinearProblem, names: tuple[str, ...], norm: NormName, kind: ThreatKind
) -> tuple[float, ...]:
    return tuple(problem.smallest_size(make_threat(names, norm, 1.0, kind)).sort().values.tolist())


def make_threat(names: Iterable[str], norm: NormName, eps: float, kind: ThreatKind = "separate") -> ThreatModel:
    """The threat that gives each of these modalities the same norm and radius."""
    return ThreatModel.of({name: Budget(norm=norm, eps=eps) for name in names}, kind)


def make_problem(
    shapes: Shapes = SHAPES,
    *,
    clips: int = 12,
    classes: int = 3,
    bounds: Bounds = (-1.0, 1.0),
    inside: float = 0.6,
    seed: int = 0,
) -> LinearProblem:
    """A random oracle and random clips that it classifies correctly, none of them by a hair.

    Args:
        shapes: of the modalities.
        clips: their number.
        classes: K.
        bounds: of all modalities; without any, clips are as within (-1, 1).
        inside: the share of the bounds' half width, around their middle, that clips keep to.
        seed: another seed, another problem.
    """
    return _made(tuple(sorted(shapes.items())), clips, classes, bounds, inside, seed)


@lru_cache(maxsize=256)
def _made(
    shapes: tuple[tuple[str, tuple[int, ...]], ...], clips: int, classes: int, bounds: Bounds, inside: float, seed: int
) -> LinearProblem:
    oracle = LinearOracle.random(dict(shapes), classes=classes, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    low, high = bounds or (-1.0, 1.0)
    middle, half = (low + high) / 2, (high - low) / 2 * inside
    many = 6 * clips
    # On a grid of 1/256 an affine change of all values by powers of two is exact.
    grid = {name: torch.rand(many, *shape, generator=generator) * 2 - 1 for name, shape in shapes}
    inputs = {name: ((middle + half * x) * 256).round() / 256 for name, x in grid.items()}
    return confident(oracle, inputs, clips, bounds)


def confident(oracle: LinearOracle, inputs: Mapping[str, Tensor], clips: int, bounds: Bounds) -> LinearProblem:
    """The problem of those clips that the oracle is surest of, labelled as it sees them: `clips` of (N, ...)."""
    with torch.no_grad():
        logits = oracle(dict(inputs))
    batch = Batch(dict(inputs), logits.argmax(dim=1), tuple(f"clip-{i}" for i in range(len(logits))))
    whole = LinearProblem(oracle, batch, bounds)
    surest = whole.margins().amin(dim=1).argsort(descending=True)[: 2 * clips : 2]
    return whole.select(surest.sort().values)
