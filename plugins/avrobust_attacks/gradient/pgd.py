"""The steps of projected gradient ascent: of steepest ascent, and of lengths that do not depend on the clip."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from avrobust_attacks.gradient.attack import GradientAttack
from avrobust_attacks.gradient.climbing import Stepper, leap
from avrobust_attacks.gradient.configs import FgsmConfig, PgdConfig
from avrobust_core import Inputs, Region

FIRST_LENGTH, LAST_LENGTH = 1.0, 0.02
"""Lengths of the steps after the leap, by default, as a share of the radius."""


class PlainSteps(Stepper):
    """Steps of steepest ascent of given lengths (Madry et al. 2018, arXiv 1706.06083).

    Args:
        lengths: of each step, as a share of each modality's radius; of those after the leap, if there is one.
        leaps: whether the first step is a leap.
    """

    def __init__(self, lengths: Sequence[float], *, leaps: bool = False) -> None:
        self._lengths = iter(lengths)
        self._leap_left = leaps
        self.leaps = leaps

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        if self._leap_left:
            self._leap_left = False
            return leap(region, gradients)
        return region.project(region.step(x, gradients, next(self._lengths)))


def falling_lengths(steps: int) -> list[float]:
    """Step lengths that fall geometrically from `FIRST_LENGTH` to `LAST_LENGTH`, for the steps after the leap.

    Against steps of one length, 2.5 / steps (Madry et al. 2018), as many of these leave fewer clips unbroken, and break
    the others sooner: the first steps settle most clips, the last ones come close to a maximum. The leap before them is
    what makes few steps as good as they can be: falling lengths alone sum to less than the ball's width below 7 steps.
    """
    fall = (LAST_LENGTH / FIRST_LENGTH) ** (1 / max(steps - 1, 1))
    return [FIRST_LENGTH * fall**step for step in range(steps)]


def fgsm(config: FgsmConfig) -> GradientAttack:
    """One step, to the point of the region that the linearised loss likes best."""
    stepper = partial(PlainSteps, [], leaps=True)
    return GradientAttack(
        stepper=stepper, steps=1, random_start=config.random_start, clean_first=False, loss=config.loss
    )


def pgd(config: PgdConfig) -> GradientAttack:
    """Steps of one length, or a leap and steps that fall in length."""
    if config.step_size is None:
        return GradientAttack.restarted(partial(PlainSteps, falling_lengths(config.steps - 1), leaps=True), config)
    return GradientAttack.restarted(partial(PlainSteps, [config.step_size] * config.steps), config)
