"""Carlini and Wagner's l2 form: the squared size and a penalty for the goal that is not reached, lowered by Adam."""

import torch
from torch import Tensor

from avrobust_attacks.minimal.descent import FIRST_DECAY, LAST_RATE, SECOND_DECAY, Descent
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_attacks.minimal.steps import TINY, cosine
from avrobust_attacks.minimal.tanh import Variable
from avrobust_core import Inputs, per_clip

HEADROOM = 1.5
"""The constant over the one that the linearised model asks for: at just that one, the boundary is reached in the limit
only."""

GROWTH = 4.0
"""Growth of a constant that was too small, while none is known that is large enough."""

PATIENCE, RISE = 5, 1.3
"""After more than so many successive steps that do not reach the goal, the constant grows by this factor a step: the
linearised model was too hopeful, and to wait for the next search would waste this one."""

DOMINANT = 1e6
"""The penalty pulls at most so many times as hard as the size: more changes no direction, and overflows where logits
are flat, since the constant makes up for a small gradient."""


class Bracket:
    """The constants known to be too small and large enough, per clip, over all searches.

    Attributes:
        unit: (B,) float64, the size that the objective is measured in: what the first-order start expects.
        low: (B,) float64, the largest constant that failed.
        high: (B,) float64, the smallest that reached the goal; infinite where none did.
    """

    def __init__(self, unit: Tensor) -> None:
        tiny = torch.finfo(unit.dtype).tiny ** 0.25
        self.unit = unit.clamp(min=tiny)
        self.low = torch.zeros_like(unit)
        self.high = torch.full_like(unit, torch.inf)

    def choose(self, wished: Tensor) -> Tensor:
        """The next constants (B,): those wished where they lie between the limits, else the middle of these."""
        middle = torch.where(self.high.isfinite(), (self.low + self.high) / 2, torch.maximum(wished, self.low * GROWTH))
        return torch.where((wished > self.low) & (wished < self.high) & self.high.isfinite(), wished, middle)

    def learn(self, positions: Tensor, constants: Tensor, reached: Tensor) -> None:
        """Narrow the limits of the clips at `positions` by what became of their constants."""
        high, low = self.high[positions], self.low[positions]
        self.high[positions] = torch.where(reached, torch.minimum(high, constants), high)
        self.low[positions] = torch.where(reached, low, torch.maximum(low, constants))


class Penalty(Descent):
    """One search: Adam on size^2 / unit^2 + c max(distance, 0), from a given point.

    In a shared region the squared size is the sum of the modalities' squared shares (norm_m / eps_m)^2. In a separate
    one the size is the largest share, for which a smooth one stands (`Region.size_slopes`). It leaves the shares nearly
    the same, and the trim makes them so.

    The variables are those of `Variable` (tanh). Adam keeps one second moment for a clip's whole perturbation, each
    modality measured by its radius, instead of one for each sample (Adam-mini, arXiv 2406.16793, keeps one for each
    block): steps keep the direction of the gradient, which is the one of steepest descent in l2. A second moment for
    each sample would move thousands that hardly matter as far as those that do. The learning rate is a share of the
    clip's smallest success, so that the unit of the inputs does not matter.

    Args:
        search: what is worked on; each step is scored there.
        x: the start, (b, ...) by modality.
        bracket: of all clips that this and earlier searches started with, in their order.
    """

    def __init__(self, search: SmallestSuccess, x: Inputs, bracket: Bracket) -> None:
        super().__init__(search, x)
        self._bracket = bracket
        self._unit = bracket.unit
        self._variables = {name: Variable(ball) for name, ball in search.region.balls.items()}
        self._w = {name: variable.of(x[name]) for name, variable in self._variables.items()}
        self._x = self._values()
        self._first = {name: torch.zeros_like(w) for name, w in self._w.items()}
        self._second = torch.zeros_like(self._unit)
        self._constants = torch.zeros_like(self._unit)
        self._outside = torch.zeros_like(self._rows)

    def step(self, share: float, learning_rate: float) -> None:
        search, region = self._search, self._search.region
        scored, gradients = self.climb(share)
        gradients = {name: self._variables[name].open(self._w[name], g) for name, g in gradients.items()}
        gain = region.gain(gradients).double().clamp(min=TINY)
        if self._steps == 1:
            size = torch.minimum(scored.size, GROWTH * self._unit)
            self._constants = self._bracket.choose(HEADROOM * 2 * size / (self._unit.square() * gain))
        self._outside = torch.where(scored.reached, 0, self._outside + 1)
        self._constants = self._constants * torch.where(self._outside > PATIENCE, RISE, 1)
        most = DOMINANT * 2 * torch.maximum(scored.size, self._unit) / self._unit.square()
        push = torch.where(scored.reached | (gain <= TINY), 0, torch.minimum(self._constants * gain, most))
        weights = region.size_slopes(self._x)
        downhills: dict[str, Tensor] = {}
        for weight, (name, ball) in zip(weights, region.balls.items(), strict=True):
            moved = self._x[name] - ball.center
            pull = torch.where(ball.radius > 0, 2 * weight / (ball.radius * self._unit).square(), 0)
            downhill = _times(push, _times(1 / gain, gradients[name])) - _times(pull, moved)
            variable, w = self._variables[name], self._w[name]
            downhills[name] = variable.open(w, downhill) * variable.slope(w)
        best = search.size[search.positions]
        reach = torch.where(best.isfinite(), best, torch.maximum(scored.size, self._unit))
        self._move(downhills, reach * cosine(learning_rate, learning_rate * LAST_RATE, share))

    def select(self, kept: Tensor) -> None:
        super().select(kept)
        self._variables = {name: Variable(ball) for name, ball in self._search.region.balls.items()}
        self._x = self._values()  # anew: the last bits of a tanh depend on where a sample lies in memory

    def leave(self, places: Tensor) -> None:
        self._bracket.learn(self._rows[places], self._constants[places], self._reached[places])
        super().leave(places)

    def _move(self, downhills: Inputs, length: Tensor) -> None:
        balls = self._search.region.balls
        square = torch.zeros_like(self._second)
        for name, downhill in downhills.items():
            square += (torch.linalg.vector_norm(downhill.flatten(1), dim=1).double() * balls[name].radius).square()
        self._second = torch.lerp(square, self._second, SECOND_DECAY)
        second = (self._second / (1 - SECOND_DECAY**self._steps)).sqrt()
        scale = torch.where(second > TINY, length / second, 0) / (1 - FIRST_DECAY**self._steps)
        for name, downhill in downhills.items():
            self._first[name] = torch.lerp(downhill, self._first[name], FIRST_DECAY)
            step = _times(scale * balls[name].radius.square(), self._first[name])
            self._w[name] = self._variables[name].moved(self._w[name], step)
        self._x = self._values()

    def _values(self) -> dict[str, Tensor]:
        return {name: variable.value(self._w[name]) for name, variable in self._variables.items()}


def _times(factor: Tensor, x: Tensor) -> Tensor:
    return per_clip(factor.to(x.dtype), x) * x
