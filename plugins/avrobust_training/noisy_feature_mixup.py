"""Noisy feature mix-up: mix-up at a layer that is drawn, with additive and multiplicative noise."""

import torch
from torch import Tensor

from avrobust_core import Batch, TrainingStep
from avrobust_training.configs import NoisyFeatureMixupConfig
from avrobust_training.draws import clipped, generators, noise_like, per_clip
from avrobust_training.manifold_mixup import ManifoldMixup
from avrobust_training.pairing import Pairs


class NoisyFeatureMixup(ManifoldMixup):
    """Noisy feature mix-up (Lim et al. 2022, arXiv 2110.02180).

    What manifold mix-up gives, x, becomes (1 + m u) x + a s n: u uniform in [-1, 1] and n standard normal for each
    value, m and a the two levels times a strength of the clip from Beta(2, 5), as in the authors' code. Unlike there,
    s is the standard deviation of the clip's own values, since raw media and encodings are not normalised as the
    paper's pictures are; and all is drawn per clip, not per batch. Raw clips are clipped to their bounds.

    Args:
        config: says what each of its fields does. Clips that are not mixed get noise, too.
    """

    purpose = "noisy-feature-mixup"

    def __init__(self, config: NoisyFeatureMixupConfig) -> None:
        super().__init__(config)
        self.additive = config.additive
        self.multiplicative = config.multiplicative

    def blend(self, x: Tensor, pairs: Pairs, what: str, batch: Batch, step: TrainingStep) -> Tensor:
        mixed = super().blend(x, pairs, what, batch, step)
        purpose = f"{self.purpose}/{what}/{step.epoch}"
        drawn = generators(batch.ids, step.seed, f"{purpose}/strength")
        strengths = torch.tensor([(d.beta(2, 5), d.beta(2, 5)) for d in drawn], dtype=torch.float32)
        if self.multiplicative > 0:
            u = noise_like(mixed, batch.ids, step.seed, f"{purpose}/multiplicative", "uniform")
            mixed = mixed * (1 + per_clip(self.multiplicative * strengths[:, 0], mixed) * u)
        if self.additive > 0:
            n = noise_like(mixed, batch.ids, step.seed, f"{purpose}/additive", "gaussian")
            spread = mixed.detach().flatten(1).std(dim=1, correction=0)
            mixed = mixed + per_clip(self.additive * strengths[:, 1].to(spread.device) * spread, mixed) * n
        return mixed

    def blend_input(self, x: Tensor, pairs: Pairs, name: str, batch: Batch, step: TrainingStep) -> Tensor:
        return clipped(self.blend(x, pairs, name, batch, step), name, step.media)
