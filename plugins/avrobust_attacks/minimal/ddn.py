"""DDN: direction and norm decoupled, in l2."""

from typing import ClassVar

import torch

from avrobust_attacks.minimal.search import Momentum, Search, cosine, leaves_of, nearest_boundary, onto
from avrobust_core import Attack, AttackResult, BoundVictim

LAST_STEP = 0.01
"""The last step's length as a share of the first one's, as in the paper."""

LAST_GAMMA = 0.02
"""The last change of the size as a share of the first one."""


class DDN(Attack):
    """Decoupled direction and norm (Rony et al., CVPR 2019, arXiv 1811.09600), on any region of l2 balls.

    Each step moves all modalities along one joint gradient, then sets the perturbation's size: it shrinks by `gamma`
    where the goal is reached and grows by as much where it is not. Lengths are shares of the clip's present size, so
    that nothing depends on the unit of the inputs; the size never exceeds 1, the region itself.

    What differs from the paper: the distance to the goal with a smooth maximum over classes, which sharpens as the
    search goes on (`softened`), is lowered instead of the cross-entropy raised; gradients have momentum; the search
    begins at the nearest boundary of the linearised model (`nearest_boundary`), `start` times as far; `gamma` falls
    with the step length; and the smallest success is trimmed at the end. A warm start is not used.

    Args:
        steps: gradients after the first-order start.
        step_size: length of the first step as a share of the present size; it falls along a cosine.
        gamma: share by which the size changes at the first step; it falls along a cosine.
        start: the first size, over that at which the nearest boundary is expected.
        momentum: share of the running mean of gradients that each step keeps.
        classes: other classes whose boundaries the start compares, each at the cost of one backward pass.
        trim: forward passes of the bisection at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    minimal = True

    def __init__(
        self, *, steps: int, step_size: float, gamma: float, start: float, momentum: float, classes: int, trim: int
    ) -> None:
        self.steps = steps
        self.step_size = step_size
        self.gamma = gamma
        self.start = start
        self.momentum = momentum
        self.classes = classes
        self.trim = trim

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        search = Search(victim)
        if len(search.victim):
            self._search(search)
            search.trim(self.trim)
        return search.result()

    def _search(self, search: Search) -> None:
        region = search.region
        estimate = nearest_boundary(search, self.classes)
        size = (self.start * estimate.size).clamp(max=1)
        x = region.within(region.step(region.clean, estimate.gradients, size), size)
        momentum = Momentum(self.momentum)
        for step in range(self.steps):
            share = step / self.steps
            leaves = leaves_of(x)
            with torch.enable_grad():
                scored = search.score(leaves, share)
            gradients = search.downhill(scored.loss, leaves)
            direction = momentum.of(gradients, region.gain(gradients))
            gamma = cosine(self.gamma, self.gamma * LAST_GAMMA, share)
            size = (size * torch.where(scored.reached, 1 - gamma, 1 + gamma)).clamp(max=1)
            length = size * cosine(self.step_size, self.step_size * LAST_STEP, share)
            x = onto(region, region.step(leaves, direction, length), size)
        search.score(x, 1.0)
