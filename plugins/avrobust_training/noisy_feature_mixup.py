"""Noisy feature mix-up: mix-up at a layer that is drawn, with additive and multiplicative noise."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_core import Mixture, TrainingStep, per_clip
from avrobust_training.configs import NoisyFeatureMixupConfig
from avrobust_training.draws import generators, noise_like
from avrobust_training.manifold_mixup import ManifoldMixup


class NoisyFeatureMixup(ManifoldMixup):
    """Noisy feature mix-up (Lim et al. 2022, arXiv 2110.02180).

    What manifold mix-up gives, x, becomes (1 + m u) x + a s n: u uniform in [-1, 1] and n standard normal for each
    value, m and a the two levels times a strength of the clip from Beta(2, 5), as in the authors' code. Unlike there,
    s is the standard deviation of the clip's own values, since raw media and encodings are not normalised as the
    paper's pictures are; and all is drawn per clip, not per batch. Raw clips are clipped to their bounds. Clips that
    are not mixed get noise, too.

    Args:
        config: of `noisy-feature-mixup`.
    """

    purpose: ClassVar[str] = "noisy-feature-mixup"

    def __init__(self, config: NoisyFeatureMixupConfig) -> None:
        super().__init__(config)
        self.additive = config.additive
        self.multiplicative = config.multiplicative

    def blend(self, x: Tensor, mixture: Mixture, what: str, ids: Sequence[str], step: TrainingStep) -> Tensor:
        mixed = super().blend(x, mixture, what, ids, step)
        purpose = f"{self.purpose}/{what}/{step.epoch}"
        drawn = generators(ids, step.seed, f"{purpose}/strength")
        strengths = torch.tensor([(d.beta(2, 5), d.beta(2, 5)) for d in drawn], dtype=torch.float32)
        strengths = strengths.to(mixed.device, non_blocking=True)
        if self.multiplicative > 0:
            u = noise_like(mixed, ids, step.seed, f"{purpose}/multiplicative", "uniform")
            mixed = mixed * (1 + per_clip((self.multiplicative * strengths[:, 0]).to(mixed.dtype), mixed) * u)
        if self.additive > 0:
            n = noise_like(mixed, ids, step.seed, f"{purpose}/additive", "gaussian")
            spread = mixed.detach().flatten(1).std(dim=1, correction=0)
            mixed = mixed + per_clip((self.additive * strengths[:, 1] * spread).to(mixed.dtype), mixed) * n
        return step.clipped(what, mixed)  # encodings have no media, and so no bounds
