"""Gradient ascent in steps whose lengths do not depend on the clip: `fgsm`, `pgd`, and with momentum `mim`."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from avrobust_attacks.gradient.attack import GradientAttack
from avrobust_attacks.gradient.climbing import Stepper, leap
from avrobust_attacks.gradient.configs import FgsmConfig, MimConfig, PgdConfig
from avrobust_core import Inputs, Region, per_clip

FIRST_LENGTH, LAST_LENGTH = 1.0, 0.02
"""Lengths of the steps after the leap, by default, as a share of the radius."""

MIM_REACH = 3.0
"""The sum of all steps of `mim` by default, as a share of the radius. Steps that sum to 1, the paper's, end at the edge
only where no gradient ever changes its sign, and leave more clips unbroken at 5, 10 and 20 steps."""


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


class MomentumSteps(PlainSteps):
    """Steps of given lengths along m, where m = decay * m + gradient / mean |gradient|.

    Dong et al., CVPR 2018, arXiv 1710.06081, equation 6. The mean is taken over a clip's samples: of each modality by
    itself where each has a ball of its own, and over all of them where they share one, since there the gradients' sizes
    decide how the ball is split.

    Args:
        lengths: see `PlainSteps`.
        decay: of the running sum.
    """

    def __init__(self, lengths: Sequence[float], *, decay: float) -> None:
        super().__init__(lengths)
        self._decay = decay
        self._momentum: dict[str, Tensor] = {}

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        scaled = _normalised(gradients, region.groups)
        for name, momentum in self._momentum.items():
            scaled[name].add_(momentum, alpha=self._decay)
        self._momentum = scaled
        return super().move(region, x, scaled, loss)


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
    return GradientAttack.configured(partial(PlainSteps, [], leaps=True), config, steps=1, clean_first=False)


def pgd(config: PgdConfig) -> GradientAttack:
    """Steps of one length, or a leap and steps that fall in length."""
    if config.step_size is None:
        return GradientAttack.configured(partial(PlainSteps, falling_lengths(config.steps - 1), leaps=True), config)
    return GradientAttack.configured(partial(PlainSteps, [config.step_size] * config.steps), config)


def mim(config: MimConfig) -> GradientAttack:
    """From the clean clip, steps of one length along the running sum of gradients."""
    length = MIM_REACH / config.steps if config.step_size is None else config.step_size
    stepper = partial(MomentumSteps, [length] * config.steps, decay=config.decay)
    return GradientAttack.configured(stepper, config, random_start=False)


def _normalised(gradients: Inputs, groups: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """Each clip's gradients over the mean of their absolute values, of each group together; 0 where they are 0."""
    found: dict[str, Tensor] = {}
    for names in groups:
        # Scaled by the largest entry first: the mean of a tiny gradient may vanish in float32.
        largest = torch.stack([gradients[name].flatten(1).abs().amax(dim=1) for name in names]).amax(dim=0)
        scaled = {name: gradients[name] / _divisor(largest, gradients[name]) for name in names}
        total = torch.stack([x.flatten(1).abs().sum(dim=1) for x in scaled.values()]).sum(dim=0)
        mean = total / sum(x[0].numel() for x in scaled.values())
        found |= {name: x.div_(_divisor(mean, x)) for name, x in scaled.items()}
    return found


def _divisor(values: Tensor, x: Tensor) -> Tensor:
    return per_clip(values.clamp(min=torch.finfo(x.dtype).tiny), x)
