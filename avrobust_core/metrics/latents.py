"""The latent space of whole splits, as a metric may ask for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

LayerKind = Literal["pooled", "tokens", "fused"]
"""pooled and tokens: what each encoder returns, before fusion; fused: what the head reads."""


@dataclass(frozen=True, slots=True)
class LatentRequest:
    """Latents that a metric asks for.

    Attributes:
        split: a split of the data set; None for the one that is evaluated.
        kinds: which layers; each kind of an encoder's stands for one layer per modality.
    """

    split: str | None
    kinds: frozenset[LayerKind]


@dataclass(frozen=True, slots=True)
class Latents:
    """The layers of a model, on the way to its logits, for the clips of one split.

    Attributes:
        ids: N clips.
        targets: (N,) int64, or (N, K) float32 multi-hot.
        logits: (N, K) float32, finite; (N, 0) where only embeddings are known.
        layers: by name, float32 and finite, perhaps memory-mapped and then read-only: "pooled/<modality>" (N, E),
            "tokens/<modality>" (N, T, D), "fused" (N, F), or (N, L, F) where the head pools it.
    """

    ids: tuple[str, ...]
    targets: NDArray[Any]
    logits: NDArray[Any]
    layers: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.ids)
