"""Modality dropout: clips of which one modality is missing, or is another clip's."""

import torch
from torch import Tensor

from avrobust_core import Augmentation, Batch, DataError, TrainingStep
from avrobust_training.configs import ModalityDropoutConfig
from avrobust_training.draws import clipped, generators, modalities_read, per_clip


class ModalityDropout(Augmentation):
    """Of each clip one modality may be dropped, never all that the model reads (Neverova et al. 2016, ModDrop).

    ModDrop drops each channel independently; here at most one modality of a clip is dropped, so that one at least
    stays. A model that reads a single modality is trained on whole clips. Targets stay as they are. What is dropped
    is a draw of the clip's own for this epoch; whose modality replaces it depends on the set of clips in the batch,
    not on their order.

    Args:
        config: says what each of its fields does.
    """

    def __init__(self, config: ModalityDropoutConfig) -> None:
        self.probability = dict(sorted(config.probability.items()))
        self.fill = config.fill

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch with modalities dropped.

        Raises:
            DataError: if a modality that is named is not there.
        """
        missing = sorted(set(self.probability) - set(batch.inputs))
        if missing:
            raise DataError(
                f"modality-dropout: probability names {', '.join(missing)}; the clips have "
                f"{', '.join(sorted(batch.inputs))}"
            )
        if len(modalities_read(batch.inputs, step)) < 2:
            return batch
        dropped, partner = self._draw(batch, step)
        inputs = dict(batch.inputs)
        for name, chosen in dropped.items():
            x = inputs[name]
            other = x.index_select(0, partner.to(x.device)) if self.fill == "clip" else torch.zeros_like(x)
            inputs[name] = torch.where(per_clip(chosen, x).bool(), clipped(other, name, step.media), x)
        return Batch(inputs, batch.targets, batch.ids)

    def _draw(self, batch: Batch, step: TrainingStep) -> tuple[dict[str, Tensor], Tensor]:
        """By modality, whether each clip loses it, (B,) bool; and whose takes its place, (B,) int64."""
        clips = len(batch)
        order = sorted(range(clips), key=batch.ids.__getitem__)
        dropped = {name: torch.zeros(clips, dtype=torch.bool) for name in self.probability}
        partner = torch.arange(clips)
        drawn = generators(batch.ids, step.seed, f"modality-dropout/{step.epoch}")
        for rank, i in enumerate(order):
            u = float(drawn[i].random())
            partner[i] = order[(rank + 1 + int(drawn[i].integers(max(clips - 1, 1)))) % clips]
            for name, probability in self.probability.items():
                if 0 <= u < probability:
                    dropped[name][i] = True
                u -= probability
        return dropped, partner
