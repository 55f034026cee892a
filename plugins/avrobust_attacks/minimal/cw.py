"""Carlini and Wagner's attack: the smallest perturbation by a penalty, a search over its constant, and Adam."""

from typing import ClassVar

import torch

from avrobust_attacks.minimal.attack import MinimalAttack
from avrobust_attacks.minimal.penalty import Bracket, Penalty
from avrobust_attacks.minimal.search import Estimate, Search
from avrobust_attacks.minimal.shrinking import Shrinking

LEAST_PROGRESS = 1e-3
"""A smaller success counts as progress if it is smaller by this share."""

STEPS_BETWEEN_WAITS = 5
"""How often clips that are done leave the search: to ask waits for the device."""


class CW(MinimalAttack):
    """The attack of Carlini and Wagner (2017, arXiv 1608.04644), l2 and linf: which one, the threat's norms decide.

    l2, on any region of l2 balls: minimises size^2 + c max(distance, 0) by Adam, for a constant c of each clip's own,
    with the paper's tanh made safe at the bounds; see `Penalty` and `Variable`. Every search tries another constant,
    bracketed by those that were too small and those that were large enough, and begins at the clip's smallest success
    so far. The first constant is the one that the model, linearised at the start, asks for: so two searches do what
    the paper needs nine for.

    linf, and regions of both norms: minimises the distance to the goal with no sample further than tau from the clean
    clip, and tau shrinks; see `Shrinking`. Every search begins at the smallest success so far.

    Both start at the nearest boundary of the linearised model (`nearest_boundary`), take the distance to the goal with
    a smooth maximum over classes that sharpens as the search goes on (`softened`), and end with the trim of the
    smallest success. The perturbation's size is that of the region: the largest of the modalities' shares of their
    radii, or in a shared region the root of the sum of their squares.

    Args:
        searches: constants tried.
        steps: gradients of each search, at most.
        learning_rate: the first step, as a share of the clip's present size; it falls over all searches.
        patience: steps without a smaller success after which a clip that has one leaves the search it is in.
        classes: other classes whose boundaries the start compares, each at the cost of one backward pass.
        trim: forward passes of the bisection at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})

    def __init__(
        self, *, searches: int, steps: int, learning_rate: float, patience: int, classes: int, trim: int
    ) -> None:
        super().__init__(classes=classes, trim=trim)
        self.searches = searches
        self.steps = steps
        self.learning_rate = learning_rate
        self.patience = patience

    def look(self, search: Search, estimate: Estimate) -> None:
        everyone = search.positions
        region = search.region
        size = estimate.size.clamp(max=1)
        x = region.within(region.step(region.clean, estimate.gradients, size), size)
        euclidean = all(ball.norm == "l2" for ball in region.balls.values())
        bracket = Bracket(size)
        for number in range(self.searches):
            descent = Penalty(search, x, bracket) if euclidean else Shrinking(search, x, size)
            self._descend(search, descent, number)
            x = descent.end(everyone)
            search.work_on(everyone)

    def _descend(self, search: Search, descent: Penalty | Shrinking, number: int) -> None:
        best = search.size[search.positions]
        idle = torch.zeros_like(search.positions)
        for step in range(self.steps):
            share = (number * self.steps + step) / (self.searches * self.steps)
            descent.step(share, self.learning_rate)
            now = search.size[search.positions]
            idle = torch.where(now < best * (1 - LEAST_PROGRESS), 0, idle + 1)
            best = torch.minimum(best, now)
            if (step + 1) % STEPS_BETWEEN_WAITS == 0:
                kept = search.keep((idle < self.patience) | ~best.isfinite())
                if kept is not None:
                    descent.select(kept)
                    best, idle = best[kept], idle[kept]
                if not len(search.victim):
                    return
