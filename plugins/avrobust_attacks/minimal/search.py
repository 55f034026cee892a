"""What the minimal attacks share: the smallest success of each clip, gradients, the trim, the result."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_attacks.minimal.looks import found_again, surely
from avrobust_attacks.minimal.smooth import softened
from avrobust_attacks.minimal.steps import TINY, onto, per_clip
from avrobust_core import AttackResult, AvrobustError, BoundVictim, Goal, Region, first_of

SLACK = 4e-6
"""A success counts if the goal is passed by this share of the largest logit: batching moves the last bits, and a clip
left on the very boundary would be a success in one batch and none in another."""

FIRST_SHARPNESS, LAST_SHARPNESS = 8.0, 200.0
"""Of the smooth distance, at the start of a search and at its end, over the spread of the clean logits (the highest
minus their mean), so that the scale of the logits does not matter."""

STEPS_BACK = (1.02, 1.1, 1.25, 1.5)
"""By what factors a success is made longer where a last look finds it none."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of an iterate.

    Attributes:
        distance: (b,) to the goal, in logits.
        reached: (b,) bool: the goal is reached, confirmed in float32.
        size: (b,) float64, see `Region.size`.
        loss: (b,) to be lowered, see `softened`; differentiable where gradients are enabled.
    """

    distance: Tensor
    reached: Tensor
    size: Tensor
    loss: Tensor


class Search:
    """The clips that are still worked on, and the smallest perturbation found so far of every clip.

    Made, it scores the clean clips once: those that are where the goal wants them are done, at size 0, and so are, as
    failures, those that no perturbation can bring there (a multi-label clip that has every class).

    Attributes:
        victim: the clips still worked on.
        positions: (b,) int64, their places among all clips.
        best: by modality, (B, ...): the smallest success; the clean clip where there is none (of a model with
            randomness of its own, the last point that was scored).
        size: (B,) float64, of `best`; infinite where there is none.
    """

    def __init__(self, victim: BoundVictim) -> None:
        self._whole = victim
        self.victim = victim
        self.positions = torch.arange(len(victim), device=victim.device)
        self.best = {name: x.clone() for name, x in victim.clean.items()}
        self.size = torch.full((len(victim),), torch.inf, dtype=torch.float64, device=victim.device)
        logits = victim(victim.clean) if victim.exact else victim.confirm(victim.clean)
        done = victim.fooled(logits)
        if not victim.repeatable:  # a clip that only some looks find misclassified is worth an attack
            done = surely(victim, victim.clean, done)
        distance = victim.goal.distance(logits)
        self._refuse(distance.isnan())
        self.size[done] = 0
        self._distance = distance
        self._spread = (logits.amax(dim=1) - logits.mean(dim=1)).clamp(min=TINY)
        self.keep(~done & (distance < torch.inf))

    @property
    def region(self) -> Region:
        """Of the clips still worked on."""
        return self.victim.region

    def work_on(self, positions: Tensor) -> None:
        """Work on these clips of all, (b,) int64."""
        self.victim, self.positions = self._whole.select(positions), positions

    def score(self, x: Mapping[str, Tensor], share: float) -> Scored:
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
        return Scored(distance.detach(), reached, size, self._softened(logits, share))

    def _confirmed(self, x: Mapping[str, Tensor], reached: Tensor) -> Tensor:
        """Those that a look in float32 finds, too, and, of a model with randomness of its own, a second look."""
        if not self.victim.repeatable:
            return found_again(self.victim, x, reached)
        if self.victim.exact:
            return reached
        return reached & _passed(self.victim.goal, self.victim.confirm(x))

    def _softened(self, logits: Tensor, share: float) -> Tensor:
        sharpness = FIRST_SHARPNESS * (LAST_SHARPNESS / FIRST_SHARPNESS) ** share / self._spread[self.positions]
        return softened(logits, self.victim.goal, sharpness)

    def probe(self, x: Mapping[str, Tensor]) -> Scored:
        """As `score`, in float32 and without a gradient."""
        logits = self.victim.confirm(x)
        distance = self.victim.goal.distance(logits)
        scored = Scored(distance, _passed(self.victim.goal, logits), self.region.size(x), distance)
        self._note(x, scored.size, scored.reached)
        return scored

    def downhill(self, loss: Tensor, x: Mapping[str, Tensor], *, more: bool = False) -> dict[str, Tensor]:
        """The gradient of minus the `loss` by modality; clips do not mix, so each gets that of its own loss.

        Args:
            loss: (b,), to be lowered.
            x: the leaves, (b, ...).
            more: whether the graph is needed again.

        Raises:
            AvrobustError: if it is not finite, naming the clips; or if none reaches the attacked modalities.
        """
        if not loss.requires_grad:
            raise AvrobustError(
                f"no gradient reaches {', '.join(x)} from the model's logits: the model ignores the attacked "
                "modalities, or detaches them, and a gradient attack would measure nothing"
            )
        minus = -torch.ones_like(loss)
        found = torch.autograd.grad(
            loss, tuple(x.values()), minus, retain_graph=more, allow_unused=True, materialize_grads=True
        )
        # A sum carries any NaN or infinity, in one pass and without a tensor of flags as large as the gradient.
        totals = torch.stack([loss.detach(), *(g.flatten(1).sum(dim=1) for g in found)])
        self._refuse(~totals.isfinite().all(dim=0))
        return dict(zip(x, found, strict=True))

    def keep(self, flags: Tensor) -> Tensor | None:
        """Go on with the clips whose flag is true: their int64 places among those of until now; None if all go on."""
        if bool(flags.all()):
            return None
        kept = flags.nonzero().squeeze(1)
        self.victim = self.victim.select(kept)
        self.positions = self.positions[kept]
        return kept

    def best_or(self, positions: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The smallest successes of the clips at `positions` (b,) of all; `x` (b, ...) where a clip has none."""
        found = self.size[positions].isfinite()
        return {
            name: torch.where(per_clip(found, value), self.best[name].index_select(0, positions), value)
            for name, value in x.items()
        }

    def try_edge(self, positions: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Score the edge of the region where no success is known: so few steps are no weaker than one over the radius.

        Args:
            positions: (b,) int64, among all clips.
            gradients: of those clips at the clean ones, by modality.
        """
        lost = (~self.size[positions].isfinite()).nonzero().squeeze(1)
        if not len(lost):
            return
        self.work_on(positions[lost])
        chosen = {name: g.index_select(0, lost) for name, g in gradients.items()}
        self.score(self.region.project(self.region.step(self.region.clean, chosen, 1.0)), 1.0)

    def trim(self, rounds: int) -> None:
        """Shrink the successes: bisect over the size at which the region cuts them off.

        First every modality of a separate region is stretched to the largest share that any has: that costs no size,
        and leaves more to be cut; where the goal is lost so, the point is taken as it was.

        For l2 the cut is the segment to the clean clip; linf, l1 and l0 keep more of what counts than the segment
        does. Each round tries where the distance, taken as linear in between, is 0, but at least a tenth of the
        bracket from either end.
        """
        if rounds:
            self.work_on(((self.size > 0) & self.size.isfinite()).nonzero().squeeze(1))
        if not rounds or not len(self.victim):
            return
        start, high = self.best_or(self.positions, self.victim.clean), self.size[self.positions]
        filled = self._filled(start, high)
        scored, plain = self.probe(filled), self.probe(start)
        kept = scored.reached & (scored.size <= high * (1 + SLACK))
        start = {name: torch.where(per_clip(kept, x), filled[name], x) for name, x in start.items()}
        low = torch.zeros_like(high)
        above = self._distance[self.positions].clamp(min=TINY)
        below = torch.where(kept, scored.distance, plain.distance).clamp(max=-TINY)
        for _ in range(rounds):
            share = (above / (above - below).clamp(min=TINY)).double().clamp(0.1, 0.9)
            tried = low + (high - low) * share
            scored = self.probe(self.region.within(start, tried))
            reached = scored.reached
            # A side that stays twice is given half its weight (Illinois), or the other one would never move.
            above, below = (
                torch.where(reached, above / 2, scored.distance),
                torch.where(reached, scored.distance, below / 2),
            )
            low, high = torch.where(reached, low, tried), torch.where(reached, tried, high)

    def _filled(self, x: dict[str, Tensor], size: Tensor) -> dict[str, Tensor]:
        if self.region.kind == "shared" or len(x) == 1:
            return x
        filled = {}
        for name, ball in self.region.balls.items():
            norm = ball.measure(x[name])
            factor = torch.where(norm > 0, ball.radius * size / norm.clamp(min=TINY), 1).clamp(min=1)
            stretched = ball.center + (x[name] - ball.center) * per_clip(factor.to(x[name].dtype), x[name])
            filled[name] = x[name] if ball.norm == "l0" else ball.within(stretched, ball.radius * size)
        return filled

    def result(self) -> AttackResult:
        """The smallest successes, projected into the region and scored once more; else the clean clips.

        Where that last look fails by a rounding, the perturbation is made longer, a little at a time.
        """
        victim = self._whole
        last = victim.region.project(self.best)
        success = torch.zeros_like(self.size, dtype=torch.bool)
        asked = (self.size < torch.inf).nonzero().squeeze(1)
        for factor in (1.0, *STEPS_BACK):
            if not len(asked):
                break
            chosen = victim.select(asked)
            part = {name: x.index_select(0, asked) for name, x in self.best.items()}
            if factor > 1:
                part = onto(chosen.region, part, (self.size[asked] * factor).clamp(max=1))
            part = chosen.region.project(part)
            found = chosen.fooled(chosen.confirm(part)) & (chosen.region.size(part) <= 1)
            for name, x in last.items():
                x.index_copy_(0, asked, part[name])
            success[asked] = found
            asked = asked[~found]
        inputs = {name: torch.where(per_clip(success, x), x, victim.clean[name]) for name, x in last.items()}
        return AttackResult(inputs=inputs, success=success, last=last)

    def _note(self, x: Mapping[str, Tensor], size: Tensor, reached: Tensor) -> None:
        better = reached & (size < self.size[self.positions])
        self.size[self.positions] = torch.where(better, size, self.size[self.positions])
        if not self._whole.repeatable:
            better |= self.size[self.positions].isinf()  # as long as there is no success, the last point
        for name, best in self.best.items():
            old = best.index_select(0, self.positions)
            best.index_copy_(0, self.positions, torch.where(per_clip(better, old), x[name].detach(), old))

    def _refuse(self, broken: Tensor) -> None:
        if broken.any():
            names = [name for name, bad in zip(self.victim.ids, broken.tolist(), strict=True) if bad]
            raise AvrobustError(
                f"the loss or its gradient is not finite for {first_of(names)}: a robustness measured "
                "there would mean nothing; look for a division by 0, a log of 0 or a square root at 0 in the model"
            )


def _passed(goal: Goal, logits: Tensor) -> Tensor:
    return goal.reached(logits) & (goal.distance(logits) <= -SLACK * logits.abs().amax(dim=1))
