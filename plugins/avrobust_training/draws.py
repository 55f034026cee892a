"""Random draws of single clips, and what of a batch they may depend on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from avrobust_core import AVModel, MediaSpec, TrainingStep, derive_seed

Distribution = Literal["gaussian", "uniform"]
L = TypeVar("L")


def seeds(ids: Sequence[str], seed: int, purpose: str) -> list[int]:
    """A seed per clip; a clip that is more than once in a batch has another one each time."""
    counts: dict[str, int] = {}
    found = []
    for clip_id in ids:
        earlier = counts.get(clip_id, 0)
        counts[clip_id] = earlier + 1
        found.append(derive_seed(seed, clip_id, f"{purpose}#{earlier}" if earlier else purpose))
    return found


def generators(ids: Sequence[str], seed: int, purpose: str) -> list[np.random.Generator]:
    """A generator per clip, for the few numbers that decide what happens to it."""
    return [np.random.default_rng(found) for found in seeds(ids, seed, purpose)]


def noise_like(x: Tensor, ids: Sequence[str], seed: int, purpose: str, distribution: Distribution) -> Tensor:
    """Noise of a batch, each clip's from its own generator.

    Args:
        x: (B, ...), whose shape, dtype and device the noise has.
        ids: of the B clips.
        seed: of the fit.
        purpose: sets these draws apart from others.
        distribution: standard normal, or uniform in [-1, 1].
    """
    found = torch.empty(x.shape)
    generator = torch.Generator()
    for row, clip_seed in zip(found, seeds(ids, seed, purpose), strict=True):
        generator.manual_seed(clip_seed)
        if distribution == "gaussian":
            row.normal_(generator=generator)
        else:
            row.uniform_(-1, 1, generator=generator)
    return found.to(x.device, x.dtype)


def one_of(choices: Sequence[L], ids: Sequence[str], seed: int, purpose: str) -> L:
    """One choice for a whole batch, drawn from the set of its clips, whatever their order."""
    return choices[derive_seed(seed, *sorted(ids), purpose) % len(choices)]


def modalities_read(present: Iterable[str], step: TrainingStep) -> list[str]:
    """Those of the modalities that the model reads; all of them if it does not say."""
    model = step.model
    return [name for name in present if not isinstance(model, AVModel) or name in model.modalities]


def clipped(x: Tensor, name: str, media: Mapping[str, MediaSpec]) -> Tensor:
    """Clips of one modality, with what is outside the bounds of its media moved onto them."""
    spec = media.get(name)
    return x if spec is None or spec.bounds is None else x.clamp(*spec.bounds)


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values in a shape, dtype and place in which they act on (B, ...) clip by clip."""
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))
