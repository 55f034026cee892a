"""Carlini and Wagner's l-infinity form: no sample further than tau from the clean clip, and tau shrinks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.steps import TINY, cosine, leaves_of, per_clip

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
"""Of Adam's moments (Kingma and Ba, arXiv 1412.6980)."""

LAST_RATE, LAST_SHRINK = 0.02, 0.02
"""The last learning rate and the last change of tau, as shares of the first ones."""

SHRINK = 0.1
"""By how much tau shrinks at first when the goal is reached, as in the paper."""


class Shrinking:
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

    def __init__(self, search: Search, x: Mapping[str, Tensor], tau: Tensor) -> None:
        self._search = search
        self._rows = torch.arange(len(tau), device=tau.device)
        best = search.size[search.positions]
        self._tau = torch.where(best.isfinite(), best, tau).clamp(max=1)
        self._x = dict(x)
        self._last = dict(x)
        self._first = {name: torch.zeros_like(value) for name, value in x.items()}
        self._second = {
            name: torch.zeros_like(x[name] if ball.norm == "linf" else ball.step_radius)
            for name, ball in search.region.balls.items()
        }
        self._steps = 0

    def step(self, share: float, learning_rate: float) -> None:
        """Score where it stands, take one step of Adam, and set back what lies beyond tau.

        Args:
            share: of all searches that is done.
            learning_rate: at share 0.
        """
        search, region = self._search, self._search.region
        leaves = leaves_of(self._x)
        with torch.enable_grad():
            scored = search.score(region.confine(leaves), share)
        gradients = search.downhill(scored.loss, leaves)
        best = search.size[search.positions]
        shrink = cosine(SHRINK, SHRINK * LAST_SHRINK, share)
        smaller = torch.minimum(self._tau, best) * (1 - shrink)
        self._tau = torch.where(scored.reached, smaller, self._tau * (1 + shrink)).clamp(max=1)
        self._steps += 1
        gain = region.gain(gradients).clamp(min=TINY)
        rate = self._tau * cosine(learning_rate, learning_rate * LAST_RATE, share)
        self._x = region.within(
            {name: self._moved(name, g / per_clip(gain, g), rate) for name, g in gradients.items()}, self._tau
        )

    def select(self, kept: Tensor) -> None:
        """Go on with the clips at `kept` (int64 places among those of until now)."""
        gone = torch.ones_like(self._rows, dtype=torch.bool).index_fill_(0, kept, False).nonzero().squeeze(1)
        self._leave(gone)
        for parts in (self._x, self._first, self._second):
            for name, value in parts.items():
                parts[name] = value.index_select(0, kept)
        self._rows, self._tau = self._rows[kept], self._tau[kept]

    def end(self, everyone: Tensor) -> dict[str, Tensor]:
        """Score the last point, and give the next search its start: the smallest success, or else the last point.

        Args:
            everyone: (B,) int64, the positions of all clips of `x`.
        """
        if len(self._rows):
            self._search.score(self._x, 1.0)
        self._leave(torch.arange(len(self._rows), device=self._rows.device))
        return self._search.best_or(everyone, self._last)

    def _leave(self, places: Tensor) -> None:
        rows = self._rows[places]
        self._last = {
            name: last.index_copy(0, rows, self._x[name].index_select(0, places)) for name, last in self._last.items()
        }

    def _moved(self, name: str, gradient: Tensor, rate: Tensor) -> Tensor:
        """The modality after Adam's step, in which each sample (l2: the whole clip) moves by about rate times eps."""
        ball = self._search.region.balls[name]
        # In units of the gradient's own size: the squares of a small one would vanish in float32.
        count = gradient[0].numel()
        gradient = gradient * count
        square = gradient.square()
        if ball.norm != "linf":
            square = per_clip(square.flatten(1).sum(dim=1), gradient)
        self._first[name] = torch.lerp(gradient, self._first[name], FIRST_DECAY)
        self._second[name] = torch.lerp(square, self._second[name], SECOND_DECAY)
        first = self._first[name] / (1 - FIRST_DECAY**self._steps)
        second = (self._second[name] / (1 - SECOND_DECAY**self._steps)).sqrt()
        step = torch.where(second > 0, first / second, 0)
        return self._x[name] + step * per_clip((rate * ball.radius).to(step.dtype), step)
