"""Mix-up: each clip of a batch becomes a convex combination of itself and another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from avrobust_core import AugmentedStep, Batch, Encoded, Mixture, TrainingStep, mixed_padding
from avrobust_training.configs import Layer, MixupConfig
from avrobust_training.draws import one_of
from avrobust_training.pairing import PairMixing


class Mixup(PairMixing):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412), with one ratio and one partner for all modalities of a clip.

    A clip x_i becomes lambda x_i + (1 - lambda) x_j, its targets likewise, with lambda the larger of a draw from
    Beta(alpha, alpha) and the rest, and j any other clip of the batch; see `PairMixing`.

    Args:
        config: of `mixup`.
    """

    purpose: ClassVar[str] = "mixup"
    layers: Sequence[Layer] = ("input",)

    def __init__(self, config: MixupConfig) -> None:
        super().__init__(config)
        self.together = config.together

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch, mixed if its layer is the input; else its encodings are to be mixed.

        Inputs keep shape, dtype and bounds; targets are (B, K) float32. Single-label targets sum to 1; multi-label
        targets are the mean of two multi-hot rows, weighted, or their union.
        """
        if one_of(self.layers, batch.ids, step.seed, f"{self.purpose}/layer/{step.epoch}") == "encoded":
            return _MixedEncodings(batch, self, step)
        mixtures = self.mixtures(batch.inputs, batch.ids, step, batch.targets)
        read = [mixtures[name] for name in step.read_by_model(mixtures)]
        inputs = {name: self.blend(x, mixtures[name], name, batch.ids, step) for name, x in batch.inputs.items()}
        padded = mixed_padding(batch.padded, mixtures)
        return AugmentedStep(Batch(inputs, self.targets(batch.targets, read, step), batch.ids, padded))

    def mixtures(
        self, modalities: Iterable[str], ids: Sequence[str], step: TrainingStep, like: Tensor
    ) -> dict[str, Mixture]:
        """Partners and ratios by modality, on the device of `like`: one and the same, or each modality's own."""
        if self.together:
            return dict.fromkeys(modalities, self.draw(ids, step, like.device))
        return {name: self.draw(ids, step, like.device, f"/{name}") for name in modalities}

    def blend(self, x: Tensor, mixture: Mixture, what: str, ids: Sequence[str], step: TrainingStep) -> Tensor:
        """Mix (B, ...) values: the clips of a modality, named by `what`, or a part of its encodings, modality/part."""
        return mixture.mix(x)


@dataclass(eq=False)
class _MixedEncodings(AugmentedStep):
    """The pass of a batch that is mixed between encoders and fusion."""

    mixup: Mixup
    step: TrainingStep

    def encodings(self, encoded: Mapping[str, Encoded], targets: Tensor) -> tuple[Mapping[str, Encoded], Tensor]:
        mixtures = self.mixup.mixtures(encoded, self.batch.ids, self.step, targets)

        def blend(x: Tensor, name: str, part: str) -> Tensor:
            return self.mixup.blend(x, mixtures[name], f"{name}/{part}", self.batch.ids, self.step)

        mixed = {
            name: Encoded(blend(found.tokens, name, "tokens"), blend(found.pooled, name, "pooled"))
            for name, found in encoded.items()
        }
        return mixed, self.mixup.targets(targets, mixtures.values(), self.step)
