"""Who is mixed with whom: partners and ratios drawn per clip, and the targets of clips that are mixed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Augmentation, AvrobustError, TrainingStep
from avrobust_training.configs import MixingConfig
from avrobust_training.draws import generators, per_clip


@dataclass(frozen=True, slots=True)
class Pairs:
    """Each clip of a batch and its partner.

    Attributes:
        ratio: (B,) float32 in [0, 1], the clip's own part; 1 where it stays as it is.
        partner: (B,) int64, the position of the other clip.
    """

    ratio: Tensor
    partner: Tensor

    def mix(self, x: Tensor) -> Tensor:
        """Each clip's own part of (B, ...) and its partner's, never outside the interval between the two."""
        # lerp keeps to the interval between its ends, which a sum of two rounded products may leave.
        return x.index_select(0, self.partner).lerp_(x, per_clip(self.ratio, x))


class PairMixing(Augmentation):
    """What augmentations that mix pairs of clips share.

    A clip's partner is any other clip of its batch, its ratio is Beta-distributed; both are drawn from the clip's own
    generator for this epoch, the same at every replay of a batch. Who the partner is depends on the set of clips in
    the batch, as it must, but not on their order. In a batch of one the clip stays as it is.

    Args:
        config: says what each of its fields does.

    Attributes:
        purpose: sets the draws apart from those of others.
        together: one ratio and partner for all modalities of a clip; otherwise each modality draws its own, and the
            targets are the mean over modalities of what each of them would give.
        heavier: whether a clip is the heavier end of its own mixture, with the larger of the ratio and the rest, as in
            MixMatch (Berthelot et al. 2019, arXiv 1905.02249, equation 9). The mixtures are alike, but no clip is
            replaced by its partner, which would leave it out of the epoch.
    """

    purpose: ClassVar[str]
    heavier: ClassVar[bool] = True
    together: bool = True

    def __init__(self, config: MixingConfig) -> None:
        self.alpha = config.alpha
        self.share = config.share
        self.labels = config.labels

    def pairs(
        self, modalities: Iterable[str], ids: Sequence[str], step: TrainingStep, device: torch.device
    ) -> dict[str, Pairs]:
        """The pairs by modality: one and the same, or each modality's own."""
        if self.together:
            return dict.fromkeys(modalities, self._draw(ids, step, self.purpose, device))
        return {name: self._draw(ids, step, f"{self.purpose}/{name}", device) for name in modalities}

    def targets(self, targets: Tensor, pairs: Mapping[str, Pairs], step: TrainingStep) -> Tensor:
        """The targets (B, K) float32 of clips that were mixed like this.

        Args:
            targets: (B,) int64, or (B, K) float.
            pairs: by modality that the model reads; the ratio says how much of the clip is left in it.
            step: where training stands.

        Raises:
            AvrobustError: if the union of labels is asked for where a clip has one label.
        """
        if self.labels == "union" and step.task == "single-label":
            raise AvrobustError(
                f"{self.purpose}: labels: union is for clips with several labels; clips of one label need labels: mean"
            )
        soft = targets if targets.is_floating_point() else F.one_hot(targets, step.classes).float()
        distinct = list({id(pair): pair for pair in pairs.values()}.values())
        if self.labels == "union":
            return torch.stack([_union(soft, pair) for pair in distinct]).amax(dim=0)
        if len(distinct) == 1:
            return distinct[0].mix(soft)
        return torch.stack([pair.mix(soft) for pair in distinct]).mean(dim=0)

    def _draw(self, ids: Sequence[str], step: TrainingStep, purpose: str, device: torch.device) -> Pairs:
        clips = len(ids)
        order = sorted(range(clips), key=ids.__getitem__)
        ratio, partner = [1.0] * clips, list(range(clips))
        if clips > 1:
            drawn = generators(ids, step.seed, f"{purpose}/{step.epoch}")
            for rank, i in enumerate(order):
                found = float(drawn[i].beta(self.alpha, self.alpha))
                found = max(found, 1 - found) if self.heavier else found
                partner[i] = order[(rank + 1 + int(drawn[i].integers(clips - 1))) % clips]
                ratio[i] = found if drawn[i].random() < self.share else 1.0
        return Pairs(
            torch.tensor(ratio).to(device, non_blocking=True), torch.tensor(partner).to(device, non_blocking=True)
        )


def _union(soft: Tensor, pair: Pairs) -> Tensor:
    own = soft * (pair.ratio > 0).unsqueeze(1)
    other = soft.index_select(0, pair.partner) * (pair.ratio < 1).unsqueeze(1)
    return torch.maximum(own, other)
