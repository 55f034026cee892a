"""Partners and ratios of clips that are mixed, drawn per clip, and the targets of mixed clips."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_core import Augmentation, AvrobustError, Mixture, TrainingStep, soft_targets
from avrobust_training.configs import MixingConfig
from avrobust_training.draws import by_id, generators, other


class PairMixing(Augmentation):
    """The base of augmentations that mix pairs of clips.

    A clip's partner is any other clip of its batch, its ratio is Beta-distributed; both are drawn from the clip's own
    generator for this epoch, the same at every replay of a batch. The partner depends on the set of clips in the
    batch, as it must, but not on their order. In a batch of one the clip stays as it is.

    Args:
        config: alpha of the Beta distribution, share of the clips that are mixed, and what becomes of labels.

    Attributes:
        purpose: sets the draws apart from those of others.
        heavier: true if a clip is the heavier end of its own mixture, with the larger of the ratio and the rest, as in
            MixMatch (Berthelot et al. 2019, arXiv 1905.02249, equation 9). The mixtures are alike, but no clip is
            replaced by its partner, which would leave it out of the epoch.
    """

    purpose: ClassVar[str]
    heavier: ClassVar[bool] = True

    def __init__(self, config: MixingConfig) -> None:
        self.mixing = config

    def draw(self, ids: Sequence[str], step: TrainingStep, device: torch.device | str, of: str = "") -> Mixture:
        """Partners and ratios of the clips of a batch; `of` sets several draws for one batch apart."""
        ratio, partner = [1.0] * len(ids), list(range(len(ids)))
        order = by_id(ids)
        if len(ids) > 1:
            drawn = generators(ids, step.seed, f"{self.purpose}{of}/{step.epoch}")
            for rank, i in enumerate(order):
                found = float(drawn[i].beta(self.mixing.alpha, self.mixing.alpha))
                found = max(found, 1 - found) if self.heavier else found
                partner[i] = other(order, rank, drawn[i])
                ratio[i] = found if drawn[i].random() < self.mixing.share else 1.0
        return Mixture(
            torch.tensor(ratio).to(device, non_blocking=True), torch.tensor(partner).to(device, non_blocking=True)
        )

    def targets(self, targets: Tensor, mixtures: Iterable[Mixture], step: TrainingStep) -> Tensor:
        """The targets (B, K) float32 of clips that were mixed like this.

        Args:
            targets: (B,) int64, or (B, K) float.
            mixtures: of the modalities that the model reads; the ratio says how much of the clip is left in each.
            step: where training stands.

        Raises:
            AvrobustError: if the union of labels is asked for where a clip has one label.
        """
        if self.mixing.labels == "union" and step.task == "single-label":
            raise AvrobustError(
                f"{self.purpose}: labels: union is for clips with several labels; clips of one label need labels: mean"
            )
        soft = soft_targets(targets, step.classes)
        distinct = list({id(mixture): mixture for mixture in mixtures}.values())
        if self.mixing.labels == "union":
            return torch.stack([_union(soft, mixture) for mixture in distinct]).amax(dim=0)
        if len(distinct) == 1:
            return distinct[0].mix(soft)
        return torch.stack([mixture.mix(soft) for mixture in distinct]).mean(dim=0)


def _union(soft: Tensor, mixture: Mixture) -> Tensor:
    own = soft * (mixture.ratio > 0).unsqueeze(1)
    partners = soft.index_select(0, mixture.partner) * (mixture.ratio < 1).unsqueeze(1)
    return torch.maximum(own, partners)
