"""One perturbation of each attacked modality for a whole set of clips."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.losses import LOSSES
from avrobust_core import Attack, AttackResult, AvrobustError, BoundVictim, Preparation, Region, first_of

Victims = Callable[[], Iterator[BoundVictim]]

NORMS = frozenset({"linf", "l2", "l1"})


class Universal(Attack):
    """Projected gradient ascent on one perturbation for all clips of a set.

    The idea is Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401); the steps are those of Li et al. 2022 (arXiv
    2203.12122): each batch's gradient, summed over its clips, moves the perturbation by `step_size` times the radius
    in the direction of steepest ascent; it is projected onto the ball after every step. All clips count, also those
    that the model misclassifies already. Where a clip lies at a bound, a gradient that points beyond it does not
    count. The perturbation lives in the space that is attacked: the raw input, or the features.

    Clips whose radii differ (`snr_db`): the perturbation is made inside the ball of the mean radius of the set, and
    projected onto each clip's own ball where it is applied.

    With `projected` false it is accumulated without any projection, but for the bounds of the clips it is added to,
    as the code of Li et al. did: a budget in name only, kept to compare with their numbers. The core then reports how
    far it went.

    Results depend on the clips of the set, their order and the batch size, and on nothing random.

    Args:
        preparation: the set, and the clips of a batch.
        epochs: passes over the set.
        step_size: as a share of each modality's radius; longer, if it is projected, where all steps together would not
            reach the edge.
        loss: a name in `LOSSES`.
        projected: see above.
    """

    norms: ClassVar[frozenset[str]] = NORMS

    def __init__(
        self, preparation: Preparation, *, epochs: int, step_size: float, loss: str, projected: bool = True
    ) -> None:
        self.preparation = preparation
        self.epochs = epochs
        self.step_size = step_size
        self.loss = LOSSES[loss]
        self.projected = projected
        self.bounded = projected

    @torch.no_grad()
    def prepare(self, victims: Victims) -> Attack:
        """Make the perturbation.

        Raises:
            AvrobustError: if there is no clip, clips differ in shape, a gradient is not finite, or no gradient
                reaches the attacked modalities.
        """
        seen = _Set.of(victims)
        region = seen.region()
        delta = dict(region.clean)
        length = max(self.step_size, 1 / (self.epochs * seen.batches)) if self.projected else self.step_size
        for _ in range(self.epochs):
            for victim in victims():
                delta = region.step(delta, self._gradient(victim, delta), length)
                if self.projected:
                    delta = region.project(delta)
        return UniversalPerturbation(delta, _radii(seen.one), projected=self.projected)

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Refuse: `prepare` returns the attack that can be called.

        Raises:
            AvrobustError: always.
        """
        raise AvrobustError("universal: the perturbation must be prepared on a set of clips before it is applied")

    def _gradient(self, victim: BoundVictim, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of the summed loss in the perturbation: by modality, (1, ...)."""
        x = {name: moved.detach().requires_grad_() for name, moved in apply(victim, delta, self.projected).items()}
        with torch.enable_grad():
            loss = self.loss(victim(x), victim.goal)
        if not loss.requires_grad:
            raise AvrobustError(
                f"no gradient reaches {', '.join(x)} from the model's logits: the model ignores the attacked "
                "modalities, or detaches them"
            )
        ones = torch.ones_like(loss)
        found = torch.autograd.grad(loss, tuple(x.values()), ones, allow_unused=True, materialize_grads=True)
        sums = {}
        for (name, leaf), gradient in zip(x.items(), found, strict=True):
            _refuse_broken(victim, gradient)
            bounds = victim.balls[name].bounds
            if bounds is not None:
                beyond = (leaf <= bounds[0]) & (gradient < 0) | (leaf >= bounds[1]) & (gradient > 0)
                gradient = gradient.masked_fill(beyond, 0)
            sums[name] = gradient.sum(dim=0, keepdim=True)
        return sums


class UniversalPerturbation(Attack):
    """The perturbation, added to each clip and projected onto its ball; one query.

    Under a threat scaled by a factor it is scaled by that factor, too. Single-label: a clip that it does not fool is
    returned clean, with success False. Multi-label: every clip is returned perturbed.

    Args:
        delta: by modality, (1, ...).
        radii: by modality, of the threat that it was made for: eps, or 10^(-snr_db / 20).
        projected: False to hold the bounds only, not the ball.
    """

    norms: ClassVar[frozenset[str]] = NORMS

    def __init__(self, delta: Mapping[str, Tensor], radii: Mapping[str, float], *, projected: bool) -> None:
        self.delta = dict(delta)
        self.radii = dict(radii)
        self.projected = projected
        self.bounded = projected

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if the clips' shape is not that of the perturbation.
        """
        radii = _radii(victim)
        delta = {
            name: self.delta[name].to(x.device) * (radii[name] / self.radii[name] if self.radii[name] else 1.0)
            for name, x in victim.clean.items()
        }
        x = apply(victim, delta, self.projected)
        success = victim.fooled(victim.confirm(x))
        if victim.task == "multi-label" or not victim.repeatable:
            return AttackResult(inputs=x, success=success)
        inputs = {
            name: torch.where(success.view(-1, *[1] * (moved.dim() - 1)), moved, victim.clean[name])
            for name, moved in x.items()
        }
        return AttackResult(inputs=inputs, success=success)


def apply(victim: BoundVictim, delta: Mapping[str, Tensor], projected: bool) -> dict[str, Tensor]:
    """Each clip with the perturbation added.

    Args:
        victim: the clips.
        delta: by attacked modality, (1, ...).
        projected: onto the region; else within the bounds and the steps of time that may change.

    Raises:
        AvrobustError: if the clips' shape is not that of the perturbation.
    """
    for name, clean in victim.clean.items():
        _refuse_shape(name, clean, delta[name])
    moved = {name: clean + delta[name] for name, clean in victim.clean.items()}
    if projected:
        return victim.region.project(moved)
    confined = victim.region.confine(moved)
    return {
        name: x if ball.bounds is None else x.clamp(*ball.bounds)
        for (name, x), ball in zip(confined.items(), victim.balls.values(), strict=True)
    }


@dataclass(slots=True)
class _Set:
    """What one pass over the set tells of it.

    Attributes:
        one: a clip of it, for its shapes.
        radii: by modality, the sum of the clips' radii, 0-d float64.
        clips: how many.
        batches: how many.
    """

    one: BoundVictim
    radii: dict[str, Tensor]
    clips: int = 0
    batches: int = 0

    @classmethod
    def of(cls, victims: Victims) -> "_Set":
        found: _Set | None = None
        for victim in victims():
            if found is None:
                one = victim.select(torch.zeros(1, dtype=torch.int64, device=victim.device))
                zero = torch.zeros((), dtype=torch.float64, device=victim.device)
                found = cls(one, dict.fromkeys(victim.balls, zero))
            for name, ball in victim.balls.items():
                _refuse_shape(name, ball.center, found.one.clean[name])
                found.radii[name] = found.radii[name] + ball.radius.sum()
            found.clips += len(victim)
            found.batches += 1
        if found is None:
            raise AvrobustError("universal: there is no clip to make a perturbation for")
        return found

    def region(self) -> Region:
        """A region around 0 for one perturbation, its balls of the mean radii, unbounded but for the bounds' span."""
        balls = {}
        for name, ball in self.one.balls.items():
            # No perturbation is longer than the bounds are apart.
            span = None if ball.bounds is None else (ball.bounds[0] - ball.bounds[1], ball.bounds[1] - ball.bounds[0])
            radius = (self.radii[name] / self.clips).view(1)
            balls[name] = type(ball)(torch.zeros_like(ball.center), radius, span, ball.freedom)
        return type(self.one.region)(balls)


def _radii(victim: BoundVictim) -> dict[str, float]:
    return {
        name: budget.eps if isinstance(budget.eps, float) else 10 ** (-budget.eps.snr_db / 20)
        for name, budget in victim.threat.items()
    }


def _refuse_shape(name: str, clips: Tensor, one: Tensor) -> None:
    if clips.shape[1:] != one.shape[1:]:
        raise AvrobustError(
            f"universal: clips of {name} have the shapes {tuple(one.shape[1:])} and {tuple(clips.shape[1:])}: one "
            "perturbation needs clips of one shape"
        )


def _refuse_broken(victim: BoundVictim, gradient: Tensor) -> None:
    broken = ~gradient.flatten(1).sum(dim=1).isfinite()
    if broken.any():
        names = [name for name, bad in zip(victim.ids, broken.tolist(), strict=True) if bad]
        raise AvrobustError(f"the loss or its gradient is not finite for {first_of(names)}")
