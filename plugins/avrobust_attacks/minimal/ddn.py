"""DDN: direction and norm decoupled, in l2."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.attack import SteppedSizes
from avrobust_attacks.minimal.configs import DdnConfig
from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.steps import Momentum, cosine, leaves_of, onto

LAST_STEP = 0.01
"""The last step's length as a share of the first one's, as in the paper."""

LAST_GAMMA = 0.02
"""The last change of the size as a share of the first one."""


class DDN(SteppedSizes[DdnConfig]):
    """Decoupled direction and norm (Rony et al., CVPR 2019, arXiv 1811.09600), on any region of l2 balls.

    Each step moves all modalities along one joint gradient, then sets the perturbation's size: it shrinks by `gamma`
    where the goal is reached and grows by as much where it is not. Lengths are shares of the clip's present size, so
    that nothing depends on the unit of the inputs; the size never exceeds 1, the region itself.

    What differs from the paper: the distance to the goal with a smooth maximum over classes, which sharpens as the
    search goes on (`softened`), is lowered instead of the cross-entropy raised; there are two searches
    (`SteppedSizes`), in which a point is moved out to the new size only once the goal was reached; `gamma` falls with
    the step length; and the smallest success is trimmed at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

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
        size = size.clamp(max=1)
        x = region.within(region.step(region.clean, first, size), size)
        mean = Momentum(momentum)
        found = torch.zeros_like(size, dtype=torch.bool)
        for step in range(steps):
            share = step / steps
            leaves = leaves_of(x)
            with torch.enable_grad():
                scored = search.score(leaves, share)
            gradients = search.downhill(scored.loss, leaves)
            direction = mean.of(gradients, region.gain(gradients))
            gamma = cosine(self.config.gamma, self.config.gamma * LAST_GAMMA, share)
            found |= scored.reached
            larger = torch.where(found, 1 + gamma, max(growth, 1 + gamma))
            size = (size * torch.where(scored.reached, 1 - gamma, larger)).clamp(max=1)
            length = size * cosine(self.config.step_size, self.config.step_size * LAST_STEP, share)
            x = onto(region, region.step(leaves, direction, length), size, lengthened=found)
        search.score(x, 1.0)
