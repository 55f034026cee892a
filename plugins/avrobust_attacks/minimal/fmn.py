"""FMN: the fast minimum-norm attack, in linf, l2, l1 and l0."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.attack import SteppedSizes
from avrobust_attacks.minimal.configs import FmnConfig
from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.steps import Momentum, cosine, leaves_of, per_clip
from avrobust_core import Region

LAST_STEP = 0.01
"""The last step's length as a share of the first one's, as in the paper."""

LAST_GAMMA = 0.02
"""The last change of the size as a share of the first one, as in the paper (0.001 of 0.05)."""


VERTICES = frozenset({"l1", "l0"})
"""The norms whose balls have vertices along the axes."""


class FMN(SteppedSizes[FmnConfig]):
    """Fast minimum-norm attack (Pintor et al., NeurIPS 2021, arXiv 2102.12827), on any region.

    Each step takes one joint gradient and sets the clip's size: `gamma` less than the smallest success of the search
    where the goal is reached, and `gamma` more than now where it is not. The perturbation moves by a step of steepest
    ascent and is projected into the region of that size.

    What differs from the paper: there are two searches (`SteppedSizes`), which begin at a first-order estimate instead
    of growing to one; lengths are shares of the clip's present size, steps suit the budget's own norm (`moved`),
    gradients are those of the distance with a smooth maximum over classes, which sharpens as the search goes on
    (`softened`), and have momentum; the size never exceeds 1, the region itself, and the smallest success is trimmed
    at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def descend(
        self,
        search: Search,
        first: Mapping[str, Tensor],
        size: Tensor,
        steps: int,
        momentum: float,
        *,
        growth: float,
    ) -> None:
        region = search.region
        quantum = counting_quantum(region)
        size = size.maximum(quantum).clamp(max=1)
        x = moved(region, region.clean, first, size, 1.0)
        mean = Momentum(momentum)
        best = torch.full_like(size, torch.inf)
        for step in range(steps):
            share = step / steps
            leaves = leaves_of(x)
            with torch.enable_grad():
                scored = search.score(leaves, share)
            best = torch.where(scored.reached, torch.minimum(best, scored.size), best)
            gradients = search.downhill(scored.loss, leaves)
            gain = region.gain(gradients)
            gamma = cosine(self.config.gamma, self.config.gamma * LAST_GAMMA, share)
            lower = torch.minimum(size, best) * (1 - gamma)  # between two counts of l0 it means the lower one
            larger = size * torch.where(best.isfinite(), 1 + gamma, max(growth, 1 + gamma))
            size = torch.where(scored.reached, lower, larger.maximum(size + quantum)).maximum(quantum).clamp(max=1)
            length = cosine(self.config.step_size, self.config.step_size * LAST_STEP, share)
            x = moved(region, leaves, mean.of(gradients, gain), size, length)
        search.score(x, 1.0)


def moved(
    region: Region, x: Mapping[str, Tensor], direction: Mapping[str, Tensor], size: Tensor, length: float
) -> dict[str, Tensor]:
    """`x` (b, ...) after a step of `length` towards what a linear function likes best, set back into the size (b,).

    linf and l2: a step of steepest ascent from `x`. l1 and l0: towards the vertex of the ball (l1: a share of the way,
    as Frank and Wolfe do; l0: all the way), which moves the samples that gain the most as far as they may. From `x`,
    the projection would keep those that have the longest way to go, whatever they gain.
    """
    nearer = region.within(region.step(x, direction, size * length), size)
    for name, ball in region.balls.items():
        if ball.norm not in VERTICES:
            continue
        reach = ball.radius * size
        if ball.norm == "l0":  # a step is rounded up to whole samples, a size down
            reach = (reach * (1 + 1e-9)).floor()
        share = torch.where(ball.radius > 0, reach / ball.radius, 0)
        vertex = ball.step(ball.center, direction[name], per_clip(share.to(ball.center.dtype), ball.center))
        between = vertex if ball.norm == "l0" else torch.lerp(x[name], vertex, min(length, 1.0))
        nearer[name] = ball.within(between, reach)
    return nearer


def counting_quantum(region: Region) -> Tensor:
    """The smallest change of the size that means anything, (b,): one sample or frame if all balls count, else 0."""
    balls = list(region.balls.values())
    radius = torch.stack([ball.radius for ball in balls]).amax(dim=0)
    if any(ball.norm != "l0" for ball in balls):
        return torch.zeros_like(radius)
    return 1 / radius.clamp(min=1)
