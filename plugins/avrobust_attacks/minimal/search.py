"""What the minimal attacks share: the smallest success of each clip, gradients, the first-order start, the trim."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core import AttackResult, AvrobustError, BoundVictim, Goal, Region

SLACK = 4e-6
"""A success counts if the goal is passed by this share of the largest logit: batching moves the last bits, and a clip
left on the very boundary would be a success in one batch and none in another."""

TINY = 1e-30
"""Below this a gain is none."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of an iterate.

    Attributes:
        distance: (b,) to the goal, in logits; differentiable where gradients are enabled.
        reached: (b,) bool: the goal is reached, confirmed in float32.
        size: (b,) float64, see `Region.size`.
    """

    distance: Tensor
    reached: Tensor
    size: Tensor


class Search:
    """The clips that are still worked on, and the smallest perturbation found so far of every clip.

    Made, it scores the clean clips once: those that are where the goal wants them are done, at size 0, and so are, as
    failures, those that no perturbation can bring there (a multi-label clip that has every class).

    Attributes:
        victim: the clips still worked on.
        positions: (b,) int64, their places among all clips.
        best: by modality, (B, ...): the smallest success; the clean clip where there is none.
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
        distance = victim.goal.distance(logits)
        self._refuse(distance.isnan())
        self.size[done] = 0
        self.spread = (logits.amax(dim=1) - logits.mean(dim=1)).clamp(min=TINY)
        self.keep(~done & (distance < torch.inf))

    @property
    def region(self) -> Region:
        """Of the clips still worked on."""
        return self.victim.region

    def score(self, x: Mapping[str, Tensor]) -> Scored:
        return self.score_logits(x)[1]

    def work_on(self, positions: Tensor) -> None:
        self.victim, self.positions = self._whole.select(positions), positions

    def score_logits(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Scored]:
        """Score an iterate (b, ...) of the clips still worked on, and keep it where it is the smallest success."""
        logits = self.victim(x)
        distance = self.victim.goal.distance(logits)
        size = self.region.size({name: value.detach() for name, value in x.items()})
        reached = _passed(self.victim.goal, logits.detach())
        if not self.victim.exact:
            reached = reached & _passed(self.victim.goal, self.victim.confirm(x))
        self._note(x, size, reached)
        return logits, Scored(distance, reached, size)

    def probe(self, x: Mapping[str, Tensor]) -> Scored:
        """As `score`, in float32 and without a gradient."""
        with torch.no_grad():
            logits = self.victim.confirm(x)
            scored = Scored(
                self.victim.goal.distance(logits), _passed(self.victim.goal, logits), self.region.size(x)
            )
            self._note(x, scored.size, scored.reached)
        return scored

    def downhill(self, loss: Tensor, x: Mapping[str, Tensor], *, more: bool = False) -> dict[str, Tensor]:
        """The gradient of minus the `loss` by modality; clips do not mix, so each gets that of its own loss.

        Args:
            loss: (b,), to be lowered.
            x: the leaves.
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

    def found(self) -> tuple[dict[str, Tensor], Tensor]:
        """Best inputs and their sizes, of the clips still worked on."""
        return {name: x.index_select(0, self.positions) for name, x in self.best.items()}, self.size[self.positions]

    def trim(self, rounds: int) -> None:
        """Shrink the successes: bisect over the size at which the region cuts them off.

        For l2 that is the segment to the clean clip; linf, l1 and l0 keep more of what counts than the segment does,
        and of several modalities only those are cut that reach beyond the rest.

        Each round tries where the distance, taken as linear in between, is 0, but at least a tenth of the bracket from
        either end.
        """
        self._resume(self.size > 0)
        if not len(self.victim):
            return
        start, high = self.found()
        low = torch.zeros_like(high)
        above, below = self._ends(start)
        for _ in range(rounds):
            share = (above / (above - below).clamp(min=TINY)).double().clamp(0.1, 0.9)
            tried = low + (high - low) * share
            # For l0 a size between two counts is rounded down by `within`: a hair more, or it would drop one too many.
            scored = self.probe(self.region.within(start, tried * (1 + 1e-9)))
            reached = scored.reached
            # A side that stays twice is given half its weight (Illinois), or the other one would never move.
            above, below = (
                torch.where(reached, above / 2, scored.distance),
                torch.where(reached, scored.distance, below / 2),
            )
            low, high = torch.where(reached, low, tried), torch.where(reached, tried, high)

    def _ends(self, start: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            goal = self.victim.goal
            clean = goal.distance(self.victim.confirm(self.victim.clean)).clamp(min=TINY)
            end = goal.distance(self.victim.confirm(start)).clamp(max=-TINY)
        return clean, end

    def result(self) -> AttackResult:
        """The smallest successes, projected into the region and scored once more; else the clean clips."""
        victim = self._whole
        last = victim.region.project(self.best)
        success = torch.zeros_like(self.size, dtype=torch.bool)
        asked = (self.size < torch.inf).nonzero().squeeze(1)
        if len(asked):
            part = {name: x.index_select(0, asked) for name, x in last.items()}
            chosen = victim.select(asked)
            with torch.no_grad():
                reached = chosen.fooled(chosen.confirm(part)) & (chosen.region.size(part) <= 1)
            success[asked] = reached
        inputs = {
            name: torch.where(per_clip(success, x), x, victim.clean[name]) for name, x in last.items()
        }
        return AttackResult(inputs=inputs, success=success, last=last)

    def _resume(self, flags: Tensor) -> None:
        """Work on the clips of all that have a success and whose flag is true."""
        chosen = (flags & (self.size < torch.inf)).nonzero().squeeze(1)
        self.victim, self.positions = self._whole.select(chosen), chosen

    def _note(self, x: Mapping[str, Tensor], size: Tensor, reached: Tensor) -> None:
        better = reached & (size < self.size[self.positions])
        self.size[self.positions] = torch.where(better, size, self.size[self.positions])
        for name, best in self.best.items():
            old = best.index_select(0, self.positions)
            best.index_copy_(0, self.positions, torch.where(per_clip(better, old), x[name].detach(), old))

    def _refuse(self, broken: Tensor) -> None:
        if broken.any():
            names = [name for name, bad in zip(self.victim.ids, broken.tolist(), strict=True) if bad]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise AvrobustError(
                f"the loss or its gradient is not finite for {', '.join(names[:5])}{more}: a robustness measured "
                "there would mean nothing; look for a division by 0, a log of 0 or a square root at 0 in the model"
            )


@dataclass(frozen=True, slots=True)
class Estimate:
    """The nearest boundary, as the gradients at the clean clip have it.

    Attributes:
        size: (b,) float64, at which the distance would be 0 if it were linear; infinite where the gradient is 0.
        gradients: of minus the distance to that boundary, by modality.
    """

    size: Tensor
    gradients: dict[str, Tensor]


def nearest_boundary(search: Search, classes: int) -> Estimate:
    """Which class is the nearest by the linearised model (DeepFool's first step, Moosavi-Dezfooli et al. 2016).

    The smallest margin need not be the nearest boundary. Only the `classes` with the highest logits that are not the
    clip's own are looked at. A targeted goal has one boundary.

    Args:
        search: scores the clean clips again, with a gradient.
        classes: how many other classes, each at the cost of a backward pass.
    """
    leaves = leaves_of(search.victim.clean)
    with torch.enable_grad():
        distances = _distances(search.victim(leaves), search.victim.goal, classes)
    size: Tensor | None = None
    gradients: dict[str, Tensor] = {}
    for number, distance in enumerate(distances):
        found = search.downhill(distance, leaves, more=number + 1 < len(distances))
        gain = search.region.gain(found).double()
        reach = torch.where(gain > TINY, distance.detach().double() / gain.clamp(min=TINY), torch.inf)
        nearer = torch.ones_like(reach, dtype=torch.bool) if size is None else reach < size
        size = reach if size is None else torch.minimum(reach, size)
        gradients = {
            name: torch.where(per_clip(nearer, g), g, gradients.get(name, g)) for name, g in found.items()
        }
    assert size is not None
    return Estimate(size, gradients)


def _distances(logits: Tensor, goal: Goal, classes: int) -> list[Tensor]:
    if goal.targeted:
        return [goal.distance(logits)]
    labels = goal.labels
    own = labels > 0.5 if goal.task == "multi-label" else torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf)
    best = logits.masked_fill(~own, -torch.inf).amax(dim=1)
    nearest = others.detach().topk(min(classes, logits.shape[1] - 1), dim=1).indices
    distances = []
    for index in nearest.unbind(dim=1):
        chosen = index.unsqueeze(1)
        # A multi-label clip may have fewer other classes than are asked for: the last of them stands in.
        real = others.gather(1, chosen).squeeze(1).isfinite()
        chosen = torch.where(real.unsqueeze(1), chosen, nearest[:, :1])
        distances.append(best - logits.gather(1, chosen).squeeze(1))
    return distances


def leaves_of(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as leaves that want gradients."""
    return {name: value.detach().requires_grad_() for name, value in x.items()}


def cosine(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1, along half a cosine."""
    return last + (first - last) * (1 + float(torch.cos(torch.tensor(torch.pi * share, dtype=torch.float64)))) / 2


def _passed(goal: Goal, logits: Tensor) -> Tensor:
    return goal.reached(logits) & (goal.distance(logits) <= -SLACK * logits.abs().amax(dim=1))


def per_clip(values: Tensor, x: Tensor) -> Tensor:
    """(b,) shaped (b, 1, ...) to broadcast over clips of any rank."""
    return values.view(-1, *[1] * (x.dim() - 1))


SHARP = (8.0, 200.0)


def sharpness(search: Search, share: float) -> Tensor:
    return SHARP[0] * (SHARP[1] / SHARP[0]) ** share / search.spread[search.positions]


def softened(logits: Tensor, goal: Goal, sharp: Tensor) -> Tensor:
    labels = goal.labels
    own = labels > 0.5 if goal.task == "multi-label" else torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    best = logits.masked_fill(~own, -torch.inf).amax(dim=1)
    beta = sharp.unsqueeze(1)
    others = (logits * beta).masked_fill(own, -torch.inf).logsumexp(dim=1) / sharp
    return others - best if goal.targeted else best - others
