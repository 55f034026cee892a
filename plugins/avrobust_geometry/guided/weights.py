"""Guided weights: the loss of a clip counts by the density of the latent space around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AugmentedStep, Batch, Encoded, ForwardPass, TrainingStep, hard_targets
from avrobust_geometry.configs import GuidedWeightsConfig
from avrobust_geometry.guided.guidance import Guided, weights_of
from avrobust_geometry.guided.guide import clip_weights


class GuidedWeights(Guided):
    """Losses weighted by the density of the latent space, clips and targets as they are.

    The weights are those of guided mix-up, without its mixtures and its order. Whatever else the regime does to a clip
    goes with them: beside vertex mix-up, embeddings are those of the mixed clips.

    Args:
        config: every choice.
    """

    def __init__(self, config: GuidedWeightsConfig) -> None:
        super().__init__(config)
        self.weights: Mapping[str, float] = {}

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """The order as it is; the weights of the epoch."""
        self.weights = {} if self.guide is None or self.as_it_is(step.epoch) else clip_weights(self.guide)
        return None

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch as it is, the losses of which are weighted."""
        return _Weighted(batch, self, step)


@dataclass(eq=False)
class _Weighted(AugmentedStep):
    """A pass whose embeddings are noted and whose losses are weighted."""

    guided: GuidedWeights
    step: TrainingStep

    def encodings(self, encoded: Mapping[str, Encoded], targets: Tensor) -> tuple[Mapping[str, Encoded], Tensor]:
        pooled = self.guided.embeddings(encoded, self.step)
        self.guided.fresh.add(self.batch.ids, pooled, hard_targets(targets, self.step.task))
        return encoded, targets

    def loss(self, losses: Tensor, forward: ForwardPass) -> Tensor:
        weights = self.guided.weights
        return losses * weights_of(self.batch.ids, weights, losses) if weights else losses
