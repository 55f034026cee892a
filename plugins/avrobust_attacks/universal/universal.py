"""One perturbation of each attacked modality for a whole set of clips."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.keepers import one_look
from avrobust_attacks.losses import LOSSES
from avrobust_attacks.universal.configs import UniversalConfig
from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    Inputs,
    Occasion,
    Passes,
    Preparation,
    Region,
    joint_gradient,
    leaves_of,
    not_finite,
    on_the_way,
    refuse_not_finite,
)

Victims = Callable[[], Iterator[BoundVictim]]

NORMS = frozenset({"linf", "l2", "l1"})


class Universal(Attack):
    """Projected gradient ascent on one perturbation for all clips of a set.

    The idea is Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401); the steps are those of Li et al. 2022 (arXiv
    2203.12122): each batch's gradient, summed over its clips, moves the perturbation by `step_size` times the radius
    in the direction of steepest ascent; it is projected onto the ball after every step. All clips count, also those
    that the model misclassifies already. Where a clip lies at a bound, a gradient that points beyond it does not
    count, nor does that of a clip's padding, which stays as it is. The perturbation lives in the space that is
    attacked: the raw input, or the features.

    Clips whose radii differ (`snr_db`): the perturbation is made inside the ball of the mean radius of the set, and
    projected onto each clip's own ball where it is applied.

    With `projected` false it is accumulated without any projection, but for the bounds of the clips it is added to,
    as the code of Li et al. did: a budget in name only, kept to compare with their numbers. The core then reports how
    far it went.

    Results depend on the clips of the set, their order and the batch size, and on nothing random.

    Args:
        config: says what each of its fields does; the set and its batches are the preparation.
    """

    norms: ClassVar[frozenset[str]] = NORMS

    def __init__(self, config: UniversalConfig) -> None:
        self.config = config
        self.preparation = Preparation(config.split, config.batch_size, Passes(config.epochs, config.epochs))
        self.bounded = config.projected

    def passes(self, occasion: Occasion) -> Passes:
        """One look at each clip once the perturbation is there."""
        return Passes(1)

    @torch.no_grad()
    def prepare(self, victims: Victims) -> Attack:
        """Make the perturbation.

        Raises:
            AvrobustError: if there is no clip, clips differ in shape, a gradient is not finite, or no gradient
                reaches the attacked modalities.
        """
        region, batches = _region_of(victims)
        delta = dict(region.clean)
        epochs, length = self.config.epochs, self.config.step_size
        if self.bounded:
            length = max(length, 1 / (epochs * batches))
        # Each batch's flags are read when the next one is under way, so that nobody waits for the device.
        looked_at: tuple[Sequence[str], Callable[[], Tensor]] | None = None
        for _ in range(epochs):
            for victim in victims():
                gradient, broken = self._gradient(victim, delta)
                delta = region.step(delta, gradient, length)
                if self.bounded:
                    delta = region.project(delta)
                if looked_at is not None:
                    refuse_not_finite(looked_at[0], looked_at[1]())
                looked_at = victim.ids, on_the_way(broken)
        if looked_at is not None:
            refuse_not_finite(looked_at[0], looked_at[1]())
        return UniversalPerturbation(delta, projected=self.bounded)

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Refuse: `prepare` returns the attack that can be called.

        Raises:
            AvrobustError: always.
        """
        raise AvrobustError("universal: the perturbation must be prepared on a set of clips before it is applied")

    def _gradient(self, victim: BoundVictim, delta: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """The summed loss's gradient in the perturbation, by modality, (1, ...); for which clips it is not finite."""
        x = leaves_of(apply(victim, delta, self.bounded))
        with torch.enable_grad():
            loss = LOSSES[self.config.loss](victim(x), victim.goal)
        found = joint_gradient(loss, x)
        sums = {}
        for name, gradient in found.items():
            leaf = x[name]
            low, high = victim.balls[name].limits
            beyond = (leaf <= low) & (gradient < 0) | (leaf >= high) & (gradient > 0)
            counted = victim.balls[name].unpadded(gradient.masked_fill(beyond, 0))
            sums[name] = counted.sum(dim=0, keepdim=True)
        return sums, not_finite(found.values())


class UniversalPerturbation(Attack):
    """The perturbation, added to each clip and projected onto its ball; one query.

    Under a threat scaled by a factor it is scaled by that factor, too. Single-label: a clip that it does not fool is
    returned clean, with success False. Multi-label: every clip is returned perturbed.

    Args:
        delta: by modality, (1, ...).
        projected: False to hold the bounds only, not the ball.
    """

    norms: ClassVar[frozenset[str]] = NORMS

    def __init__(self, delta: Inputs, *, projected: bool) -> None:
        self.delta = dict(delta)
        self.bounded = projected

    def passes(self, occasion: Occasion) -> Passes:
        """One look."""
        return Passes(1)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if the clips' shape is not that of the perturbation.
        """
        delta = {name: self.delta[name].to(x.device) * victim.factor for name, x in victim.clean.items()}
        return one_look(victim, apply(victim, delta, self.bounded))


def apply(victim: BoundVictim, delta: Inputs, projected: bool) -> dict[str, Tensor]:
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
    return {name: confined[name].clamp(*ball.limits) for name, ball in victim.balls.items()}


def _region_of(victims: Victims) -> tuple[Region, int]:
    """The region of one perturbation for a set of clips, from one pass over it; and its number of batches.

    It lies around 0, its balls have the clips' mean radii, and nothing bounds them but the span of the clips' bounds.
    """
    one: BoundVictim | None = None
    radii: dict[str, Tensor] = {}
    clips = batches = 0
    for victim in victims():
        if one is None:
            one = victim.select(torch.zeros(1, dtype=torch.int64, device=victim.device))
        for name, ball in victim.balls.items():
            _refuse_shape(name, ball.center, one.clean[name])
            radii[name] = radii.get(name, 0) + ball.radius.sum()
        clips += len(victim)
        batches += 1
    if one is None:
        raise AvrobustError("universal: there is no clip to make a perturbation for")
    balls = {}
    for name, ball in one.balls.items():
        # No perturbation is longer than the bounds are apart.
        span = None if ball.bounds is None else (ball.bounds[0] - ball.bounds[1], ball.bounds[1] - ball.bounds[0])
        balls[name] = ball.around(torch.zeros_like(ball.center), (radii[name] / clips).view(1), span)
    return type(one.region)(balls), batches


def _refuse_shape(name: str, clips: Tensor, one: Tensor) -> None:
    if clips.shape[1:] != one.shape[1:]:
        raise AvrobustError(
            f"universal: clips of {name} have the shapes {tuple(one.shape[1:])} and {tuple(clips.shape[1:])}: one "
            "perturbation needs clips of one shape"
        )
