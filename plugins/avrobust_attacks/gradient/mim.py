"""The momentum iterative method: steps along a running sum of normalised gradients."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from avrobust_attacks.gradient.attack import GradientAttack
from avrobust_attacks.gradient.climbing import Stepper
from avrobust_attacks.gradient.configs import MimConfig
from avrobust_core import Inputs, Region, per_clip

DEFAULT_REACH = 3.0
"""The sum of all steps by default, as a share of the radius. Steps that sum to 1, the paper's, end at the edge only
where no gradient ever changes its sign, and leave more clips unbroken at 5, 10 and 20 steps."""


class MomentumSteps(Stepper):
    """Steps of steepest ascent along m, where m = decay * m + gradient / mean |gradient|.

    Dong et al., CVPR 2018, arXiv 1710.06081, equation 6. The mean is taken over a clip's samples: of each modality by
    itself where each has a ball of its own, and over all of them where they share one, since there the gradients' sizes
    decide how the ball is split.

    Args:
        decay: of the running sum.
        length: of a step, as a share of each modality's radius.
    """

    def __init__(self, decay: float, length: float) -> None:
        self._decay = decay
        self._length = length
        self._momentum: dict[str, Tensor] = {}

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        scaled = _normalised(gradients, region.groups)
        for name, momentum in self._momentum.items():
            scaled[name].add_(momentum, alpha=self._decay)
        self._momentum = scaled
        return region.project(region.step(x, self._momentum, self._length))


def mim(config: MimConfig) -> GradientAttack:
    """From the clean clip, steps of one length."""
    length = DEFAULT_REACH / config.steps if config.step_size is None else config.step_size
    stepper = partial(MomentumSteps, config.decay, length)
    return GradientAttack(stepper=stepper, steps=config.steps, random_start=False, loss=config.loss)


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
