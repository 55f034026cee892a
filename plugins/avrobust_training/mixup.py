"""Mix-up: each clip of a batch becomes a convex combination of itself and another."""

from avrobust_core import Batch, TrainingStep
from avrobust_training.configs import MixupConfig
from avrobust_training.draws import modalities_read
from avrobust_training.pairing import PairMixing


class Mixup(PairMixing):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412), with one ratio and one partner for all modalities of a clip.

    A clip x_i becomes lambda x_i + (1 - lambda) x_j, its targets likewise, with lambda the larger of a draw from
    Beta(alpha, alpha) and the rest, and j any other clip of the batch; see `PairMixing`.

    Args:
        config: says what each of its fields does.
    """

    purpose = "mixup"

    def __init__(self, config: MixupConfig) -> None:
        super().__init__(config)
        self.together = config.together

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The mixed batch: inputs as before in shape, dtype and bounds; targets (B, K) float32.

        Single-label targets sum to 1; multi-label targets are the mean of two multi-hot rows, weighted, or their
        union.
        """
        pairs = self.pairs(batch.inputs, batch.ids, step, batch.targets.device)
        read = {name: pairs[name] for name in modalities_read(pairs, step)}
        return Batch(
            inputs={name: pairs[name].mix(x) for name, x in batch.inputs.items()},
            targets=self.targets(batch.targets, read, step),
            ids=batch.ids,
        )
