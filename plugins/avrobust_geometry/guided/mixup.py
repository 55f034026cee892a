"""Guided mix-up: which clips are mixed with which, and how much, follows density and convexity of the latent space."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Augmentation, Batch, Encoded, Gather, Passed, TrainingStep, derive_seed
from avrobust_geometry.configs import GuidedMixupConfig
from avrobust_geometry.guided.guide import Guide, clip_weights, make_guide
from avrobust_geometry.guided.notes import Notes, Projection
from avrobust_geometry.guided.pairs import draw_weighted, match
from avrobust_geometry.guided.tally import Tally, bin_of

CANDIDATES = 16
"""Ratios drawn from the Beta distribution, of which one is chosen where the ratio follows failures."""

NEARLY = 0.9
"""From this ratio on a mixture's embedding is taken for that of its heavier end."""


@dataclass(frozen=True, slots=True)
class _Mixed:
    """How the clips of the batch in hand were mixed.

    Attributes:
        ratio: (B,) of the clip itself; 1 where it has no partner.
        partner: (B,) the partner's position in the batch.
        targets: of the clips before.
        clear: positions of the mixtures that are nearly one clip.
        heavier: for each of these, the position of that clip.
        heavier_ids: and its id.
    """

    ratio: Tensor
    partner: Tensor
    targets: Tensor
    clear: Tensor
    heavier: Tensor
    heavier_ids: tuple[str, ...]


class GuidedMixup(Augmentation):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412) whose weights, partners and ratios follow the latent space.

    It takes two clips to mix. They are read next to each other (`order`), so that both are in the batch, and each is
    mixed into the other: as many clips are read, and pass through the model, as without it. The embeddings are those
    that training has computed anyway: of clips that are learned as they are (`warmup`), of mixtures that are nearly one
    of their ends, and, where encodings are mixed, of all. No clip passes through the model for its sake.

    The idea is Li et al. 2022 (arXiv 2203.12122); their rule was never published. This one is our own.

    Args:
        config: every choice.
    """

    def __init__(self, config: GuidedMixupConfig) -> None:
        self.config = config
        self.notes = Notes()
        self.fresh = Notes()
        self.projection = Projection(config.width)
        self.guide: Guide | None = None
        self.tally: Tally | None = None
        self.measured: Tally | None = None
        self._pairs: frozenset[tuple[str, str]] = frozenset()
        self._weights: dict[str, float] = {}
        self._mixed: _Mixed | None = None

    def as_it_is(self, epoch: int) -> bool:
        """Whether the clips of an epoch are learned as they are."""
        return epoch < self.config.warmup

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """Pairs of two clips, next to each other, in random order."""
        self._pairs, self._weights = frozenset(), {}
        if self.as_it_is(step.epoch):
            return None
        generator = np.random.default_rng(derive_seed(step.seed, "guided-mixup", "order", step.epoch))
        weights = self._clip_weights()
        if self.config.weigh == "loss":
            self._weights = weights
            pairs, rest = match(clips, self.guide, self.config.local, generator)
        else:
            pairs = draw_weighted(clips, self.guide, weights, self.config.local, generator)
            rest = [int(generator.integers(len(clips)))] if len(clips) % 2 else []
        self._pairs = frozenset((clips[a], clips[b]) for a, b in pairs)
        return np.concatenate([pairs.reshape(-1), np.asarray(rest, dtype=np.int64)])

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch, mixed where inputs are; targets (B, K) float32, mixed likewise.

        Shapes, dtypes and bounds of the inputs are kept; single-label targets sum to 1.
        """
        self._mixed = None if self.as_it_is(step.epoch) else self._draw(batch, step)
        mixed = self._mixed
        if mixed is None or self.config.level != "input":
            return batch
        return Batch(
            inputs={name: _mix(x, mixed) for name, x in batch.inputs.items()},
            targets=_mix(_dense(batch.targets, step), mixed),
            ids=batch.ids,
        )

    def encodings(
        self, encoded: Mapping[str, Encoded], batch: Batch, step: TrainingStep
    ) -> tuple[Mapping[str, Encoded], Batch]:
        """The encodings, noted where clips are unmixed, or nearly, and mixed where encodings are."""
        mixed = self._mixed
        pooled = {name: self.projection(name, found.pooled.detach(), step.seed) for name, found in encoded.items()}
        if mixed is None or self.config.level == "encoded":
            self.fresh.add(batch.ids, pooled, _hard(batch.targets, step))
        elif mixed.heavier_ids:
            here = {name: x.index_select(0, mixed.clear) for name, x in pooled.items()}
            self.fresh.add(mixed.heavier_ids, here, mixed.targets.index_select(0, mixed.heavier))
        if mixed is None or self.config.level != "encoded":
            return encoded, batch
        between = {name: Encoded(_mix(x.tokens, mixed), _mix(x.pooled, mixed)) for name, x in encoded.items()}
        return between, Batch(batch.inputs, _mix(_dense(batch.targets, step), mixed), batch.ids)

    def loss(self, losses: Tensor, passed: Passed, step: TrainingStep) -> Tensor:
        """The losses, weighted as their clips are; for convexity, where mixtures were misjudged is counted."""
        mixed = self._mixed
        if mixed is None:
            return losses
        if "convexity" in self.config.guide:
            self._counts(step).add(passed.logits.detach(), mixed.ratio, mixed.targets, mixed.targets[mixed.partner])
        if not self._weights:
            return losses
        own = torch.tensor([self._weights.get(clip_id, 1.0) for clip_id in passed.batch.ids]).to(losses)
        return losses * torch.lerp(own[mixed.partner], own, mixed.ratio.to(losses))

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """A new guide from what all processes have noted."""
        self._pairs, self._mixed = frozenset(), None
        if "convexity" in self.config.guide and not self.as_it_is(step.epoch):
            counts = self._counts(step)
            counts.merge(gather(counts))
            self.measured, self.tally = counts, None
        after = step.epoch + 1 - self.config.warmup
        due = after >= 0 and after % self.config.refresh == 0 and step.epoch + 1 < step.epochs
        self.notes.merge(gather(self.fresh))
        self.fresh = Notes()
        if due and len(self.notes) > 1:
            seed = derive_seed(step.seed, "guided-mixup", "guide", step.epoch) % (1 << 32)
            device = next(step.model.parameters()).device
            self.guide = make_guide(self.notes, step.classes, self.config, seed, device)

    def state_dict(self) -> dict[str, Any]:
        """Notes, guide and counts."""
        return {
            "notes": self.notes.state_dict(),
            "fresh": self.fresh.state_dict(),
            "guide": None if self.guide is None else self.guide.state_dict(),
            "tally": None if self.tally is None else self.tally.state_dict(),
            "measured": None if self.measured is None else self.measured.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.notes, self.fresh = Notes.of(state["notes"]), Notes.of(state["fresh"])
        self.guide = None if state["guide"] is None else Guide.of(state["guide"])
        self.tally = None if state["tally"] is None else Tally.of(state["tally"])
        self.measured = None if state["measured"] is None else Tally.of(state["measured"])

    def _counts(self, step: TrainingStep) -> Tally:
        if self.tally is None:
            self.tally = Tally(step.classes)
        return self.tally

    def _clip_weights(self) -> dict[str, float]:
        """How much each clip weighs, 1 in the mean; empty where there is no guide."""
        if self.guide is None:
            return {}
        budget = None if self.measured is None else self.measured.class_budget()
        return dict(zip(self.guide.ids, clip_weights(self.guide, budget, self.config).tolist(), strict=True))

    def _draw(self, batch: Batch, step: TrainingStep) -> _Mixed:
        positions = np.arange(len(batch))
        ratio, partner = np.ones(len(batch), dtype=np.float32), positions.copy()
        for i in self._pairs_in(batch.ids):
            ratio[i : i + 2] = self._ratio(batch.ids[i], batch.ids[i + 1], step)
            partner[i], partner[i + 1] = i + 1, i
        clear = np.flatnonzero(np.maximum(ratio, 1 - ratio) >= NEARLY)
        heavier = np.where(ratio >= 0.5, positions, partner)[clear]
        device = batch.targets.device
        return _Mixed(
            torch.from_numpy(ratio).to(device),
            torch.from_numpy(partner).to(device),
            _hard(batch.targets, step),
            torch.from_numpy(clear).to(device),
            torch.from_numpy(heavier).to(device),
            tuple(batch.ids[i] for i in heavier.tolist()),
        )

    def _pairs_in(self, ids: Sequence[str]) -> Iterator[int]:
        """Where pairs begin; a clip whose partner could not be read stays as it is."""
        i = 0
        while i + 1 < len(ids):
            paired = (ids[i], ids[i + 1]) in self._pairs
            if paired:
                yield i
            i += 2 if paired else 1

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


def _mix(x: Tensor, mixed: _Mixed) -> Tensor:
    # lerp never leaves the interval between its two ends, where a sum of two rounded products may.
    ratio = mixed.ratio.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    return x.index_select(0, mixed.partner).lerp_(x, ratio)


def _dense(targets: Tensor, step: TrainingStep) -> Tensor:
    return targets if targets.is_floating_point() else F.one_hot(targets, step.classes).float()


def _hard(targets: Tensor, step: TrainingStep) -> Tensor:
    """Class indices (B,), or multi-hot (B, K), of targets that another augmentation may have made soft."""
    if step.task == "single-label" and targets.is_floating_point():
        return targets.argmax(dim=1)
    return targets
