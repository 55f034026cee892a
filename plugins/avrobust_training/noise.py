"""Noise on the raw clips."""

from avrobust_core import Augmentation, Batch, DataError, TrainingStep
from avrobust_training.configs import NoiseConfig
from avrobust_training.draws import clipped, noise_like


class Noise(Augmentation):
    """Independent noise on every value of the clips, clipped to the media's bounds (Bishop 1995).

    Each clip's noise is from its own generator for this epoch, the same at every replay of a batch.

    Args:
        config: says what each of its fields does.
    """

    def __init__(self, config: NoiseConfig) -> None:
        self.scale = config.scale
        self.distribution = config.distribution

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The noisy batch, with the same targets.

        Raises:
            DataError: if a modality that is named is not there.
        """
        missing = sorted(set(self.scale) - set(batch.inputs))
        if missing:
            raise DataError(
                f"noise: scale names {', '.join(missing)}; the clips have {', '.join(sorted(batch.inputs))}"
            )
        inputs = dict(batch.inputs)
        for name, scale in self.scale.items():
            x = inputs[name]
            noise = noise_like(x, batch.ids, step.seed, f"noise/{name}/{step.epoch}", self.distribution)
            inputs[name] = clipped(x + scale * noise, name, step.media)
        return Batch(inputs, batch.targets, batch.ids)
