"""What an attack keeps of the iterates it has scored: the first success, or the highest loss, of each clip."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from avrobust_attacks.losses import Loss, PerClipLoss
from avrobust_core import AttackResult, AvrobustError, BoundVictim, first_of


class Keeper(ABC):
    """Scores iterates and keeps the best of each clip.

    Attributes:
        victim: the clips that are still worked on; it shrinks as clips are done.
        loss: what is climbed, of those clips.
        positions: (b,) int64, where those clips are among all.
        inputs, success, trace: what is kept of all clips; the clean clips at first.

    Args:
        victim: all clips.
        loss: what is climbed; another may be set between climbs.
        rows: of the trace.
    """

    def __init__(self, victim: BoundVictim, loss: Loss, rows: int) -> None:
        self.victim = victim
        self.loss = loss
        device = victim.device
        self.positions = torch.arange(len(victim), device=device)
        self.inputs = {name: x.clone() for name, x in victim.clean.items()}
        self.success = torch.zeros(len(victim), dtype=torch.bool, device=device)
        self.trace = torch.full((rows, len(victim)), torch.nan, device=device)
        self._broken = torch.zeros(len(victim), dtype=torch.bool, device=device)

    def score(self, x: Mapping[str, Tensor], row: int | None = None) -> Tensor:
        """The loss of an iterate, (b,) for the b clips still worked on, differentiable where gradients are enabled.

        Args:
            x: by attacked modality, (b, ...); it must not be changed in place before `settle` is called.
            row: of the trace, where this iterate's loss belongs; None for nowhere.
        """
        return self.score_logits(x, self.victim(x), row)

    def score_logits(self, x: Mapping[str, Tensor], logits: Tensor, row: int | None = None) -> Tensor:
        """As `score`, of an iterate whose logits (b, K) are known."""
        loss = self.loss(logits, self.victim.goal)
        self._keep(x, logits.detach(), loss.detach().float(), row)
        return loss

    @abstractmethod
    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        """Note what this iterate has reached."""

    @abstractmethod
    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        """Stop working on clips that are done.

        Args:
            x: the iterate that was scored last.

        Returns:
            int64 positions, among the clips worked on until now, of those that go on; None if all do.

        Raises:
            AvrobustError: if a loss or a gradient was not finite; it names the clips.
        """

    @abstractmethod
    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        """The next iterate, with clips that are done, but not settled yet, left where they succeeded."""

    @abstractmethod
    def examine(self, gradients: Iterable[Tensor]) -> None:
        """Note where a gradient is not finite, to be reported by `settle`."""

    @abstractmethod
    def rest(self, x: Mapping[str, Tensor], loss: Tensor) -> None:
        """Note where a climb has ended, (b, ...), and the loss there, (b,)."""

    @abstractmethod
    def result(self) -> AttackResult:
        """What is kept, of all clips; the clean clips at first."""

    def _not_finite(self, gradients: Iterable[Tensor]) -> Tensor:
        # A sum carries any NaN or infinity, in one pass and without a tensor of flags as large as the gradient.
        totals = [g.flatten(1).sum(dim=1) for g in gradients]
        return ~torch.stack(totals).isfinite().all(dim=0)

    def _refuse_broken(self, broken: Tensor) -> None:
        if broken.any():
            names = [name for name, bad in zip(self.victim.ids, broken.tolist(), strict=True) if bad]
            raise AvrobustError(
                f"the loss or its gradient is not finite for {first_of(names)}: a robustness measured "
                "there would mean nothing; look for a division by 0, a log of 0 or a square root at 0 in the model"
            )


class FirstSuccess(Keeper):
    """Keeps a clip's first iterate that reaches the goal and stops working on it; others stay clean.

    Where the victim computes in less than float32, an iterate counts once float32 confirms it; else its clip goes on.
    """

    def __init__(self, victim: BoundVictim, loss: Loss, rows: int) -> None:
        super().__init__(victim, loss, rows)
        self._done = torch.zeros_like(self._broken)
        self._last = {name: x.clone() for name, x in victim.clean.items()}
        self._last_loss = torch.full((len(victim),), -torch.inf, device=victim.device)

    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        if row is not None:
            self.trace[row, self.positions] = loss.masked_fill(self._done, torch.nan)
        self._broken |= ~(loss.isfinite() | self._done)
        self._done |= self.victim.fooled(logits)

    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        done, broken = torch.stack((self._done, self._broken)).cpu()  # the only wait for the device
        self._refuse_broken(broken)
        if not self.victim.exact and done.any():
            done = self._confirm(x, done)
        if not done.any():
            return None
        device = self.positions.device
        out: Tensor = done.nonzero().squeeze(1).to(device)
        kept: Tensor = (~done).nonzero().squeeze(1).to(device)
        settled = self.positions[out]
        for name, found in self.inputs.items():
            found.index_copy_(0, settled, x[name].detach().index_select(0, out))
            self._last[name].index_copy_(0, settled, self.victim.clean[name].index_select(0, out))
        self.success.index_fill_(0, settled, True)
        self.victim = self.victim.select(kept)
        self.positions = self.positions[kept]
        self._done, self._broken = self._done[kept], self._broken[kept]
        if isinstance(self.loss, PerClipLoss):
            self.loss = self.loss.select(kept)
        return kept

    def _confirm(self, x: Mapping[str, Tensor], done: Tensor) -> Tensor:
        """Those of the clips that float32, too, finds done; the others are no longer."""
        index = done.nonzero().squeeze(1).to(self.positions.device)
        chosen = self.victim.select(index)
        logits = chosen.confirm({name: moved.detach().index_select(0, index) for name, moved in x.items()})
        self._done.index_copy_(0, index, chosen.fooled(logits))
        return self._done.cpu()

    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.where(like(self._done, x), old[name], x) for name, x in new.items()}

    def examine(self, gradients: Iterable[Tensor]) -> None:
        self._broken |= self._not_finite(gradients) & ~self._done

    def rest(self, x: Mapping[str, Tensor], loss: Tensor) -> None:
        higher = loss > self._last_loss[self.positions]
        self._last_loss[self.positions] = torch.where(higher, loss, self._last_loss[self.positions])
        for name, last in self._last.items():
            last[self.positions] = torch.where(like(higher, last), x[name], last[self.positions])

    def result(self) -> AttackResult:
        return AttackResult(self.inputs, self.success, self.trace, self._last)


class HighestLoss(Keeper):
    """Keeps of a clip's iterates that reach the goal, or else of all, the one of highest loss; no clip is ever done.

    Args:
        victim, loss, rows: see `Keeper`.
        by: the loss that decides among iterates of which both, or neither, reach the goal; None for the one that is
            climbed.
    """

    def __init__(self, victim: BoundVictim, loss: Loss, rows: int, by: Loss | None = None) -> None:
        super().__init__(victim, loss, rows)
        self._by = by
        self._highest = torch.full((len(victim),), -torch.inf, device=self._broken.device)

    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        if row is not None:
            self.trace[row] = loss
        self._broken |= ~loss.isfinite()
        kept_by = loss if self._by is None else self._by(logits, self.victim.goal).float()
        reached = self.victim.fooled(logits)
        if not self.victim.exact:
            reached = reached & self.victim.fooled(self.victim.confirm(x))
        higher = better(reached, kept_by, self.success, self._highest)
        torch.where(higher, kept_by, self._highest, out=self._highest)
        torch.where(higher, reached, self.success, out=self.success)
        for name, found in self.inputs.items():
            torch.where(like(higher, found), x[name].detach(), found, out=found)

    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        self._refuse_broken(self._broken.cpu())
        return None

    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        return new

    def examine(self, gradients: Iterable[Tensor]) -> None:
        self._broken |= self._not_finite(gradients)

    def rest(self, x: Mapping[str, Tensor], loss: Tensor) -> None:
        """Nothing: what is kept is the best place to go on from."""

    def result(self) -> AttackResult:
        return AttackResult(self.inputs, self.success, self.trace)


class ClimbEnds(Keeper):
    """Of a model with randomness of its own: keeps where climbs end, the best by a fresh look at each end.

    The iterate that looked best on the way is the luckiest of many looks, not the best: the winner's curse. An end is
    chosen by no look. No clip is ever done, and every clip is returned where its search ended.

    Args:
        victim, loss, rows: see `Keeper`.
        by: with several labels, the loss that decides among ends of which both, or neither, reach the goal; None for
            the one that is climbed.
    """

    def __init__(self, victim: BoundVictim, loss: Loss, rows: int, by: Loss | None = None) -> None:
        super().__init__(victim, loss, rows)
        self._by = by
        self._highest = torch.full((len(victim),), -torch.inf, device=self._broken.device)

    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        if row is not None:
            self.trace[row] = loss
        self._broken |= ~loss.isfinite()

    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        self._refuse_broken(self._broken.cpu())
        return None

    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        return new

    def examine(self, gradients: Iterable[Tensor]) -> None:
        self._broken |= self._not_finite(gradients)

    def rest(self, x: Mapping[str, Tensor], loss: Tensor) -> None:
        logits = self.victim.confirm(x)
        goal = self.victim.goal
        kept_by = -goal.distance(logits) if goal.task == "single-label" else (self._by or self.loss)(logits, goal)
        reached = self.victim.fooled(logits)
        higher = better(reached, kept_by.float(), self.success, self._highest)
        self._highest = torch.where(higher, kept_by.float(), self._highest)
        self.success = torch.where(higher, reached, self.success)
        for name, found in self.inputs.items():
            torch.where(like(higher, found), x[name].detach(), found, out=found)

    def result(self) -> AttackResult:
        return AttackResult(self.inputs, self.success, self.trace)


def better(reached: Tensor, loss: Tensor, kept_reached: Tensor, kept_loss: Tensor) -> Tensor:
    """Whether an iterate is worth more than what is kept, (b,) bool: the goal reached comes first, then the loss."""
    return (reached & ~kept_reached) | ((reached == kept_reached) & (loss > kept_loss))


def keeper_for(victim: BoundVictim, loss: Loss, rows: int, by: Loss | None = None) -> Keeper:
    """The keeper that a task asks for: single-label the first success, multi-label a success of highest loss.

    Of a model with randomness of its own, the ends of climbs.

    Args:
        victim: all clips.
        loss: what is climbed.
        rows: of the trace.
        by: see `HighestLoss`.
    """
    if not victim.repeatable:
        return ClimbEnds(victim, loss, rows, by)
    if victim.task == "multi-label":
        return HighestLoss(victim, loss, rows, by)
    return FirstSuccess(victim, loss, rows)


def like(per_clip: Tensor, x: Tensor) -> Tensor:
    """(b,) shaped (b, 1, ...) to broadcast over clips of any rank."""
    return per_clip.view(-1, *[1] * (x.dim() - 1))
