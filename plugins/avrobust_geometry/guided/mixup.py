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
from avrobust_geometry.guided.guide import Guide, anchor_weights, make_guide
from avrobust_geometry.guided.notes import Notes, Tally, bin_of

CANDIDATES = 16
"""Ratios drawn from the Beta distribution, of which one is chosen where the ratio follows failures."""


@dataclass(frozen=True, slots=True)
class _Mixed:
    """How the clips of the batch in hand were mixed.

    Attributes:
        ratio: (B,) of the clip itself; 1 where it has no partner.
        partner: (B,) the partner's position in the batch.
        targets: of the clips before.
    """

    ratio: Tensor
    partner: Tensor
    targets: Tensor


class GuidedMixup(Augmentation):
    """Mix-up (Zhang et al. 2018, arXiv 1710.09412) whose anchors, partners and ratios follow the latent space.

    It takes two clips to mix. They are read next to each other (`order`), so that both are in the batch, and each is
    mixed into the other: as many clips are read, and pass through the model, as without it. The embeddings are those
    that training has computed for unmixed clips: in every epoch where encodings are mixed, in the epochs that are
    learned as they are (`warmup`, `refresh`) where inputs are. No clip passes through the model for its sake.

    The idea is Li et al. 2022 (arXiv 2203.12122); their rule was never published. This one is our own.

    Args:
        config: every choice.
    """

    def __init__(self, config: GuidedMixupConfig) -> None:
        self.config = config
        self.notes = Notes()
        self.guide: Guide | None = None
        self.tally: Tally | None = None
        self.measured: Tally | None = None
        self._pairs: frozenset[tuple[str, str]] = frozenset()
        self._mixed: _Mixed | None = None

    def as_it_is(self, epoch: int) -> bool:
        """Whether the clips of an epoch are learned as they are."""
        after = epoch - self.config.warmup
        if after < 0:
            return True
        refresh = self.config.refresh
        return self.config.level == "input" and refresh > 0 and after % refresh == refresh - 1

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """Pairs of an anchor and its partner, next to each other, in random order."""
        self._pairs = frozenset()
        if self.as_it_is(step.epoch):
            return None
        generator = np.random.default_rng(derive_seed(step.seed, "guided-mixup", "order", step.epoch))
        anchors, partners = self._draw_pairs(clips, generator)
        pairs = np.stack([anchors, partners], axis=1)[generator.permutation(len(anchors))]
        self._pairs = frozenset((clips[a], clips[b]) for a, b in pairs)
        rest = [int(generator.integers(len(clips)))] if len(clips) % 2 else []
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
        """The encodings, noted where clips are unmixed, and mixed where encodings are."""
        mixed = self._mixed
        if mixed is None or self.config.level == "encoded":
            self.notes.add(
                batch.ids, {name: found.pooled for name, found in encoded.items()}, _hard(batch.targets, step)
            )
        if mixed is None or self.config.level != "encoded":
            return encoded, batch
        between = {name: Encoded(_mix(x.tokens, mixed), _mix(x.pooled, mixed)) for name, x in encoded.items()}
        return between, Batch(batch.inputs, _mix(_dense(batch.targets, step), mixed), batch.ids)

    def loss(self, losses: Tensor, passed: Passed, step: TrainingStep) -> Tensor:
        """The losses as they are; where mixtures were misjudged is counted."""
        mixed = self._mixed
        if mixed is not None:
            self._counts(step).add(passed.logits.detach(), mixed.ratio, mixed.targets, mixed.targets[mixed.partner])
        return losses

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """A new guide from what all processes have noted."""
        self._pairs, self._mixed = frozenset(), None
        if not self.as_it_is(step.epoch):
            counts = self._counts(step)
            counts.merge(gather(counts))
            self.measured, self.tally = counts, None
        renewed = self.as_it_is(step.epoch) or self.config.level == "encoded"
        if renewed:
            self.notes.merge(gather(self.notes))
        due = renewed and not self.as_it_is(step.epoch + 1) and step.epoch + 1 < step.epochs
        if due and len(self.notes.rows) > 1:
            seed = derive_seed(step.seed, "guided-mixup", "guide", step.epoch) % (1 << 32)
            self.guide = make_guide(self.notes, step.classes, self.config, seed)

    def state_dict(self) -> dict[str, Any]:
        """Notes, guide and counts."""
        return {
            "notes": self.notes.state_dict(),
            "guide": None if self.guide is None else self.guide.state_dict(),
            "tally": None if self.tally is None else self.tally.state_dict(),
            "measured": None if self.measured is None else self.measured.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.notes = Notes.of(state["notes"])
        self.guide = None if state["guide"] is None else Guide.of(state["guide"])
        self.tally = None if state["tally"] is None else Tally.of(state["tally"])
        self.measured = None if state["measured"] is None else Tally.of(state["measured"])

    def _counts(self, step: TrainingStep) -> Tally:
        if self.tally is None:
            self.tally = Tally(step.classes)
        return self.tally

    def _draw_pairs(
        self, clips: Sequence[str], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Anchors and partners: (n // 2,) positions each."""
        half = len(clips) // 2
        guide = self.guide
        place = {clip_id: i for i, clip_id in enumerate(clips)}
        rows = np.full(len(clips), -1, dtype=np.int64)
        if guide is not None:
            for row, clip_id in enumerate(guide.ids):
                if clip_id in place:
                    rows[place[clip_id]] = row
        weights = np.ones(len(clips))
        if guide is not None:
            budget = None if self.measured is None else self.measured.class_budget()
            weights[rows >= 0] = anchor_weights(guide, budget, self.config)[rows[rows >= 0]]
        anchors = systematic(weights, half, generator)
        unused = _Pool(len(clips), anchors, generator)
        partners = np.empty(half, dtype=np.int64)
        for i, anchor in enumerate(anchors):
            near = -1
            if guide is not None and rows[anchor] >= 0 and generator.random() < self.config.local:
                chances = guide.chances[rows[anchor]]
                if chances.any():
                    row = int(guide.partners[rows[anchor]][generator.choice(len(chances), p=chances / chances.sum())])
                    near = place.get(guide.ids[row], -1)
            partners[i] = near if near >= 0 else unused.take(int(anchor))
        return anchors, partners

    def _draw(self, batch: Batch, step: TrainingStep) -> _Mixed:
        ratio, partner = torch.ones(len(batch)), torch.arange(len(batch))
        for i in self._pairs_in(batch.ids):
            drawn = self._ratio(batch.ids[i], batch.ids[i + 1], step)
            ratio[i] = ratio[i + 1] = drawn
            partner[i], partner[i + 1] = i + 1, i
        device = batch.targets.device
        return _Mixed(ratio.to(device), partner.to(device), _hard(batch.targets, step))

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
        drawn = generator.beta(self.config.alpha, self.config.alpha, size=CANDIDATES)
        if "convexity" not in self.config.guide or self.measured is None or self.config.ratio == "beta":
            return float(drawn[0])
        chances = self.measured.ratio_budget()[bin_of(np.maximum(drawn, 1 - drawn))]
        if self.config.control == "inverted":
            chances = 1 / chances
        return float(generator.choice(drawn, p=chances / chances.sum()))


class _Pool:
    """Partners from anywhere, those that are no anchors first: without a guide every clip comes once."""

    def __init__(self, n: int, anchors: NDArray[np.int64], generator: np.random.Generator) -> None:
        self._n = n
        self._generator = generator
        self._left = list(generator.permutation(np.setdiff1d(np.arange(n), anchors)))

    def take(self, anchor: int) -> int:
        """A partner that is not the anchor itself."""
        if self._left:
            return int(self._left.pop())
        return int((anchor + 1 + self._generator.integers(self._n - 1)) % self._n)


def systematic(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions drawn in proportion to their weights, each its expected number of times, rounded up or down.

    Madow 1949, "On the theory of systematic sampling", over a random order.

    Args:
        weights: (n,) > 0.
        count: how many.
        generator: of the random order and offset.
    """
    order = generator.permutation(len(weights))
    edges = np.cumsum(weights[order])
    ticks = (np.arange(count) + generator.random()) * edges[-1] / max(count, 1)
    return np.asarray(order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(weights) - 1)])


def _mix(x: Tensor, mixed: _Mixed) -> Tensor:
    # lerp never leaves the interval between its two ends, where a sum of two rounded products may.
    ratio = mixed.ratio.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    return torch.lerp(x.index_select(0, mixed.partner), x, ratio)


def _dense(targets: Tensor, step: TrainingStep) -> Tensor:
    return targets if targets.is_floating_point() else F.one_hot(targets, step.classes).float()


def _hard(targets: Tensor, step: TrainingStep) -> Tensor:
    """Class indices (B,), or multi-hot (B, K), of targets that another augmentation may have made soft."""
    if step.task == "single-label" and targets.is_floating_point():
        return targets.argmax(dim=1)
    return targets
