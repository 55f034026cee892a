"""Carlini and Wagner's attack: the smallest perturbation by a penalty, a search over its constant, and Adam."""

from typing import ClassVar

import torch

from avrobust_attacks.minimal.attack import MinimalAttack
from avrobust_attacks.minimal.boundary import Boundary
from avrobust_attacks.minimal.configs import CwConfig, FmnConfig
from avrobust_attacks.minimal.descent import Descent
from avrobust_attacks.minimal.penalty import Bracket, Penalty
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_attacks.minimal.shrinking import Shrinking
from avrobust_attacks.minimal.stepped import FMN

LEAST_PROGRESS = 1e-3
"""A smaller success counts as progress if it is smaller by this share."""

STEPS_BETWEEN_WAITS = 5
"""Steps after which clips that are done leave the search: to ask waits for the device."""


class CW(MinimalAttack[CwConfig]):
    """The attack of Carlini and Wagner (2017, arXiv 1608.04644), l2 and linf: which one, the threat's norms decide.

    Where it begins decides where it ends, and Adam, whose steps suit a constant, does not leave the nearest boundary
    of the linearised model for a better one: on logits that saturate it ended ten times too far. So it begins at the
    smallest success of an `fmn` of `lead` steps, whose two searches do (`SteppedSizes`), and is what brings it closer.

    l2, on any region of l2 balls: minimises size^2 + c max(distance, 0) by Adam, for a constant c of each clip's own,
    with the paper's tanh made safe at the bounds; see `Penalty` and `Variable`. Every search tries another constant,
    bracketed by those that were too small and those that were large enough, and begins at the clip's smallest success
    so far. The first constant is the one that the model, linearised at the start, asks for, so that few are
    needed where the paper tries nine.

    linf, and regions of both norms: minimises the distance to the goal with no sample further than tau from the clean
    clip, and tau shrinks; see `Shrinking`. Every search begins at the smallest success so far.

    Both take the distance to the goal with a smooth maximum over classes that sharpens as the search goes on
    (`softened`), and end with the trim of the smallest success. The perturbation's size is that of the region: the
    largest of the modalities' shares of their radii, or in a shared region the root of the sum of their squares.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})

    def looked(self) -> tuple[int, int, int]:
        config = self.config
        points, others, gradients = FMN(FmnConfig(steps=config.lead)).looked() if config.lead else (0, 0, 0)
        return points + config.searches * (config.steps + 1), others, gradients + config.searches * config.steps

    def look(self, search: SmallestSuccess, boundary: Boundary) -> None:
        config = self.config
        everyone = search.positions
        region = search.region
        size = boundary.size.clamp(max=1)
        x = region.within(region.step(region.clean, boundary.gradients, size), size)
        if config.lead:
            FMN(FmnConfig(steps=config.lead)).look(search, boundary)
            x = search.best_or(everyone, x)
        bracket = Bracket(size)
        for number in range(config.searches):
            descent = Penalty(search, x, bracket) if region.smooth else Shrinking(search, x, size)
            self._descend(search, descent, number)
            x = descent.end(everyone)
            search.work_on(everyone)

    def _descend(self, search: SmallestSuccess, descent: Descent, number: int) -> None:
        config = self.config
        best = search.size[search.positions]
        idle = torch.zeros_like(search.positions)
        for step in range(config.steps):
            done = config.lead + number * config.steps + step
            share = done / (config.lead + config.searches * config.steps)
            descent.step(share, config.learning_rate)
            now = search.size[search.positions]
            idle = torch.where(now < best * (1 - LEAST_PROGRESS), 0, idle + 1)
            best = torch.minimum(best, now)
            if (step + 1) % STEPS_BETWEEN_WAITS == 0:
                kept = search.keep((idle < config.patience) | ~best.isfinite())
                if kept is not None:
                    descent.select(kept)
                    best, idle = best[kept], idle[kept]
                if not len(search.victim):
                    return
