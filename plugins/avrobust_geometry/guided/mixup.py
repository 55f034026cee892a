"""Guided mix-up: partners, weights and ratios follow density and convexity of the latent space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import (
    AugmentedStep,
    Batch,
    Encoded,
    ForwardPass,
    Gather,
    Mixture,
    TrainingStep,
    derive_seed,
    hard_targets,
    mixed_padding,
    soft_targets,
)
from avrobust_geometry.configs import GuidedMixupConfig
from avrobust_geometry.guided.guidance import Guided, weights_of
from avrobust_geometry.guided.guide import clip_weights
from avrobust_geometry.guided.pairs import draw_weighted, match
from avrobust_geometry.guided.tally import Tally, bin_of

CANDIDATES = 16
"""Ratios drawn from the Beta distribution, of which one is chosen where the ratio follows failures."""

NEARLY = 0.9
"""From this ratio on a mixture's embedding is taken for that of its heavier end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The pairs of an epoch.

    Attributes:
        pairs: ids of two clips that are read next to each other.
        weights: of the losses, by clip id; empty where all weigh alike.
    """

    pairs: frozenset[tuple[str, str]] = frozenset()
    weights: Mapping[str, float] = field(default_factory=dict)


class GuidedMixup(Guided):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412) whose weights, partners and ratios follow the latent space.

    It takes two clips to mix. They are read next to each other (`order`), so that both are in the batch, and each is
    mixed into the other: as many clips are read, and pass through the model, as without it. The embeddings are those
    that training has computed anyway: of clips that are learned as they are (`warmup`), of mixtures that are nearly one
    of their ends, and, where encodings are mixed, of all. No clip passes through the model for its sake.

    The idea is Li et al. 2022 (arXiv 2203.12122); their rule was never published. This one is our own.

    Args:
        config: every choice.
    """

    config: GuidedMixupConfig
    kept = Guided.kept | {"tally": Tally, "measured": Tally}

    def __init__(self, config: GuidedMixupConfig) -> None:
        super().__init__(config)
        self.tally: Tally | None = None
        self.measured: Tally | None = None
        self.plan = Plan()

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """Pairs of two clips, next to each other, in random order."""
        self.plan = Plan()
        if self.as_it_is(step.epoch):
            return None
        generator = np.random.default_rng(derive_seed(step.seed, "guided-mixup", "order", step.epoch))
        weights = self._clip_weights()
        if self.config.weigh == "loss":
            pairs, rest = match(clips, self.guide, self.config.local, generator)
        else:
            pairs = draw_weighted(clips, self.guide, weights, self.config.local, generator)
            rest = [int(generator.integers(len(clips)))] if len(clips) % 2 else []
            weights = {}
        self.plan = Plan(frozenset((clips[a], clips[b]) for a, b in pairs), weights)
        return np.concatenate([pairs.reshape(-1), np.asarray(rest, dtype=np.int64)])

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch, mixed where inputs are; targets (B, K) float32, mixed likewise.

        Shapes, dtypes and bounds of the inputs are kept; single-label targets sum to 1.
        """
        if self.as_it_is(step.epoch):
            return _Noted(batch, self, step)
        drawn = self._draw(batch.ids, step)
        device = batch.targets.device
        mixture = Mixture(drawn.ratio.to(device, non_blocking=True), drawn.partner.to(device, non_blocking=True))
        hard = hard_targets(batch.targets, step.task)
        if self.config.level == "input":
            batch = Batch(
                inputs={name: mixture.mix(x) for name, x in batch.inputs.items()},
                targets=mixture.mix(soft_targets(batch.targets, step.classes)),
                ids=batch.ids,
                padded=mixed_padding(batch.padded, dict.fromkeys(batch.inputs, drawn)),
            )
        return _Mixed(batch, self, step, drawn, mixture, hard)

    def counts(self, step: TrainingStep) -> Tally:
        """The mixtures of this epoch that were misjudged."""
        if self.tally is None:
            self.tally = Tally(step.classes)
        return self.tally

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """A new guide from what all processes have noted, and what they have misjudged."""
        if "convexity" in self.config.guide and not self.as_it_is(step.epoch):
            counts = self.counts(step)
            counts.merge(gather(counts))
            self.measured, self.tally = counts, None
        super().end_epoch(step, gather)

    def _clip_weights(self) -> dict[str, float]:
        """The weight of each clip, 1 in the mean; empty without a guide."""
        if self.guide is None:
            return {}
        counts = self.measured if "convexity" in self.config.guide else None
        budget = None if counts is None else counts.class_budget()
        return clip_weights(self.guide, budget, inverted=self.config.control == "inverted")

    def _draw(self, ids: Sequence[str], step: TrainingStep) -> Mixture:
        """Ratios and partners, on the CPU; a clip whose partner could not be read stays as it is."""
        ratio, partner = torch.ones(len(ids)), torch.arange(len(ids))
        i = 0
        while i + 1 < len(ids):
            if (ids[i], ids[i + 1]) in self.plan.pairs:
                ratio[i : i + 2] = self._ratio(ids[i], ids[i + 1], step)
                partner[i], partner[i + 1] = i + 1, i
                i += 1
            i += 1
        return Mixture(ratio, partner)

    def _ratio(self, anchor: str, partner: str, step: TrainingStep) -> float:
        generator = np.random.default_rng(derive_seed(step.seed, anchor, partner, f"guided-mixup/{step.epoch}"))
        alpha = self.config.alpha
        if "convexity" not in self.config.guide or self.measured is None or self.config.ratio == "beta":
            return generator.beta(alpha, alpha)
        drawn = generator.beta(alpha, alpha, size=CANDIDATES)
        bins = bin_of(torch.from_numpy(np.maximum(drawn, 1 - drawn)))
        chances = self.measured.ratio_budget()[bins.numpy()]
        if self.config.control == "inverted":
            chances = 1 / chances
        return float(generator.choice(drawn, p=chances / chances.sum()))


@dataclass(eq=False)
class _Noted(AugmentedStep):
    """A pass of clips that are learned as they are; their embeddings are noted."""

    guided: GuidedMixup
    step: TrainingStep

    def encodings(self, encoded: Mapping[str, Encoded], targets: Tensor) -> tuple[Mapping[str, Encoded], Tensor]:
        pooled = self.guided.embeddings(encoded, self.step)
        self.guided.fresh.add(self.batch.ids, pooled, hard_targets(targets, self.step.task))
        return encoded, targets


@dataclass(eq=False)
class _Mixed(_Noted):
    """A pass of mixed clips.

    Attributes:
        drawn: the mixture, on the CPU.
        mixture: the same, where the clips are.
        hard: targets of the clips before.
    """

    drawn: Mixture
    mixture: Mixture
    hard: Tensor

    def encodings(self, encoded: Mapping[str, Encoded], targets: Tensor) -> tuple[Mapping[str, Encoded], Tensor]:
        mix = self.mixture.mix
        if self.guided.config.level == "encoded":
            super().encodings(encoded, targets)
            mixed = {name: Encoded(mix(found.tokens), mix(found.pooled)) for name, found in encoded.items()}
            return mixed, mix(soft_targets(targets, self.step.classes))
        ratio, partner = self.drawn.ratio, self.drawn.partner
        clear = (torch.maximum(ratio, 1 - ratio) >= NEARLY).nonzero().flatten()
        if len(clear):
            heavier = torch.where(ratio >= 0.5, torch.arange(len(ratio)), partner)[clear]
            ids = [self.batch.ids[i] for i in heavier.tolist()]
            clear = clear.to(targets.device, non_blocking=True)
            heavier = heavier.to(targets.device, non_blocking=True)
            pooled = self.guided.embeddings(encoded, self.step)
            here = {name: x.index_select(0, clear) for name, x in pooled.items()}
            self.guided.fresh.add(ids, here, self.hard.index_select(0, heavier))
        return encoded, targets

    def loss(self, losses: Tensor, forward: ForwardPass) -> Tensor:
        """The losses, weighted as their clips are; for convexity, where mixtures were misjudged is counted."""
        guided, ratio, partner = self.guided, self.mixture.ratio, self.mixture.partner
        if "convexity" in guided.config.guide:
            guided.counts(self.step).add(forward.logits.detach(), ratio, self.hard, self.hard[partner])
        weights = guided.plan.weights
        if not weights:
            return losses
        own = weights_of(self.batch.ids, weights, losses)
        return losses * torch.lerp(own[partner], own, ratio.to(losses))
