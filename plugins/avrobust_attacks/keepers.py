"""Keepers: what an attack keeps of the points that it has scored, and which clips it still works on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from avrobust_attacks.held import put
from avrobust_attacks.losses import Loss, TowardsClass
from avrobust_core import (
    AttackResult,
    BoundVictim,
    Inputs,
    not_finite,
    on_the_way,
    per_clip,
    refuse_not_finite,
    select_inputs,
    where_clips,
)

SMALLEST_GAIN = 3e-6
"""A point is better to `BestPoint` if its loss is higher by this share of the spread of its logits: anything less may
come from the order of float32 sums, which changes with the size of the batch."""


class Keeper(ABC):
    """Scores points, keeps the best of each clip, and stops work on clips that are done.

    With one label per clip, a clip is done at the first point that reaches the goal: that point is its result, and a
    clip that never gets there is returned clean. Where the victim computes in less than float32, a point counts once
    float32 confirms it. With several labels no clip is ever done, since what counts beside the goal is the ranking; nor
    is it of a model with randomness of its own, where a lucky look settles nothing.

    Attributes:
        victim: the b clips that are still worked on; it shrinks as clips are done.
        loss: what is raised, of those clips; another may be set between climbs.
        positions: (b,) int64, where those clips are among all.
        stops: whether a clip is done once it has reached the goal.
        found: by attacked modality, (B, ...): what is kept of all clips; the clean clips at first.
        success: (B,) bool: whether that reaches the goal.
        trace: (rows, B), the losses asked for; NaN elsewhere.

    Args:
        victim: all clips.
        loss: see above.
        rows: of the trace; None for no trace.
        by: the loss that decides among points of which both, or neither, reach the goal, where more than one is
            compared (`HighestLoss`); None for the one raised.
    """

    scored = "the loss or its gradient"
    """The name that errors give to a loss that is not finite."""

    def __init__(self, victim: BoundVictim, loss: Loss, rows: int | None = None, by: Loss | None = None) -> None:
        self.victim = victim
        self.loss = loss
        self._by = by
        self.stops = victim.settles
        device = victim.device
        self.positions = torch.arange(len(victim), device=device)
        self.found = {name: x.clone() for name, x in victim.clean.items()}
        self.success = torch.zeros(len(victim), dtype=torch.bool, device=device)
        self.trace = None if rows is None else torch.full((rows, len(victim)), torch.nan, device=device)
        self._whole = victim
        self._highest = torch.full((len(victim),), -torch.inf, device=device)
        self._reached = torch.zeros_like(self.success)  # of the b clips, as all that follow
        self._broken = torch.zeros_like(self.success)
        self._flags: Callable[[], Tensor] | None = None  # those that were on the way at the last call of `settle`
        self._at: Inputs = victim.clean

    def score(self, x: Inputs, row: int | None = None) -> Tensor:
        """The loss of a point, (b,) for the b clips still worked on, differentiable where gradients are enabled.

        Args:
            x: by attacked modality, (b, ...); not to be changed in place before `settle` is called.
            row: of the trace, where this point's loss belongs; None for nowhere.
        """
        return self.score_logits(x, self.victim(x), row)

    def score_logits(self, x: Inputs, logits: Tensor, row: int | None = None) -> Tensor:
        """As `score`, of a point whose logits (b, K) are known."""
        loss = self.loss(logits, self.victim.goal)
        height = loss.detach().float()
        if row is not None and self.trace is not None:
            self.trace[row, self.positions] = height.masked_fill(self._done, torch.nan)
        self._broken |= ~(height.isfinite() | self._done)
        self._keep(x, logits.detach(), height)
        return loss

    @abstractmethod
    def _keep(self, x: Inputs, logits: Tensor, height: Tensor) -> None:
        """Note what a point of this loss, (b,), has reached."""

    @property
    def _done(self) -> Tensor:
        """(b,) bool: the clips to stop work on."""
        return self._reached if self.stops else torch.zeros_like(self._reached)

    def hold(self, old: Inputs, new: dict[str, Tensor]) -> dict[str, Tensor]:
        """The next point, with clips that are done, but not settled yet, left where they succeeded."""
        return where_clips(self._done, old, new) if self.stops else new

    def examine(self, gradients: Iterable[Tensor]) -> None:
        """Note where a gradient is not finite, to be reported by `settle`."""
        self._broken |= not_finite(gradients) & ~self._done

    @property
    def lags(self) -> bool:
        """True if `settle` may be a step behind: until it has caught up, clips that are done must be held (`hold`)."""
        return self.victim.device.type != "cpu"

    def settle(self, *, later: bool = False) -> Tensor | None:
        """Stop working on clips that are done.

        Args:
            later: where that `lags`, go by what was known at the last call, which has reached the host meanwhile, and
                send for what is known now: so nobody waits for the device.

        Returns:
            int64 positions, among the clips worked on until now, of those that go on; None if all do.

        Raises:
            AvrobustError: if a loss or a gradient was not finite; it names the clips.
        """
        before, self._flags = self._flags, None
        if not (later and self.lags):
            kept = self._settle(torch.stack((self._done, self._broken)).cpu())
        else:
            kept = None if before is None else self._settle(before())
            self._flags = on_the_way(torch.stack((self._done, self._broken)))
        return kept

    def _settle(self, flags: Tensor) -> Tensor | None:
        done, broken = flags
        refuse_not_finite(self.victim.ids, broken, self.scored)
        if not self.victim.exact and done.any():
            done = self._confirm(done)
        if not done.any():
            return None
        device = self.positions.device
        left = (~done).nonzero().squeeze(1)
        out: Tensor = done.nonzero().squeeze(1).to(device, non_blocking=True)
        kept: Tensor = left.to(device, non_blocking=True)
        settled = self.positions[out]
        for name, found in self.found.items():
            found.index_copy_(0, settled, self._at[name].detach().index_select(0, out))
        self.success.index_fill_(0, settled, True)
        self.victim = self.victim.select(left)
        self._select(kept)
        return kept

    def _confirm(self, done: Tensor) -> Tensor:
        """Those of the clips that float32, too, finds done; the others are no longer."""
        index = done.nonzero().squeeze(1).to(self.positions.device)
        chosen = self.victim.select(index)
        logits = chosen.confirm({name: x.detach() for name, x in select_inputs(self._at, index).items()})
        self._reached = self._reached.index_copy(0, index, chosen.fooled(logits))
        return self._reached.cpu()

    def _select(self, kept: Tensor) -> None:
        self.positions = self.positions[kept]
        self._reached, self._broken = self._reached[kept], self._broken[kept]
        if isinstance(self.loss, TowardsClass):
            self.loss = self.loss.select(kept)

    def rest(self, x: Inputs, height: Tensor) -> None:
        """Note where a climb has ended, (b, ...), and the loss there, (b,)."""
        self._take(x, self._reached & (not self.stops), height)

    def _take(self, x: Inputs, reached: Tensor, height: Tensor) -> None:
        """Keep a point, (b, ...), where it is worth more than what is kept of its clip."""
        at = self.positions
        higher = better(reached, height, self.success[at], self._highest[at])
        self._highest[at] = torch.where(higher, height, self._highest[at])
        self.success[at] = torch.where(higher, reached, self.success[at])
        put(self.found, at, x, higher)

    def result(self) -> AttackResult:
        """The points kept of all clips; where `stops`, those of the other clips are in `last`, and these are clean."""
        if not self.stops:
            return AttackResult(self.found, self.success, self.trace)
        clean = self._whole.clean
        inputs, last = where_clips(self.success, self.found, clean), where_clips(self.success, clean, self.found)
        return AttackResult(inputs, self.success, self.trace, last)


class FirstSuccess(Keeper):
    """Keeps a clip's first point that reaches the goal; of other clips, the end of the climb that ended highest."""

    def _keep(self, x: Inputs, logits: Tensor, height: Tensor) -> None:
        self._reached |= self.victim.fooled(logits)
        self._at = x


class HighestLoss(Keeper):
    """Keeps of a clip's points that reach the goal, or else of all, the one of highest loss."""

    def _keep(self, x: Inputs, logits: Tensor, height: Tensor) -> None:
        reached = self.victim.fooled(logits)
        if not self.victim.exact:
            reached = reached & self.victim.fooled(self.victim.confirm(x))
        self._take(x, reached, height if self._by is None else self._by(logits, self.victim.goal).float())

    def rest(self, x: Inputs, height: Tensor) -> None:
        """Nothing: what is kept is the best place to go on from."""


class ClimbEnds(HighestLoss):
    """Keeps where climbs end, the best by a fresh look at each end: for a model with randomness of its own.

    The point that looked best on the way is the luckiest of many looks, not the best: the winner's curse. An end is
    chosen by no look. Every clip is returned where its search ended.

    With one label per clip the distance to the goal decides, with several the loss: see `HighestLoss`.
    """

    def _keep(self, x: Inputs, logits: Tensor, height: Tensor) -> None:
        """Nothing: what is on the way is not kept."""

    def rest(self, x: Inputs, height: Tensor) -> None:
        logits = self.victim.confirm(x)
        goal = self.victim.goal
        kept_by = -goal.distance(logits) if goal.task == "single-label" else (self._by or self.loss)(logits, goal)
        self._take(x, self.victim.fooled(logits), kept_by.float())


class BestPoint(Keeper):
    """Keeps each clip's best point since `begin`, from which a search by scores alone goes on.

    Of several searches the best end is the result. Of a model with randomness of its own a point that is taken for
    better is looked at once more, so that later ones are not measured by the luck that chose it.

    Attributes:
        best: by attacked modality, (b, ...): the best point since `begin`.
        height: (b,) float32, its loss; -inf before the first point.
    """

    scored = "the loss"

    def __init__(self, victim: BoundVictim, loss: Loss) -> None:
        super().__init__(victim, loss)
        self.height = self._highest.clone()

    @property
    def best(self) -> Inputs:
        """See the class; not to be changed in place."""
        return self._at

    def begin(self) -> None:
        """Start anew from the next point scored, whatever its loss; to be called after `settle`."""
        self.rest(self._at, self.height)
        self._at = self.victim.clean
        self.height = torch.full_like(self.height, -torch.inf)
        self._reached = torch.zeros_like(self._reached)

    def _keep(self, x: Inputs, logits: Tensor, height: Tensor) -> None:
        reached = self.victim.fooled(logits)
        if not (self.stops or self.victim.exact):
            reached = reached & self.victim.fooled(self.victim.confirm(x))
        gained = height > self.height + SMALLEST_GAIN * (logits.amax(dim=1) - logits.amin(dim=1))
        if not self.stops:
            taken = (reached & ~self._reached) | ((reached == self._reached) & gained)
        elif self.victim.exact:
            taken = (gained | reached) & ~self._reached
        else:  # what was reached is not certain yet, and may still be improved
            taken = gained | (reached & ~self._reached)
        if not self.victim.repeatable:
            height, reached = self._looked_at_again(x, taken, height, reached)
        self.height = torch.where(taken, height, self.height)
        self._reached = torch.where(taken, reached, self._reached)
        self._at = {
            name: kept if x[name] is kept else torch.where(per_clip(taken, kept), x[name], kept)
            for name, kept in self._at.items()
        }

    def _looked_at_again(self, x: Inputs, taken: Tensor, height: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
        index = taken.nonzero().squeeze(1)
        if not len(index):
            return height, reached
        part = self.victim.select(index)
        logits = part.confirm(select_inputs(x, index))
        fresh = self.loss(logits, part.goal).float()
        return height.index_copy(0, index, fresh), reached.index_copy(0, index, part.fooled(logits))

    def _select(self, kept: Tensor) -> None:
        super()._select(kept)
        self._at, self.height = select_inputs(self._at, kept), self.height[kept]

    def result(self) -> AttackResult:
        self.settle()
        self.rest(self._at, self.height)
        if not self.victim.repeatable:  # what was kept was chosen by the looks at it
            self.success = self._whole.fooled(self._whole.confirm(self.found))
        return super().result()


def better(reached: Tensor, loss: Tensor, kept_reached: Tensor, kept_loss: Tensor) -> Tensor:
    """Flag points worth more than what is kept, (b,) bool: the goal reached comes first, then the loss."""
    return (reached & ~kept_reached) | ((reached == kept_reached) & (loss > kept_loss))


def one_look(victim: BoundVictim, x: Inputs) -> AttackResult:
    """The result of an attack that has one point (B, ...) to offer, by modality: one query tells whether it succeeds.

    Where a success settles a clip (`BoundVictim.settles`), one that it does not reach is returned clean.
    """
    success = victim.fooled(victim.confirm(x))
    return AttackResult(where_clips(success, x, victim.clean) if victim.settles else x, success)


def keeper_for(victim: BoundVictim, loss: Loss, rows: int, by: Loss | None = None) -> Keeper:
    """The keeper of climbs that a task asks for: with one label the first success, with several one of highest loss.

    Of a model with randomness of its own, the ends of climbs.

    Args:
        victim: all clips.
        loss: what is climbed.
        rows: of the trace.
        by: see `Keeper`.
    """
    kind = FirstSuccess if victim.settles else HighestLoss if victim.repeatable else ClimbEnds
    return kind(victim, loss, rows, by)
