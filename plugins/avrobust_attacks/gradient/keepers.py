"""What an attack keeps of the iterates it has scored: the first success, or the highest loss, of each clip."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from avrobust_attacks.losses import Loss
from avrobust_core import AttackResult, AvrobustError, BoundVictim


class Keeper(ABC):
    """Scores iterates and keeps the best of each clip.

    Attributes:
        victim: the clips that are still worked on; it shrinks as clips are done.
        result: what is kept, of all clips; the clean clips at first.
    """

    def __init__(self, victim: BoundVictim, loss: Loss, steps: int) -> None:
        self.victim = victim
        self._loss = loss
        device = victim.device
        self._positions = torch.arange(len(victim), device=device)
        self._broken = torch.zeros(len(victim), dtype=torch.bool, device=device)
        self.result = AttackResult(
            inputs={name: x.clone() for name, x in victim.clean.items()},
            success=torch.zeros(len(victim), dtype=torch.bool, device=device),
            trace=torch.full((steps + 1, len(victim)), torch.nan, device=device),
        )

    def score(self, x: Mapping[str, Tensor], row: int | None = None) -> Tensor:
        """The loss of an iterate, (b,) for the b clips still worked on, differentiable where gradients are enabled.

        Args:
            x: by attacked modality, (b, ...); it must not be changed in place before `settle` is called.
            row: of the trace, where this iterate's loss belongs; None for nowhere.
        """
        logits = self.victim(x)
        loss = self._loss(logits, self.victim.goal)
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

    def _not_finite(self, gradients: Iterable[Tensor]) -> Tensor:
        # A sum carries any NaN or infinity, in one pass and without a tensor of flags as large as the gradient.
        totals = [g.flatten(1).sum(dim=1) for g in gradients]
        return ~torch.stack(totals).isfinite().all(dim=0)

    def _refuse_broken(self, broken: Tensor) -> None:
        if broken.any():
            names = [name for name, bad in zip(self.victim.ids, broken.tolist(), strict=True) if bad]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise AvrobustError(
                f"the loss or its gradient is not finite for {', '.join(names[:5])}{more}: a robustness measured "
                "there would mean nothing; look for a division by 0, a log of 0 or a square root at 0 in the model"
            )


class FirstSuccess(Keeper):
    """Keeps a clip's first misclassified iterate and stops working on it; a clip never fooled stays clean."""

    def __init__(self, victim: BoundVictim, loss: Loss, steps: int) -> None:
        super().__init__(victim, loss, steps)
        self._done = torch.zeros_like(self._broken)

    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        if row is not None and self.result.trace is not None:
            self.result.trace[row, self._positions] = loss.masked_fill(self._done, torch.nan)
        self._broken |= ~(loss.isfinite() | self._done)
        self._done |= self.victim.fooled(logits)

    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        done, broken = torch.stack((self._done, self._broken)).cpu()  # the only wait for the device
        self._refuse_broken(broken)
        if not done.any():
            return None
        device = self._positions.device
        out: Tensor = done.nonzero().squeeze(1).to(device)
        kept: Tensor = (~done).nonzero().squeeze(1).to(device)
        settled = self._positions[out]
        for name, found in self.result.inputs.items():
            found.index_copy_(0, settled, x[name].detach().index_select(0, out))
        self.result.success.index_fill_(0, settled, True)
        self.victim = self.victim.select(kept)
        self._positions = self._positions[kept]
        self._done, self._broken = self._done[kept], self._broken[kept]
        return kept

    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.where(_like(self._done, x), old[name], x) for name, x in new.items()}

    def examine(self, gradients: Iterable[Tensor]) -> None:
        self._broken |= self._not_finite(gradients) & ~self._done


class HighestLoss(Keeper):
    """Keeps a clip's iterate of highest loss; no clip is ever done."""

    def __init__(self, victim: BoundVictim, loss: Loss, steps: int) -> None:
        super().__init__(victim, loss, steps)
        self._highest = torch.full((len(victim),), -torch.inf, device=self._broken.device)

    def _keep(self, x: Mapping[str, Tensor], logits: Tensor, loss: Tensor, row: int | None) -> None:
        if row is not None and self.result.trace is not None:
            self.result.trace[row] = loss
        self._broken |= ~loss.isfinite()
        higher = loss > self._highest
        torch.where(higher, loss, self._highest, out=self._highest)
        torch.where(higher, self.victim.fooled(logits), self.result.success, out=self.result.success)
        for name, found in self.result.inputs.items():
            torch.where(_like(higher, found), x[name].detach(), found, out=found)

    def settle(self, x: Mapping[str, Tensor]) -> Tensor | None:
        self._refuse_broken(self._broken.cpu())
        return None

    def hold(self, old: Mapping[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        return new

    def examine(self, gradients: Iterable[Tensor]) -> None:
        self._broken |= self._not_finite(gradients)


def _like(per_clip: Tensor, x: Tensor) -> Tensor:
    """(b,) shaped (b, 1, ...) to broadcast over clips of any rank."""
    return per_clip.view(-1, *[1] * (x.dim() - 1))
