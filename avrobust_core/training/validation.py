"""The validation of an epoch: what its weights reach on clips held out, by which the best epoch is chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core.data.batches import Batch
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loading import Selection
from avrobust_core.errors import DataError
from avrobust_core.models.answers import ask, refuse_non_finite
from avrobust_core.models.objectives import classification_loss, correct
from avrobust_core.training.costs import Cost
from avrobust_core.training.processes import gathered, summed
from avrobust_core.training.settings import Regime

MOST_ATTACKED = 1000
"""Validation clips that are attacked after an epoch at most: Rice et al. 2020 (arXiv 2002.11569) took as many."""

AttackClips = Callable[[Batch], Mapping[str, Tensor]]
"""From clips on the model's device to columns (B,) of what an attack leaves of them: margin, positive where a clip is
still classified correctly, and the forward and backward passes that it took, queries and backwards."""

ReadBatches = Callable[[str, Sequence[Sequence[int]]], Iterator[tuple[Sequence[int], Batch | None]]]
"""From a split and batches of positions to what is asked for and what could be read of it, batch by batch."""

Limit = Callable[[Batch], AbstractContextManager[None]]
"""From a batch that is attacked to what ends that when it takes too long."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What an epoch's weights reach on the validation clips.

    Attributes:
        row: the numbers of the history: validation_loss, validation_accuracy and, where they decide,
            validation_robust_accuracy or validation_map.
        score: of the number that decides and, where epochs share it, minus the loss: the higher, the better.
    """

    row: Mapping[str, float]
    score: tuple[float, float]


class Validation:
    """The validation clips, and how an epoch is judged by them.

    Args:
        fabric: launched.
        module: the model.
        dataset: the clips' own.
        clips: to be looked at.
        regime: says what decides.
        attack: of a regime that selects by robust accuracy, attacks clips; None where the threat touches nothing that
            the model reads, so that clean and robust accuracy are the same.

    Attributes:
        clips: all of them.

    Raises:
        DataError: if the regime selects by what the data set cannot tell.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        dataset: Dataset,
        clips: Selection,
        regime: Regime,
        attack: AttackClips | None,
    ) -> None:
        if regime.select == "map" and dataset.task != "multi-label":
            raise DataError(
                "select: map is for several labels per clip, and each clip of this data set has one: use select: best"
            )
        self.fabric = fabric
        self.module = module
        self.dataset = dataset
        self.select = regime.select
        self.attack = attack if regime.select == "robust" else None
        self.clips = clips
        chosen = set(clips.some(MOST_ATTACKED).ids) if self.attack is not None else set()
        self.attacked = clips.where(clip_id in chosen for clip_id in clips.ids)
        self.others = clips.where(clip_id not in chosen for clip_id in clips.ids)

    @torch.no_grad()
    def measure(self, read: ReadBatches, batch_size: int, cost: Cost, limit: Limit) -> Validated:
        """Look at all clips, each process at its share; the model is in evaluation mode afterwards.

        Args:
            read: reads batches.
            batch_size: clips per forward pass.
            cost: grows by the passes of this process.
            limit: on the time that attacking a batch may take.

        Raises:
            ModelError: if the model returns no logits, or some that are not finite.
        """
        task, classes = self.dataset.task, len(self.dataset.classes)
        loss_sum, hits, robust = 0.0, 0.0, 0.0
        seen = tried = 0
        answers: list[tuple[Tensor, Tensor]] = []
        self.module.eval()
        for part, attacked in ((self.attacked, True), (self.others, False)):
            mine = part.share(self.fabric.global_rank, self.fabric.world_size)
            for _, batch in read(part.split, mine.chunks(batch_size)):
                if batch is None:
                    continue
                batch = batch.to(self.fabric.device)
                logits = ask(self.module, partial(self.module, batch.inputs), batch.inputs, classes).float()
                refuse_non_finite(self.module, logits, batch.ids, batch.inputs)
                right = correct(logits, batch.targets, task)
                loss_sum += float(classification_loss(logits, batch.targets, task).double().sum())
                hits += float(right.sum())
                seen += len(batch)
                cost.forwards += len(batch)
                if attacked:
                    tried += len(batch)
                    robust += self._survivors(batch.select(right.nonzero().flatten()), cost, limit)
                if self.select == "map":
                    answers.append((logits.cpu(), batch.targets.cpu()))
        loss_sum, hits, robust, total, tried_in_all = summed(self.fabric, loss_sum, hits, robust, seen, tried)
        loss, accuracy = loss_sum / max(total, 1), hits / max(total, 1)
        row = {"validation_loss": loss, "validation_accuracy": accuracy}
        decisive = accuracy
        if self.select == "robust":
            decisive = robust / max(tried_in_all, 1) if self.attack is not None else accuracy
            row["validation_robust_accuracy"] = decisive
        elif self.select == "map":
            together = [pair for of_one in gathered(self.fabric, answers) for pair in of_one]
            decisive = mean_average_precision(*map(torch.cat, zip(*together, strict=True))) if together else 0.0
            row["validation_map"] = decisive
        return Validated(row, (decisive, -loss))

    def _survivors(self, batch: Batch, cost: Cost, limit: Limit) -> float:
        """How many of the clips, all classified correctly, still are after the attack."""
        if not len(batch):
            return 0.0
        assert self.attack is not None
        with limit(batch), torch.enable_grad():
            found = self.attack(batch)
        cost.forwards += int(found["queries"].sum())
        cost.backwards += int(found["backwards"].sum())
        return float((found["margin"] > 0).sum())


def mean_average_precision(logits: Tensor, targets: Tensor) -> float:
    """The macro mean over classes of average precision, each class ranking all clips by its logit.

    Clips of equal logits share one threshold, as in scikit-learn. A class without a positive or without a negative is
    left out; 0 where all are.

    Args:
        logits: (N, K), finite.
        targets: (N, K): a clip has a class above 0.5.
    """
    own = targets > 0.5
    measurable = own.any(dim=0) & ~own.all(dim=0)
    if not measurable.any():
        return 0.0
    scores, order = logits[:, measurable].sort(dim=0, descending=True)
    own = own[:, measurable].gather(0, order)
    precision = own.cumsum(0).double() / torch.arange(1, len(own) + 1, dtype=torch.float64)[:, None]
    # A positive counts with the precision at the last clip of its logit.
    last = torch.ones_like(own)
    last[:-1] = scores[:-1] != scores[1:]
    places = torch.where(last, torch.arange(len(own))[:, None], len(own) - 1)
    ends = places.flip(0).cummin(dim=0).values.flip(0)
    found = (precision.gather(0, ends) * own).sum(dim=0) / own.sum(dim=0)
    return float(found.mean())
