"""What a search by scores alone has found: the best point of each clip, and which clips go on."""

from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.losses import Loss
from avrobust_core import AttackResult, AvrobustError, BoundVictim, first_of

SMALLEST_GAIN = 3e-6
"""A point is better if its loss is higher by more than this share of the spread of its logits: anything less may come
from the order of float32 sums, which changes with the size of the batch."""

STEPS_BETWEEN_WAITS = {"cpu": 1}
"""By type of device, how often the host waits for it to drop the clips that are done."""

DEFAULT_STEPS_BETWEEN_WAITS = 10


class Tracker:
    """Scores points and keeps the best of each clip.

    Single-label: a clip is done at the first point that reaches the goal; that point is its result, and a clip that
    never gets there is returned clean. Multi-label: no clip is ever done, since what counts beside the goal is the
    ranking; the point of highest loss among those that reach the goal, or else among all, is the result.

    A model with randomness of its own: no clip is ever done, either, and a point that is taken for better is looked at
    once more, so that later ones are not measured by the luck that chose it.

    Attributes:
        victim: the b clips that go on; it shrinks as clips are done.
        best: by attacked modality, (b, ...): the best point since `begin`.
        loss: (b,) float32, its loss; -inf before the first point.
    """

    def __init__(self, victim: BoundVictim, loss: Loss) -> None:
        self.victim = victim
        self._loss = loss
        self._single = victim.task == "single-label" and victim.repeatable
        self._whole = victim
        device = victim.device
        self._positions = torch.arange(len(victim), device=device)
        self._reached = torch.zeros(len(victim), dtype=torch.bool, device=device)
        self._broken = torch.zeros_like(self._reached)
        self._highest = torch.full((len(victim),), -torch.inf, device=device)
        self._success = torch.zeros(len(victim), dtype=torch.bool, device=device)
        self._found = {name: x.clone() for name, x in victim.clean.items()}
        self.best: dict[str, Tensor] = dict(victim.clean)
        self.loss = self._highest.clone()

    def begin(self) -> None:
        """Start anew from the next point offered, whatever its loss; what was found so far is not lost.

        To be called after `settle`.
        """
        self._store()
        self.best = self.victim.clean
        self.loss = torch.full_like(self.loss, -torch.inf)
        self._reached = torch.zeros_like(self._reached)

    def offer(self, x: Mapping[str, Tensor]) -> None:
        """Score a point, at the price of one query for each clip that goes on, and keep it where it is better.

        Args:
            x: by attacked modality, (b, ...), inside the region; not to be changed in place afterwards.
        """
        logits = self.victim(x)
        loss = self._loss(logits, self.victim.goal).float()
        reached = self.victim.fooled(logits)
        spread = logits.amax(dim=1) - logits.amin(dim=1)
        if not self._single and not self.victim.exact:
            reached = reached & self.victim.fooled(self.victim.confirm(x))
        better = loss > self.loss + SMALLEST_GAIN * spread
        self._broken |= ~(loss.isfinite() | (self._reached & self._single))
        if self._single:
            better |= reached & ~self._reached
            if self.victim.exact:  # else what was reached is not certain yet, and may still be improved
                better &= ~self._reached
        else:
            better = (reached & ~self._reached) | ((reached == self._reached) & better)
        if not self.victim.repeatable:
            loss, reached = self._looked_at_again(x, better, loss, reached)
        self.loss = torch.where(better, loss, self.loss)
        self._reached = torch.where(better, reached, self._reached)
        self.best = {
            name: kept if x[name] is kept else torch.where(like(better, kept), x[name], kept)
            for name, kept in self.best.items()
        }

    def settle(self) -> Tensor | None:
        """Stop working on clips that are done.

        Returns:
            int64 positions, among the clips worked on until now, of those that go on; None if all do.

        Raises:
            AvrobustError: if a loss was not finite; it names the clips.
        """
        broken, reached = torch.stack((self._broken.any(), self._reached.any())).tolist()  # one wait for the device
        if broken:
            self._refuse_broken()
        if not self._single or not reached:
            return None
        done = self._reached
        if not self.victim.exact:
            self._reached = done = self._confirmed(done)
        out = done.nonzero().squeeze(1)
        if not len(out):
            return None
        kept = (~done).nonzero().squeeze(1)
        settled = self._positions[out]
        self._success[settled] = True
        for name, x in self.best.items():
            self._found[name][settled] = x[out]
        self.best = {name: x[kept] for name, x in self.best.items()}
        self.victim = self.victim.select(kept)
        self._positions = self._positions[kept]
        self.loss, self._reached, self._broken = self.loss[kept], self._reached[kept], self._broken[kept]
        return kept

    def result(self) -> AttackResult:
        """What was found for all clips; `last` holds the best points of those that are returned clean."""
        self.settle()
        self._store()
        if self._single:
            clean = self._whole.clean
            inputs = {name: torch.where(like(self._success, x), x, clean[name]) for name, x in self._found.items()}
            return AttackResult(inputs=inputs, success=self._success, last=self._found)
        if not self._whole.repeatable:  # what was kept was chosen by the looks at it
            self._success = self._whole.fooled(self._whole.confirm(self._found))
        return AttackResult(inputs=self._found, success=self._success)

    def _store(self) -> None:
        """Keep the best points of the clips that go on, where they are better than what was kept before."""
        higher, before = self.loss > self._highest[self._positions], self._success[self._positions]
        if not self._single:
            higher = (self._reached & ~before) | ((self._reached == before) & higher)
        index = self._positions[higher]
        self._highest[index] = self.loss[higher]
        self._success[index] = self._reached[higher] & (not self._single)
        for name, x in self.best.items():
            self._found[name][index] = x[higher]

    def _looked_at_again(
        self, x: Mapping[str, Tensor], better: Tensor, loss: Tensor, reached: Tensor
    ) -> tuple[Tensor, Tensor]:
        index = better.nonzero().squeeze(1)
        if not len(index):
            return loss, reached
        part = self.victim.select(index)
        logits = part.confirm({name: value[index] for name, value in x.items()})
        fresh = self._loss(logits, part.goal).float()
        return loss.index_copy(0, index, fresh), reached.index_copy(0, index, part.fooled(logits))

    def _refuse_broken(self) -> None:
        names = [name for name, bad in zip(self.victim.ids, self._broken.tolist(), strict=True) if bad]
        raise AvrobustError(
            f"the loss is not finite for {first_of(names)}: a robustness measured there would mean "
            "nothing; look for a division by 0 or a log of 0 in the model"
        )

    def _confirmed(self, candidates: Tensor) -> Tensor:
        index = candidates.nonzero().squeeze(1)
        part = self.victim.select(index)
        logits = part.confirm({name: x[index] for name, x in self.best.items()})
        return torch.zeros_like(candidates).index_copy(0, index, part.fooled(logits))


def waits(device: torch.device) -> int:
    """In how many steps a search calls `settle` once."""
    return STEPS_BETWEEN_WAITS.get(device.type, DEFAULT_STEPS_BETWEEN_WAITS)


def like(per_clip: Tensor, x: Tensor) -> Tensor:
    """(b,) values shaped (b, 1, ...) to broadcast over clips of any rank."""
    return per_clip.view(-1, *[1] * (x.dim() - 1))
