"""Attacked modalities removed, or replaced by another clip's: a corruption that takes no notice of the radius."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.configs import DropConfig
from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    Inputs,
    Preparation,
    derive_seed,
    where_clips,
)

NORMS = frozenset({"linf", "l2", "l1", "l0"})


class Drop(Attack):
    """All attacked modalities replaced at once, at the price of one query.

    Where the budget names `frames`, only those are replaced. Single-label: a clip that the model gets right without
    the modality is returned clean, with success False. Multi-label: every clip is returned without it.
    """

    norms: ClassVar[frozenset[str]] = NORMS
    bounded = False

    @abstractmethod
    def stand_in(self, victim: BoundVictim) -> Inputs:
        """Return what replaces the attacked modalities: by modality, to broadcast to (B, ...)."""

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class."""
        replaced = {}
        for name, new in self.stand_in(victim).items():
            ball = victim.balls[name]
            new = new.to(ball.center).expand_as(ball.center)
            if ball.bounds is not None:
                new = new.clamp(*ball.bounds)
            if ball.time is not None and ball.time.frames is not None:
                new = torch.where(ball.time.shaped(ball.center) > 0, new, ball.center)
            replaced[name] = new.contiguous()
        success = victim.fooled(victim.confirm(replaced))
        if victim.task == "multi-label" or not victim.repeatable:
            return AttackResult(inputs=replaced, success=success)
        return AttackResult(inputs=where_clips(success, replaced, victim.clean), success=success)


class DropToSilence(Drop):
    """Replaced by 0 (silence; black), or by what the bounds hold nearest to it.

    In feature space, 0 is a feature of 0, which need not be what the frontend makes of silence.
    """

    def stand_in(self, victim: BoundVictim) -> Inputs:
        return {name: torch.zeros(()) for name in victim.clean}


class DropToMean(Drop):
    """Replaced by the mean of all clips of the split prepared from.

    Args:
        preparation: which split.
    """

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation

    def prepare(self, victims: Callable[[], Iterator[BoundVictim]]) -> Attack:
        """Work out the mean, in float64."""
        sums: dict[str, Tensor] = {}
        clips = 0
        for victim in victims():
            for name, x in victim.clean.items():
                total = x.sum(dim=0, dtype=torch.float64)
                sums[name] = sums[name] + total if name in sums else total
            clips += len(victim)
        if not clips:
            raise AvrobustError("drop: there is no clip to take the mean of")
        return _Prepared({name: total / clips for name, total in sums.items()})

    def stand_in(self, victim: BoundVictim) -> Inputs:
        raise AvrobustError("drop: the mean of the clips must be prepared before it can replace anything")


class _Prepared(Drop):
    """Replaced by the same for every clip.

    Args:
        stand_in: by modality, one clip.
    """

    def __init__(self, stand_in: Inputs) -> None:
        self._stand_in = stand_in

    def stand_in(self, victim: BoundVictim) -> Inputs:
        return {name: self._stand_in[name] for name in victim.clean}


class DropToOtherClip(Drop):
    """Replaced by what one other clip has in all attacked modalities.

    Each clip's donor is one of a pool of clips of the split prepared from, chosen by a hash of the seed and both ids:
    neither the pool nor the choice depends on the order of clips or on how they are batched. It is never the clip
    itself.

    Args:
        preparation: which split.
        different_class: whether donors that share a label are left out, if there are others. With a targeted goal
            the clips' own labels are not known, and all donors will do.
        pool: how many clips are kept, on CPU.
    """

    def __init__(self, preparation: Preparation, *, different_class: bool, pool: int) -> None:
        self.preparation = preparation
        self.different_class = different_class
        self.pool = pool

    def prepare(self, victims: Callable[[], Iterator[BoundVictim]]) -> Attack:
        """Keep the pool: the clips whose hashes are the lowest."""
        kept: list[_Donor] = []
        for victim in victims():
            seed = victim.victim.seed
            ranks = [derive_seed(seed, clip_id, "drop/pool") for clip_id in victim.ids]
            limit = kept[-1].rank if len(kept) >= self.pool else None
            kept += [_donor(victim, i, rank) for i, rank in enumerate(ranks) if limit is None or rank < limit]
            kept = sorted(kept, key=lambda donor: donor.rank)[: self.pool]
        return _DropToDonor(kept, self.different_class)

    def stand_in(self, victim: BoundVictim) -> Inputs:
        raise AvrobustError("drop: the pool of other clips must be prepared before they can replace anything")


@dataclass(frozen=True, slots=True)
class _Donor:
    """A clip of the pool.

    Attributes:
        id: its own.
        rank: by which it came into the pool.
        inputs: by attacked modality, without the batch; on CPU.
        labels: the classes it has.
    """

    id: str
    rank: int
    inputs: Inputs
    labels: frozenset[int]


class _DropToDonor(Drop):
    """Replaced by what each clip's donor has.

    Args:
        donors: the pool.
        different_class: whether donors that share a label are left out, if there are others.
    """

    def __init__(self, donors: list[_Donor], different_class: bool) -> None:
        self._donors = donors
        self._different_class = different_class

    def stand_in(self, victim: BoundVictim) -> Inputs:
        labels = _labels(victim)
        chosen = [self._choose(victim, clip_id, labels[i]) for i, clip_id in enumerate(victim.ids)]
        return {name: torch.stack([donor.inputs[name] for donor in chosen]) for name in victim.clean}

    def _choose(self, victim: BoundVictim, clip_id: str, labels: frozenset[int]) -> _Donor:
        others = [donor for donor in self._donors if donor.id != clip_id]
        if not others:
            raise AvrobustError(f"drop: there is no clip but {clip_id} itself to replace it with")
        if self._different_class and not victim.goal.targeted:
            others = [donor for donor in others if not donor.labels & labels] or others
        return min(others, key=lambda donor: derive_seed(victim.victim.seed, clip_id, "drop/donor", donor.id))


def drop(config: DropConfig) -> Drop:
    """The attack that replaces by what is configured; all but silence must be prepared."""
    if config.replace == "silence":
        return DropToSilence()
    preparation = Preparation(config.split, config.batch_size)
    if config.replace == "mean":
        return DropToMean(preparation)
    return DropToOtherClip(preparation, different_class=config.different_class, pool=config.pool)


def _donor(victim: BoundVictim, index: int, rank: int) -> _Donor:
    inputs = {name: x[index].cpu().clone() for name, x in victim.clean.items()}
    return _Donor(victim.ids[index], rank, inputs, _labels(victim)[index])


def _labels(victim: BoundVictim) -> list[frozenset[int]]:
    """The classes of each clip, as far as the goal tells."""
    labels = victim.goal.labels
    if victim.task == "single-label":
        return [frozenset({label}) for label in labels.tolist()]
    return [frozenset(row.nonzero().flatten().tolist()) for row in (labels > 0.5).cpu()]
