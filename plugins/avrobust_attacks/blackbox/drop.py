"""Attacked modalities removed, or replaced by another clip's: a corruption that takes no notice of the radius."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.configs import DropConfig
from avrobust_attacks.keepers import one_look
from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    Inputs,
    Occasion,
    Passes,
    Preparation,
    derive_seed,
)

StandIn = Callable[[BoundVictim], Inputs]
"""From a victim to what replaces the attacked modalities: by modality, to broadcast to (B, ...)."""

Victims = Callable[[], Iterator[BoundVictim]]


class Drop(Attack):
    """All attacked modalities replaced at once, at the price of one query.

    Where the budget names `frames`, only those are replaced, and padding never is. Single-label: a clip that the model
    gets right without the modality is returned clean, with success False. Multi-label: every clip is returned without.

    Args:
        stand_in: what replaces them.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})
    bounded = False

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    def passes(self, occasion: Occasion) -> Passes:
        """One look."""
        return Passes(1)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class."""
        replaced = {}
        for name, new in self.stand_in(victim).items():
            ball = victim.balls[name]
            new = new.to(ball.center).expand_as(ball.center).clamp(*ball.limits)
            if ball.time is not None and ball.time.partial:
                new = torch.where(ball.time.free(ball.center), new, ball.center)
            replaced[name] = new.contiguous()
        return one_look(victim, replaced)


class PreparedDrop(Drop):
    """As `Drop`, by a stand-in that is found among the clips of a split.

    Args:
        config: which split.
        find: finds it.
        unprepared: says in an error what must be prepared.
    """

    def __init__(self, config: DropConfig, find: Callable[[Victims], StandIn], unprepared: str) -> None:
        self.preparation = Preparation(config.split, config.batch_size)
        self._find = find
        self._unprepared = unprepared

    def prepare(self, victims: Victims) -> Attack:
        """Find the stand-in."""
        return Drop(self._find(victims))

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Refuse: `prepare` returns the attack that can be called.

        Raises:
            AvrobustError: always.
        """
        raise AvrobustError(f"drop: {self._unprepared}")


def drop(config: DropConfig) -> Drop:
    """The attack with the configured stand-in; all but silence must be prepared."""
    if config.replace == "silence":
        return Drop(silence)
    if config.replace == "mean":
        unprepared = "the mean of the clips must be prepared before it can replace anything"
        return PreparedDrop(config, mean_clip, unprepared)
    unprepared = "the pool of other clips must be prepared before they can replace anything"
    return PreparedDrop(config, partial(other_clips, config), unprepared)


def silence(victim: BoundVictim) -> Inputs:
    """0 (silence; black); the attack moves it to the nearest value that the bounds allow.

    In feature space, 0 is a feature of 0, which need not be what the frontend makes of silence.
    """
    return {name: torch.zeros(()) for name in victim.clean}


def mean_clip(victims: Victims) -> StandIn:
    """The mean of all clips of the split, worked out in float64."""
    sums: dict[str, Tensor] = {}
    clips = 0
    for victim in victims():
        for name, x in victim.clean.items():
            sums[name] = sums.get(name, 0) + x.sum(dim=0, dtype=torch.float64)
        clips += len(victim)
    if not clips:
        raise AvrobustError("drop: there is no clip to take the mean of")
    return partial(_same_for_all, {name: total / clips for name, total in sums.items()})


def _same_for_all(clip: Inputs, victim: BoundVictim) -> Inputs:
    return {name: clip[name] for name in victim.clean}


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


def other_clips(config: DropConfig, victims: Victims) -> StandIn:
    """All attacked modalities of one other clip of the split.

    Each clip's donor is one of a pool of clips, those whose hashes are the lowest, chosen by a hash of the seed and
    both ids: neither the pool nor the choice depends on the order of clips or on how they are batched. It is never the
    clip itself.
    """
    kept: list[_Donor] = []
    for victim in victims():
        labels = _labels(victim)
        ranks = [derive_seed(victim.victim.seed, clip_id, "drop/pool") for clip_id in victim.ids]
        limit = kept[-1].rank if len(kept) >= config.pool else None
        for i, rank in enumerate(ranks):
            if limit is None or rank < limit:
                inputs = {name: x[i].cpu().clone() for name, x in victim.clean.items()}
                kept.append(_Donor(victim.ids[i], rank, inputs, labels[i]))
        kept = sorted(kept, key=lambda donor: donor.rank)[: config.pool]
    return partial(_of_donors, kept, config.different_class)


def _of_donors(donors: list[_Donor], different_class: bool, victim: BoundVictim) -> Inputs:
    """The modalities of each clip's donor, (B, ...) on CPU.

    Donors that share a label are left out with `different_class`, if there are others. With a targeted goal the clips'
    own labels are not known, and all donors will do.
    """
    chosen = []
    for clip_id, labels in zip(victim.ids, _labels(victim), strict=True):
        others = [donor for donor in donors if donor.id != clip_id]
        if not others:
            raise AvrobustError(f"drop: there is no clip but {clip_id} itself to replace it with")
        if different_class and not victim.goal.targeted:
            others = [donor for donor in others if not donor.labels & labels] or others
        hashed = {derive_seed(victim.victim.seed, clip_id, "drop/donor", donor.id): donor for donor in others}
        chosen.append(hashed[min(hashed)])
    return {name: torch.stack([donor.inputs[name] for donor in chosen]) for name in victim.clean}


def _labels(victim: BoundVictim) -> list[frozenset[int]]:
    """The classes of each clip, as far as the goal tells."""
    labels = victim.goal.labels
    if victim.task == "single-label":
        return [frozenset({label}) for label in labels.tolist()]
    return [frozenset(row.nonzero().flatten().tolist()) for row in (labels > 0.5).cpu()]
