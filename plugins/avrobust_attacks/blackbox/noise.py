"""Noise that fills the region: the baseline that every search must beat."""

from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.configs import NoiseConfig
from avrobust_attacks.keepers import BestPoint
from avrobust_attacks.losses import LOSSES
from avrobust_attacks.passes import passes_of_search
from avrobust_core import Attack, AttackResult, BoundVictim, Occasion, Passes


class UniformNoise(Attack):
    """Points drawn from the region, each clip's from its own random numbers; the first that reaches the goal is kept.

    The clean clip is scored first: one that the model misclassifies from the outset costs one query and is returned
    clean, as a success. Multi-label: all draws are tried, and the one of highest loss is returned (the clean clip
    among them).

    Args:
        config: says what each of its fields does.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config

    def passes(self, occasion: Occasion) -> Passes:
        """The clean clip, and each draw."""
        return passes_of_search(occasion, 1 + self.config.draws)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class."""
        keeper = BestPoint(victim, LOSSES[self.config.loss])
        keeper.score(victim.clean)
        keeper.settle()
        for draw in range(self.config.draws):
            if not len(keeper.victim):
                break
            keeper.score(self.draw(keeper.victim, draw))
            keeper.settle(later=True)
        return keeper.result()

    def draw(self, victim: BoundVictim, number: int) -> dict[str, Tensor]:
        """One point of the region for each clip, by attacked modality, (B, ...)."""
        return victim.sample(f"noise/{number}")


class GaussianNoise(UniformNoise):
    """As `UniformNoise`, with normal noise that fills each modality's ball and is then projected onto the region.

    For l2 and l1 the noise is scaled to the radius exactly: in many dimensions that is a standard deviation of
    radius / sqrt(n), or radius sqrt(pi / 2) / n. For linf its root mean square is the radius, so that a third of the
    samples is cut to it. n counts the samples that may change. In a shared ball all modalities get the same share.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    def draw(self, victim: BoundVictim, number: int) -> dict[str, Tensor]:
        """One point of the region for each clip, by attacked modality, (B, ...)."""
        filled = {}
        for name, ball in victim.balls.items():
            noise = victim.draws(f"gaussian/{number}/{name}").noise(ball.center.shape[1:], "gaussian")
            filled[name] = ball.filled(noise)
        return victim.region.project(filled)


def noise(config: NoiseConfig) -> UniformNoise:
    """Noise of the kind configured."""
    return (UniformNoise if config.kind == "uniform" else GaussianNoise)(config)
