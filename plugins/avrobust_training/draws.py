"""Random draws of single clips, and what of a batch they may depend on."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from avrobust_core import ClipDraws, derive_seed

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


def noise_like(
    x: Tensor, ids: Sequence[str], seed: int, purpose: str, distribution: Literal["gaussian", "uniform"]
) -> Tensor:
    """Noise of a batch, each clip's from its own random numbers.

    Args:
        x: (B, ...), whose shape, dtype and device the noise has.
        ids: of the B clips.
        seed: of the fit.
        purpose: sets these draws apart from others.
        distribution: standard normal, or uniform in [-1, 1].
    """
    return ClipDraws(seeds(ids, seed, purpose), x.device).noise(x.shape[1:], distribution).to(x.dtype)


def one_of(choices: Sequence[L], ids: Sequence[str], seed: int, purpose: str) -> L:
    """One choice for a whole batch, drawn from the set of its clips, whatever their order."""
    return choices[derive_seed(seed, *sorted(ids), purpose) % len(choices)]


def by_id(ids: Sequence[str]) -> list[int]:
    """Positions in a batch in the order of the clips' ids."""
    return sorted(range(len(ids)), key=ids.__getitem__)


def other(order: Sequence[int], rank: int, generator: np.random.Generator) -> int:
    """Any item of `order` but that at `rank`, which is taken only where it is alone."""
    return order[(rank + 1 + int(generator.integers(max(len(order) - 1, 1)))) % len(order)]
