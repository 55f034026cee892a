"""The smallest success of each clip, scored point by point: what every search for it works on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_attacks.held import put
from avrobust_attacks.minimal.looks import found_again, surely
from avrobust_attacks.minimal.steps import TINY
from avrobust_core import (
    BatchGoal,
    BoundVictim,
    Inputs,
    Region,
    joint_gradient,
    leaves_of,
    not_finite,
    refuse_not_finite,
    select_inputs,
    where_clips,
)

SLACK = 4e-6
"""A success counts if the goal is passed by this share of the largest logit: batching moves the last bits, and a clip
left on the very boundary would be a success in one batch and none in another."""

FIRST_SHARPNESS, LAST_SHARPNESS = 8.0, 200.0
"""Sharpness of the smooth distance, at the start of a search and at its end, over the spread of the clean logits (the
highest minus their mean), so that the scale of the logits does not matter."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An iterate, scored.

    Attributes:
        distance: (b,) to the goal, in logits.
        reached: (b,) bool: the goal is reached, confirmed in float32.
        size: (b,) float64, see `Region.size`.
        loss: (b,) to be raised: minus `softened`; differentiable where gradients are enabled.
    """

    distance: Tensor
    reached: Tensor
    size: Tensor
    loss: Tensor


class SmallestSuccess:
    """The smallest perturbation found so far of every clip, and the clips that are still worked on.

    Made, it scores the clean clips once: those that are where the goal wants them are done, at size 0, and so are, as
    failures, those that no perturbation can bring there (a multi-label clip that has every class).

    Attributes:
        whole: the victim, all clips.
        victim: the clips still worked on.
        positions: (b,) int64, their places among all clips.
        best: by modality, (B, ...): the smallest success; the clean clip where there is none (of a model with
            randomness of its own, the last point that was scored).
        size: (B,) float64, of `best`; infinite where there is none.
        clean_distance: (B,), of the clean clips to the goal, in logits.
    """

    def __init__(self, victim: BoundVictim) -> None:
        self.whole = victim
        self.victim = victim
        self.positions = torch.arange(len(victim), device=victim.device)
        self.best = {name: x.clone() for name, x in victim.clean.items()}
        self.size = torch.full((len(victim),), torch.inf, dtype=torch.float64, device=victim.device)
        logits = victim(victim.clean) if victim.exact else victim.confirm(victim.clean)
        done = victim.fooled(logits)
        if not victim.repeatable:  # a clip that only some looks find misclassified is worth an attack
            done = surely(victim, victim.clean, done)
        distance = victim.goal.distance(logits)
        self._broken = distance.isnan()  # of all clips
        self.size.masked_fill_(done, 0)
        self.clean_distance = distance
        self._spread = (logits.amax(dim=1) - logits.mean(dim=1)).clamp(min=TINY)
        self.keep(~done & (distance < torch.inf))

    @property
    def region(self) -> Region:
        """The region of the clips still worked on."""
        return self.victim.region

    def work_on(self, positions: Tensor) -> None:
        """Work on these clips of all, (b,) int64."""
        self.victim, self.positions = self.whole.select(positions), positions

    def score(self, x: Inputs, share: float) -> Scored:
        """Score an iterate (b, ...) of the clips still worked on, and keep it where it is the smallest success.

        Args:
            x: by attacked modality.
            share: of the search that is done, for `softened`.
        """
        logits = self.victim(x)
        distance = self.victim.goal.distance(logits)
        size = self.region.size({name: value.detach() for name, value in x.items()})
        reached = self._confirmed(x, _passed(self.victim.goal, logits.detach()))
        self._note(x, size, reached)
        return Scored(distance.detach(), reached, size, self._loss(logits, share))

    def _confirmed(self, x: Inputs, reached: Tensor) -> Tensor:
        """Those that a look in float32 finds, too, and, of a model with randomness of its own, a second look."""
        if not self.victim.repeatable:
            return found_again(self.victim, x, reached)
        if self.victim.exact:
            return reached
        return reached & _passed(self.victim.goal, self.victim.confirm(x))

    def _loss(self, logits: Tensor, share: float) -> Tensor:
        sharpness = FIRST_SHARPNESS * (LAST_SHARPNESS / FIRST_SHARPNESS) ** share / self._spread[self.positions]
        return -softened(logits, self.victim.goal, sharpness)

    def probe(self, x: Inputs) -> Scored:
        """As `score`, in float32 and without a gradient."""
        logits = self.victim.confirm(x)
        distance = self.victim.goal.distance(logits)
        scored = Scored(distance, _passed(self.victim.goal, logits), self.region.size(x), -distance)
        self._note(x, scored.size, scored.reached)
        return scored

    def uphill(self, loss: Tensor, x: Inputs, *, more: bool = False) -> dict[str, Tensor]:
        """The gradient of the `loss` by modality: see `joint_gradient`.

        Args:
            loss: (b,), to be raised.
            x: the leaves, (b, ...).
            more: whether the graph is needed again.

        Raises:
            AvrobustError: if none reaches the attacked modalities. One that is not finite is refused here on CPU, and
                elsewhere, where to ask is to wait, by `keep` or `examine`.
        """
        found = joint_gradient(loss, x, more=more)
        self._broken[self.positions] |= not_finite(found.values()) | ~loss.detach().isfinite()
        if self._broken.device.type == "cpu":
            self.examine()
        return found

    def examine(self) -> None:
        """Look whether all losses and gradients were finite.

        Raises:
            AvrobustError: if one was not; names the clips.
        """
        refuse_not_finite(self.whole.ids, self._broken)

    def climb(self, x: Inputs, share: float, *, confined: bool = False) -> tuple[Scored, dict[str, Tensor]]:
        """Score an iterate as `score` does, and the gradient of its loss by modality.

        Args:
            x: by attacked modality, (b, ...).
            share: of the search that is done.
            confined: whether the gradient is, to the constraints on time.
        """
        leaves = leaves_of(x)
        with torch.enable_grad():
            scored = self.score(self.region.confine(leaves) if confined else leaves, share)
        return scored, self.uphill(scored.loss, leaves)

    def keep(self, flags: Tensor) -> Tensor | None:
        """Go on with the clips whose flag is true: their int64 places among those of until now; None if all go on.

        Raises:
            AvrobustError: if a loss or a gradient of these clips was not finite; names the clips.
        """
        going, broken = torch.stack((flags, self._broken[self.positions])).cpu()  # the only wait for the device
        refuse_not_finite(self.victim.ids, broken)
        if bool(going.all()):
            return None
        left = going.nonzero().squeeze(1)
        self.victim = self.victim.select(left)
        kept: Tensor = left.to(self.positions.device, non_blocking=True)
        self.positions = self.positions[kept]
        return kept

    def best_or(self, positions: Tensor, x: Inputs) -> dict[str, Tensor]:
        """The smallest successes of the clips at `positions` (b,) of all; `x` (b, ...) where a clip has none."""
        found = self.size[positions].isfinite()
        return where_clips(found, select_inputs(self.best, positions), x)

    def _note(self, x: Inputs, size: Tensor, reached: Tensor) -> None:
        better = reached & (size < self.size[self.positions])
        self.size[self.positions] = torch.where(better, size, self.size[self.positions])
        if not self.whole.repeatable:
            better |= self.size[self.positions].isinf()  # as long as there is no success, the last point
        put(self.best, self.positions, x, better)


def _passed(goal: BatchGoal, logits: Tensor) -> Tensor:
    return goal.reached(logits) & (goal.distance(logits) <= -SLACK * logits.abs().amax(dim=1))


def softened(logits: Tensor, goal: BatchGoal, sharpness: Tensor) -> Tensor:
    """The distance to the goal with the highest of the other logits replaced by a smooth one, in logits: (B,).

    The plain distance pulls towards one class only, and changes its mind from step to step: smooth, it falls towards
    wherever many classes are near, as the cross-entropy does, which ends in better minima. The sharper it is, the
    nearer to the plain one.

    Args:
        logits: (B, K).
        goal: the attacker's.
        sharpness: (B,), over one logit: 1 is the cross-entropy's.
    """
    best = own_logit(logits, goal)
    sharp = (logits * sharpness.unsqueeze(1)).masked_fill(goal.own(logits), -torch.inf)
    others = sharp.logsumexp(dim=1) / sharpness
    return others - best if goal.targeted else best - others


def own_logit(logits: Tensor, goal: BatchGoal) -> Tensor:
    """The highest logit among the goal's own classes, (B,): an untargeted one lowers it, a targeted one raises it."""
    return logits.masked_fill(~goal.own(logits), -torch.inf).amax(dim=1)
