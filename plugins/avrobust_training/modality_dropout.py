"""Modality dropout: clips of which one modality is missing, or is another clip's."""

import torch
from torch import Tensor

from avrobust_core import Augmentation, AugmentedStep, Batch, Mixture, TrainingStep, mixed_padding, per_clip
from avrobust_training.configs import ModalityDropoutConfig
from avrobust_training.draws import by_id, generators, other
from avrobust_training.refusals import refuse_missing


class ModalityDropout(Augmentation):
    """Of each clip one modality may be dropped, never all that the model reads (Neverova et al. 2016, ModDrop).

    ModDrop drops each channel independently; here at most one modality of a clip is dropped, so that one at least
    stays. A model that reads a single modality is trained on whole clips. Targets stay as they are. What is dropped
    is a draw of the clip's own for this epoch; whose modality replaces it depends on the set of clips in the batch,
    not on their order.

    Args:
        config: of `modality-dropout`.
    """

    def __init__(self, config: ModalityDropoutConfig) -> None:
        self.probability = dict(sorted(config.probability.items()))
        self.fill = config.fill

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch with modalities dropped.

        Raises:
            DataError: if a modality that is named is not there.
        """
        refuse_missing(self.probability, batch, "modality-dropout: probability")
        if len(step.read_by_model(batch.inputs)) < 2:
            return AugmentedStep(batch)
        dropped, partner = self._draw(batch, step)
        inputs = dict(batch.inputs)
        for name, chosen in dropped.items():
            x = inputs[name]
            filling = (
                x.index_select(0, partner.to(x.device, non_blocking=True))
                if self.fill == "clip"
                else torch.zeros_like(x)
            )
            inputs[name] = torch.where(
                per_clip(chosen.to(x.device, non_blocking=True), x), step.clipped(name, filling), x
            )
        padded = batch.padded
        if self.fill == "clip":
            padded = mixed_padding(padded, {name: Mixture((~d).float(), partner) for name, d in dropped.items()})
        return AugmentedStep(Batch(inputs, batch.targets, batch.ids, padded))

    def _draw(self, batch: Batch, step: TrainingStep) -> tuple[dict[str, Tensor], Tensor]:
        """By modality, whether each clip loses it, (B,) bool; and whose takes its place, (B,) int64."""
        dropped = {name: torch.zeros(len(batch), dtype=torch.bool) for name in self.probability}
        partner = torch.arange(len(batch))
        drawn = generators(batch.ids, step.seed, f"modality-dropout/{step.epoch}")
        order = by_id(batch.ids)
        for rank, i in enumerate(order):
            u = float(drawn[i].random())
            partner[i] = other(order, rank, drawn[i])
            for name, probability in self.probability.items():
                if 0 <= u < probability:
                    dropped[name][i] = True
                u -= probability
        return dropped, partner
