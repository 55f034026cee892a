"""Noise on the raw clips."""

from dataclasses import replace

from avrobust_core import Augmentation, AugmentedStep, Batch, TrainingStep
from avrobust_training.configs import NoiseConfig
from avrobust_training.draws import noise_like
from avrobust_training.refusals import refuse_missing


class Noise(Augmentation):
    """Independent noise on every value of the clips, clipped to the media's bounds (Bishop 1995).

    Each clip's noise is from its own random numbers for this epoch, the same at every replay of a batch.

    Args:
        config: of `noise`.
    """

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The noisy batch, with the same targets.

        Raises:
            DataError: if a modality that is named is not there.
        """
        refuse_missing(self.config.scale, batch, "noise: scale")
        inputs = dict(batch.inputs)
        for name, scale in self.config.scale.items():
            x = inputs[name]
            noise = noise_like(x, batch.ids, step.seed, f"noise/{name}/{step.epoch}", self.config.distribution)
            inputs[name] = step.clipped(name, x + scale * noise)
        return AugmentedStep(replace(batch, inputs=inputs))
