"""Noisy feature mix-up: mix-up at a layer that is drawn, with additive and multiplicative noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avrobust_core import Batch, TrainingStep
from avrobust_training.draws import clipped, generators, noise_like, per_clip
from avrobust_training.manifold_mixup import Layer, ManifoldMixup
from avrobust_training.pairing import Labels, Pairs


class NoisyFeatureMixup(ManifoldMixup):
    """Noisy feature mix-up (Lim et al. 2022, arXiv 2110.02180).

    What manifold mix-up gives, x, becomes (1 + m u) x + a s n: u uniform in [-1, 1] and n standard normal for each
    value, m and a the two levels times a strength of the clip from Beta(2, 5), as in the authors' code. Unlike there,
    s is the standard deviation of the clip's own values, since raw media and encodings are not normalised as the
    paper's pictures are; and all is drawn per clip, not per batch. Raw clips are clipped to their bounds.

    Args:
        alpha: of the Beta distribution of the ratio, > 0.
        additive: level of the additive noise, >= 0.
        multiplicative: level of the multiplicative noise, >= 0.
        layers: see `ManifoldMixup`.
        share, together, labels: see `PairMixing`; clips that are not mixed get noise, too.
    """

    def __init__(
        self,
        alpha: float,
        *,
        additive: float,
        multiplicative: float,
        layers: Sequence[Layer] = ("input", "encoded"),
        share: float = 1.0,
        together: bool = True,
        labels: Labels = "mean",
    ) -> None:
        super().__init__(
            alpha, layers=layers, share=share, together=together, labels=labels, purpose="noisy-feature-mixup"
        )
        self.additive = additive
        self.multiplicative = multiplicative

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
