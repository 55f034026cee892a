"""Carlini and Wagner's l-infinity form: no sample further than tau from the clean clip, and tau shrinks."""

import torch
from torch import Tensor

from avrobust_attacks.minimal.descent import FIRST_DECAY, LAST_RATE, SECOND_DECAY, Descent
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_attacks.minimal.steps import TINY, cosine
from avrobust_core import Inputs, per_clip

LAST_SHRINK = 0.02
"""The last change of tau as a share of the first one."""

SHRINK = 0.1
"""The share by which tau shrinks at first when the goal is reached, as in the paper."""


class Shrinking(Descent):
    """One search: Adam on the distance to the goal inside the region scaled by tau, from a given point.

    The paper adds sum_i max(|delta_i| - tau, 0) to c times the distance, solves, and lets tau shrink to 0.9 tau as
    long as no sample is beyond it. Here the penalty's weight is infinite: samples beyond tau are set back to it after
    each step, which leaves no constant to be searched for. Tau shrinks at each step that reaches the goal, from the
    smallest success so far, and grows by as much at each that does not; by less as the searches go on.

    In a modality with an l2 budget, tau is the share of its radius, and Adam has one second moment for all samples.

    Args:
        search: what is worked on; each step is scored there.
        x: the start, (b, ...) by modality.
        tau: (b,) float64, the first.
    """

    def __init__(self, search: SmallestSuccess, x: Inputs, tau: Tensor) -> None:
        super().__init__(search, x)
        best = search.size[search.positions]
        self._tau = torch.where(best.isfinite(), best, tau).clamp(max=1)
        self._first = {name: torch.zeros_like(value) for name, value in x.items()}
        self._second = {name: torch.zeros_like(search.region.balls[name].pooled(value)) for name, value in x.items()}

    def step(self, share: float, learning_rate: float) -> None:
        search, region = self._search, self._search.region
        scored, gradients = self.climb(share)
        best = search.size[search.positions]
        shrink = cosine(SHRINK, SHRINK * LAST_SHRINK, share)
        smaller = torch.minimum(self._tau, best) * (1 - shrink)
        self._tau = torch.where(scored.reached, smaller, self._tau * (1 + shrink)).clamp(max=1)
        gain = region.gain(gradients).clamp(min=TINY)
        rate = self._tau * cosine(learning_rate, learning_rate * LAST_RATE, share)
        self._x = region.within(
            {name: self._moved(name, g / per_clip(gain, g), rate) for name, g in gradients.items()}, self._tau
        )

    def _moved(self, name: str, gradient: Tensor, rate: Tensor) -> Tensor:
        """The modality after Adam's step, in which each sample (l2: the whole clip) moves by about rate times eps."""
        ball = self._search.region.balls[name]
        # In units of the gradient's own size: the squares of a small one would vanish in float32.
        count = gradient[0].numel()
        gradient = gradient * count
        square = ball.pooled(gradient.square())
        self._first[name] = torch.lerp(gradient, self._first[name], FIRST_DECAY)
        self._second[name] = torch.lerp(square, self._second[name], SECOND_DECAY)
        first = self._first[name] / (1 - FIRST_DECAY**self._steps)
        second = (self._second[name] / (1 - SECOND_DECAY**self._steps)).sqrt()
        step = torch.where(second > 0, first / second, 0)
        return self._x[name] + step * per_clip((rate * ball.radius).to(step.dtype), step)
