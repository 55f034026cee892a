"""Models on which faults show: they count, they watch, they are noisy, or they have state to be spoilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.data.batches import Encoded
from avrobust_core.models.base_classes import EncodedDims, Encoder, Fusion
from avrobust_core.models.model import AVModel
from avrobust_core.testing.subjects import Case

TAG = "tag"
"""The modality by which a watched model knows which clips it is shown; no threat names it."""


class Rescored(nn.Module):
    """A model whose logits are passed through a function.

    Args:
        model: from a dict of modalities to logits.
        after: from logits to logits, (B, K) both.
    """

    def __init__(self, model: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._after = after

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, K)."""
        return self._after(self.model(inputs))


class Noisy(Rescored):
    """A model with smooth randomness of its own: each logit is off by a normal error, anew at each forward pass.

    The error also tilts the logits as functions of the input, so that a single gradient is wrong and their mean right.

    Args:
        model: from a dict of modalities to logits (B, K).
        sigma: standard deviation of the errors, in logits and as a share of each.
        seed: of its own generator: the global random state is not used.
    """

    def __init__(self, model: nn.Module, sigma: float, seed: int = 0) -> None:
        super().__init__(model, self._off)
        self._sigma = sigma
        self._generator = torch.Generator().manual_seed(seed)

    def _off(self, logits: Tensor) -> Tensor:
        tilt, shift = torch.randn(2, *logits.shape, generator=self._generator).mul(self._sigma).unbind()
        return logits * (1 + tilt) + shift


@dataclass(slots=True)
class Look:
    """One forward pass that an attack asked for.

    Attributes:
        clips: (b,) int64, the positions of the clips shown.
        inputs: the attacked modalities.
        logits: (b, K).
        gradient: True once a gradient was taken through it.
    """

    clips: Tensor
    inputs: dict[str, Tensor]
    logits: Tensor
    gradient: bool = False

    def note(self, _: Tensor) -> None:
        """Note that a gradient was taken, as a hook is told it."""
        self.gradient = True


class Witness(nn.Module):
    """A model that remembers what it was asked.

    Args:
        model: from a dict of modalities to logits.
        score: from logits (b, K) and the clips' positions (b,) to the logits that the attack gets to see.
    """

    def __init__(self, model: nn.Module, score: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.model = model
        self.looks: list[Look] = []
        self._score = score

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(b, K)."""
        clips = inputs[TAG].long().flatten()
        shown = {name: x for name, x in inputs.items() if name != TAG}
        logits: Tensor = self.model(shown)
        if self._score is not None:
            logits = self._score(logits, clips)
        look = Look(clips, {name: x.detach().clone() for name, x in shown.items()}, logits.detach())
        self.looks.append(look)
        for x in shown.values():
            if x.requires_grad:
                x.register_hook(look.note)  # type: ignore[no-untyped-call]
        return logits

    def reached(self, bound: BoundVictim) -> Tensor:
        """Flag clips of which the attack ever looked at a point inside its region that reaches its goal: (B,) bool."""
        found = torch.zeros(len(bound), dtype=torch.bool)
        for look in self.looks:
            goal = bound.goal.select(look.clips)
            region = bound.region.select(look.clips)
            x = {name: look.inputs[name] for name in bound.balls}
            inside = region.size(x) <= 1 + 1e-6
            for name, ball in region.balls.items():
                low, high = ball.bounds or (-torch.inf, torch.inf)
                inside &= ((x[name] >= low) & (x[name] <= high)).flatten(1).all(dim=1) & ~ball.strays(x[name])
            found[look.clips] |= inside & goal.reached(look.logits)
        return found

    def ends_in_gradient(self, clips: int) -> Tensor:
        """Flag clips through whose last look a gradient was taken: (B,) bool."""
        last = torch.zeros(clips, dtype=torch.bool)
        for look in self.looks:
            last[look.clips] = look.gradient
        return last


def watched(case: Case, score: Callable[[Tensor, Tensor], Tensor] | None = None) -> tuple[Witness, Case]:
    """The same case with its model under watch, and the watcher; see `Witness`."""
    witness = Witness(case.model, score)
    batch = case.batch
    tags = torch.arange(len(batch), dtype=torch.float32).unsqueeze(1)
    return witness, replace(case, model=witness, batch=replace(batch, inputs={**batch.inputs, TAG: tags}))


class StatefulEncoder(Encoder):
    """A convolution over (B, C, ...) with batch normalisation and dropout, which forward passes in training change."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dims = EncodedDims(token=5, embed=5)
        self.frontend = nn.Identity()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Conv1d(5, 5, 1)
        )

    def encode(self, features: Tensor) -> Encoded:
        """Tokens over what is laid flat behind the channels."""
        tokens = self.layers(features.flatten(2)).transpose(1, 2)
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))


class StatefulFusion(Fusion):
    """The pooled embeddings laid end to end and normalised over the batch in training."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.dim = 5 * modalities
        self.norm = nn.BatchNorm1d(self.dim)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, F)."""
        fused: Tensor = self.norm(torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1))
        return fused


def stateful_model(shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int = 0) -> AVModel:
    """A nonlinear model with batch normalisation and dropout, with seeded weights and buffers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {name: StatefulEncoder(shape[0]) for name, shape in sorted(shapes.items())}
        model = AVModel(encoders, StatefulFusion(len(shapes)), classes)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
    return model
