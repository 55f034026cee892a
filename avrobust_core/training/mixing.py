"""Clips mixed in pairs, and targets that are soft."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from avrobust_core.data.media import Task
from avrobust_core.threats.clips import per_clip


@dataclass(frozen=True, slots=True)
class Mixture:
    """Each clip of a batch mixed with another one.

    Attributes:
        ratio: (B,) float32 in [0, 1], the clip's own part; 1 where it stays as it is.
        partner: (B,) int64, the position of the other clip.
    """

    ratio: Tensor
    partner: Tensor

    def mix(self, x: Tensor) -> Tensor:
        """Each clip's own part of (B, ...) and its partner's, never outside the interval between the two."""
        # lerp keeps to the interval between its ends, which a sum of two rounded products may leave.
        return x.index_select(0, self.partner).lerp_(x, per_clip(self.ratio.to(x), x))


def mixed_padding(
    padded: Sequence[Mapping[str, float]], mixtures: Mapping[str, Mixture]
) -> tuple[Mapping[str, float], ...]:
    """The padding of clips once they are mixed: what is padding in a clip and in its partner.

    Args:
        padded: of each clip, as `Batch.padded` has it.
        mixtures: by modality; others stay as they are.
    """
    if not any(padded):
        return tuple(padded)  # and no wait for a device
    found = [dict(clip) for clip in padded]
    for name, mixture in mixtures.items():
        for i, (ratio, partner) in enumerate(zip(mixture.ratio.tolist(), mixture.partner.tolist(), strict=True)):
            if ratio < 1:
                found[i][name] = min(clip.get(name, 0.0) for clip in (padded[i], padded[partner]))
    return tuple({name: share for name, share in clip.items() if share} for clip in found)


def soft_targets(targets: Tensor, classes: int) -> Tensor:
    """Targets (B, K) float of (B,) class indices; those that are float already stay as they are."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes).float()


def hard_targets(targets: Tensor, task: Task) -> Tensor:
    """Targets of which soft ones of a single label become the heaviest class: (B,) int64, or (B, K) multi-hot."""
    return targets.argmax(dim=1) if task == "single-label" and targets.is_floating_point() else targets
