"""Manifold mix-up: what encoders return is mixed, between encoders and fusion."""

from collections.abc import Mapping

from torch import Tensor

from avrobust_core import Batch, Encoded, TrainingStep
from avrobust_training.configs import Layer, ManifoldMixupConfig
from avrobust_training.draws import modalities_read, one_of
from avrobust_training.pairing import PairMixing, Pairs


class ManifoldMixup(PairMixing):
    """Manifold mix-up (Verma et al. 2019, arXiv 1806.05236), at a layer that is drawn for each batch.

    At `encoded` the tokens and the pooled embedding of every modality are mixed, at `input` the raw clips, in both
    cases as mix-up does it; see `PairMixing`. The layer is a draw of the batch's clips for this epoch, whatever their
    order. The paper draws among the layers inside one network; here the place between encoders and fusion is the one
    that every model has.

    Args:
        config: says what each of its fields does.
    """

    purpose = "manifold-mixup"

    def __init__(self, config: ManifoldMixupConfig) -> None:
        super().__init__(config)
        self.together = config.together
        self.layers = tuple(config.layers)

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch, mixed if its layer is the input."""
        if self._layer(batch, step) != "input":
            return batch
        pairs = self.pairs(batch.inputs, batch.ids, step, batch.targets.device)
        read = {name: pairs[name] for name in modalities_read(pairs, step)}
        inputs = {name: self.blend_input(x, pairs[name], name, batch, step) for name, x in batch.inputs.items()}
        return Batch(inputs, self.targets(batch.targets, read, step), batch.ids)

    def encodings(
        self, encoded: Mapping[str, Encoded], batch: Batch, step: TrainingStep
    ) -> tuple[Mapping[str, Encoded], Batch]:
        """The encodings, mixed if their layer is this one, and the batch with mixed targets."""
        if self._layer(batch, step) != "encoded":
            return encoded, batch
        pairs = self.pairs(encoded, batch.ids, step, batch.targets.device)
        mixed = {
            name: Encoded(
                tokens=self.blend(found.tokens, pairs[name], f"{name}/tokens", batch, step),
                pooled=self.blend(found.pooled, pairs[name], f"{name}/pooled", batch, step),
            )
            for name, found in encoded.items()
        }
        return mixed, Batch(batch.inputs, self.targets(batch.targets, pairs, step), batch.ids)

    def blend(self, x: Tensor, pairs: Pairs, what: str, batch: Batch, step: TrainingStep) -> Tensor:
        """What becomes of (B, ...) values; `what` names them."""
        return pairs.mix(x)

    def blend_input(self, x: Tensor, pairs: Pairs, name: str, batch: Batch, step: TrainingStep) -> Tensor:
        """What becomes of the clips of a modality: within its bounds."""
        return self.blend(x, pairs, name, batch, step)

    def _layer(self, batch: Batch, step: TrainingStep) -> Layer:
        return one_of(self.layers, batch.ids, step.seed, f"{self.purpose}/layer/{step.epoch}")
