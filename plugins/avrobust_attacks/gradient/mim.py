"""The momentum iterative method: steps along a running sum of normalised gradients."""

from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.gradient.climbing import Inputs, Stepper, climb, start_of
from avrobust_attacks.gradient.keepers import keeper_for
from avrobust_attacks.losses import LOSSES
from avrobust_core import Attack, AttackResult, BoundVictim, Region


class MomentumSteps(Stepper):
    """Steps of steepest ascent along m, where m = decay * m + gradient / mean |gradient| (Dong et al. 2018, eq. 6).

    The mean is taken over a clip's samples: of each modality by itself where each has a ball of its own, and over all
    of them where they share one, since there the gradients' sizes decide how the ball is split.

    Args:
        decay: of the running sum.
        length: of a step, as a share of each modality's radius.
    """

    def __init__(self, decay: float, length: float) -> None:
        self._decay = decay
        self._length = length
        self._momentum: dict[str, Tensor] = {}

    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        scaled = _normalised(gradients, together=region.kind == "shared")
        for name, momentum in self._momentum.items():
            scaled[name].add_(momentum, alpha=self._decay)
        self._momentum = scaled
        return region.project(region.step(x, self._momentum, self._length))

    def select(self, kept: Tensor) -> None:
        self._momentum = {name: momentum.index_select(0, kept) for name, momentum in self._momentum.items()}


class MIM(Attack):
    """The momentum iterative method on all attacked modalities at once (Dong et al., CVPR 2018, arXiv 1710.06081).

    It starts from the clean clip (or the victim's start, where it has one), takes steps along the running sum of the
    normalised gradients, and projects onto the ball around the clean clip. Every iterate is scored; what is returned
    for a clip, `last` and the trace, (steps + 1, B), are as in `PGD`.

    Args:
        steps: how many.
        length: of a step, as a share of each modality's radius.
        decay: of the running sum of gradients.
        loss: a name in `LOSSES`.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, *, steps: int, length: float, decay: float, loss: str) -> None:
        self.steps = steps
        self.length = length
        self.decay = decay
        self.loss = LOSSES[loss]

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        keeper = keeper_for(victim, self.loss, self.steps + 1)
        if victim.start is not None:  # otherwise the first iterate is the clean one
            keeper.score(victim.clean)
            keeper.settle(victim.clean)
        if len(keeper.victim):
            start = start_of(keeper.victim, 0, random=False)
            climb(keeper, MomentumSteps(self.decay, self.length), start, self.steps, first_row=0)
        return keeper.result()


def _normalised(gradients: Inputs, *, together: bool) -> dict[str, Tensor]:
    """Each clip's gradients over the mean of their absolute values; 0 where they are 0."""
    # Scaled by the largest entry first: the mean of a tiny gradient may vanish in float32.
    largest = {name: gradient.flatten(1).abs().amax(dim=1) for name, gradient in gradients.items()}
    if together:
        overall = torch.stack(list(largest.values())).amax(dim=0)
        largest = dict.fromkeys(largest, overall)
    scaled = {name: gradient / _shaped(largest[name], gradient) for name, gradient in gradients.items()}
    sums = {name: x.flatten(1).abs().sum(dim=1) for name, x in scaled.items()}
    samples = {name: x[0].numel() for name, x in scaled.items()}
    if together:
        sums = dict.fromkeys(sums, torch.stack(list(sums.values())).sum(dim=0))
        samples = dict.fromkeys(samples, sum(samples.values()))
    return {name: x.div_(_shaped(sums[name] / samples[name], x)) for name, x in scaled.items()}


def _shaped(divisor: Tensor, x: Tensor) -> Tensor:
    return divisor.clamp(min=torch.finfo(x.dtype).tiny).view(-1, *[1] * (x.dim() - 1))
