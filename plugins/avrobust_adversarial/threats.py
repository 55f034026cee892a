"""The clips of a training batch that are attacked, and the threat that each falls under."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from avrobust_core import Batch, DataError, ThreatModel, TrainingStep, derive_seed

ALL_SEEDS = 2**63
"""One more than the largest seed that `derive_seed` gives."""


class Threats:
    """The threats of a training regime, and the clips that fall under each.

    (seed, clip id, purpose, epoch) alone decide what becomes of a clip: never its batch.

    Args:
        threats: one at least.
        purpose: of the random numbers.
        warmup: epochs over which the radii grow from 0 to their full size.
        share: probability that a clip is attacked.
    """

    def __init__(self, threats: Sequence[ThreatModel], *, purpose: str, warmup: int = 0, share: float = 1.0) -> None:
        self.threats = tuple(threats)
        self.purpose = purpose
        self.warmup = warmup
        self.share = share

    @property
    def constant(self) -> bool:
        """Whether each clip falls under the same threat in every epoch."""
        return len(self.threats) == 1 and not self.warmup

    def assigned(self, batch: Batch, step: TrainingStep) -> list[tuple[ThreatModel, Tensor]]:
        """Each threat with the clips that are attacked under it, as (n,) int64 positions in the batch; n > 0.

        Every threat is restricted to what the model reads; one that touches none of it is left out. Empty where nothing
        is attacked.

        Raises:
            DataError: if a threat names a modality that the data set does not have.
        """
        factor = min(1.0, step.epoch / self.warmup) if self.warmup else 1.0
        threats = self._open_to(batch, step)
        if factor == 0 or not threats:
            return []
        if factor < 1:
            threats = [threat.scaled(factor) for threat in threats]
        positions: list[list[int]] = [[] for _ in threats]
        for i, clip_id in enumerate(batch.ids):
            if self.share == 1 or self._draw(clip_id, "share", step) < self.share * ALL_SEEDS:
                choice = self._draw(clip_id, "threat", step) % len(threats) if len(threats) > 1 else 0
                positions[choice].append(i)
        device = batch.targets.device
        return [
            (threat, torch.tensor(found, dtype=torch.int64).to(device, non_blocking=True))
            for threat, found in zip(threats, positions, strict=True)
            if found
        ]

    def _draw(self, clip_id: str, what: str, step: TrainingStep) -> int:
        return derive_seed(step.seed, clip_id, f"{self.purpose}/{what}/{step.epoch}")

    def _open_to(self, batch: Batch, step: TrainingStep) -> list[ThreatModel]:
        known = step.media or batch.inputs
        unknown = sorted({name for threat in self.threats for name in threat.modalities if name not in known})
        if unknown:
            raise DataError(
                f"{self.purpose} attacks {', '.join(unknown)}, but the data set has: {', '.join(sorted(known))}"
            )
        found = (threat.restricted(step.read_by_model(batch.inputs)) for threat in self.threats)
        return [threat for threat in found if threat is not None]


def part_of(batch: Batch, index: Tensor) -> Batch:
    """The clips at `index` (int64 positions, ascending); the batch itself where these are all."""
    return batch if len(index) == len(batch) else batch.select(index)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The clips of x (B, ...) at `index` (int64 positions, ascending); x itself where these are all."""
    return x if len(index) == len(x) else x.index_select(0, index)


def put(into: Mapping[str, Tensor], index: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with the clips at `index` (int64 positions, ascending) replaced by those found, by modality."""
    replaced = dict(into)
    for name, x in found.items():
        replaced[name] = x if len(x) == len(into[name]) else into[name].index_copy(0, index, x)
    return replaced
