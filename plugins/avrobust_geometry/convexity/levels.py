"""Levels at which clips are interpolated: raw inputs, what encoders return, what the head reads, or any array."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AVModel, AvrobustError, Encoded, Probe

ELEMENTS = 1 << 22
"""Numbers of one end's latents that are held at once: 16 MiB."""

MOST = 4096
"""Segments put through at once at most."""

Ints = NDArray[np.int64]
Shares = Mapping[str, Tensor | float]
"""By part, the first clip's share in a point: (B,), or 1 or 0 for a whole clip."""
Between = Callable[[Shares], Tensor]
"""From shares to the logits (B, K) of the points there."""


class Level(ABC):
    """A place in a model where clips can be interpolated.

    Attributes:
        name: "input", "tokens", "fused"; empty for arrays.
        parts: what may be moved by itself, the rest being held: the modalities; one name if there is only one.
        batch: segments to put through at once.
        device: where ratios and logits lie.
        passed: clips that were put through so far.
    """

    name: str
    parts: tuple[str, ...] = ("all",)
    batch: int
    device: torch.device
    passed: int = 0

    def between(self, first: Ints, second: Ints) -> Between:
        """Fetch both ends of B segments, positions of clips, and return what puts points between them through."""
        clips, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
        index = torch.from_numpy(ends.reshape(-1)).to(self.device)
        a, b = index[: len(first)], index[len(first) :]
        ends_of = {name: (part, x[a], x[b]) for name, (part, x) in self._fetch(clips).items()}
        mixed: dict[str, tuple[Tensor, Tensor]] = {}

        def point(name: str, shares: Shares) -> Tensor:
            part, one, other = ends_of[name]
            share = shares[part]
            if isinstance(share, float):
                return one if share else other
            # Points that differ in another part only have this one in common.
            if name not in mixed or mixed[name][0] is not share:
                ratio = share.to(one.dtype).reshape(-1, *[1] * (one.ndim - 1))
                mixed[name] = share, one * ratio + other * (1 - ratio)
            return mixed[name][1]

        def put_through(shares: Shares) -> Tensor:
            self.passed += len(first)
            logits = self._logits({name: point(name, shares) for name in ends_of})
            if not torch.isfinite(logits).all():
                raise AvrobustError(
                    f"metric 'convexity': logits are not finite at points between clips (level {self.name!r}); look at "
                    "the model's training (did its loss become NaN?)"
                )
            return logits

        return put_through

    @abstractmethod
    def _fetch(self, clips: Ints) -> dict[str, tuple[str, Tensor]]:
        """The values to mix, by name: the part that it belongs to, and its values (n, ...) for these clips."""

    @abstractmethod
    def _logits(self, mixed: Mapping[str, Tensor]) -> Tensor:
        """(B, K) from what was mixed, by the same names."""


class InputLevel(Level):
    """Raw clips, through the whole model.

    Args:
        probe: the model.
        split: whose clips.
    """

    name = "input"

    def __init__(self, probe: Probe, split: str) -> None:
        self._probe, self._split = probe, split
        self.device, self.batch = probe.device, probe.batch_size
        if isinstance(probe.model, AVModel):
            self.parts = probe.model.modalities
        else:
            self.parts = tuple(probe.read(split, [0]))

    def _fetch(self, clips: Ints) -> dict[str, tuple[str, Tensor]]:
        inputs = self._probe.read(self._split, clips.tolist())
        return {name: (name, inputs[name]) for name in self.parts}

    def _logits(self, mixed: Mapping[str, Tensor]) -> Tensor:
        return self._probe.forward(mixed)


class TokensLevel(Level):
    """What the encoders return, tokens and pooled embedding alike, through fusion and head.

    Args:
        probe: the model.
        layers: of the clips, "tokens/<modality>" and "pooled/<modality>".
    """

    name = "tokens"

    def __init__(self, probe: Probe, layers: Mapping[str, NDArray[Any]]) -> None:
        self._probe, self.device = probe, probe.device
        self._layers = {name: x for name, x in layers.items() if name.split("/")[0] in ("tokens", "pooled")}
        self.parts = tuple(name.removeprefix("tokens/") for name in layers if name.startswith("tokens/"))
        self.batch = _batch(self._layers.values(), probe.batch_size)

    def _fetch(self, clips: Ints) -> dict[str, tuple[str, Tensor]]:
        return {name: (name.split("/", 1)[1], _rows(x, clips, self.device)) for name, x in self._layers.items()}

    def _logits(self, mixed: Mapping[str, Tensor]) -> Tensor:
        return self._probe.classify(
            {part: Encoded(mixed[f"tokens/{part}"], mixed[f"pooled/{part}"]) for part in self.parts}
        )


class FusedLevel(Level):
    """What the head reads, through the head alone.

    Args:
        probe: the model.
        layers: of the clips, "fused".
    """

    name = "fused"

    def __init__(self, probe: Probe, layers: Mapping[str, NDArray[Any]]) -> None:
        self._probe, self._fused, self.device = probe, layers["fused"], probe.device
        self.batch = _batch([self._fused], probe.batch_size)

    def _fetch(self, clips: Ints) -> dict[str, tuple[str, Tensor]]:
        return {"fused": ("all", _rows(self._fused, clips, self.device))}

    def _logits(self, mixed: Mapping[str, Tensor]) -> Tensor:
        return self._probe.head(mixed["fused"])


class ArrayLevel(Level):
    """Rows of one array, through a function of it.

    Args:
        embeddings: (N, ...) of floats, a numpy array or a torch tensor.
        classify: from (B, ...) of the same kind to logits (B, K), numpy or torch.
        batch: rows per call; by default as many as a few MiB hold.
    """

    name = ""

    def __init__(
        self, embeddings: NDArray[Any] | Tensor, classify: Callable[[Any], Any], batch: int | None = None
    ) -> None:
        self._embeddings, self._classify = embeddings, classify
        self.device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")
        self.batch = batch or _batch([embeddings], 1)

    def logits(self) -> NDArray[np.float64]:
        """Those of the rows themselves, (N, K)."""
        parts = [
            self._logits({"": self._fetch(np.arange(start, min(start + self.batch, len(self._embeddings))))[""][1]})
            for start in range(0, len(self._embeddings), self.batch)
        ]
        return torch.cat(parts).double().cpu().numpy()

    def _fetch(self, clips: Ints) -> dict[str, tuple[str, Tensor]]:
        if isinstance(self._embeddings, Tensor):
            return {"": ("all", self._embeddings[torch.from_numpy(clips).to(self.device)])}
        return {"": ("all", _rows(self._embeddings, clips, self.device))}

    def _logits(self, mixed: Mapping[str, Tensor]) -> Tensor:
        x = mixed[""]
        with torch.no_grad():
            found = self._classify(x if isinstance(self._embeddings, Tensor) else x.numpy())
        logits = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(f"classify returned shape {tuple(logits.shape)} for {len(x)} rows: give logits (B, K)")
        return (logits if logits.is_floating_point() else logits.double()).to(self.device)


def _rows(values: NDArray[Any], clips: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values[clips], dtype=values.dtype.newbyteorder("="))).to(device)


def _batch(arrays: Iterable[NDArray[Any] | Tensor], least: int) -> int:
    width = sum(prod(x.shape[1:]) for x in arrays)
    return max(least, min(MOST, ELEMENTS // max(1, width)))
