"""Noise that fills the region: the baseline that every search must beat."""

from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.tracker import Tracker, like
from avrobust_attacks.losses import LOSSES
from avrobust_core import Attack, AttackResult, Ball, BoundVictim


class UniformNoise(Attack):
    """Points drawn from the region, each clip's from its own generators; the first that reaches the goal is kept.

    The clean clip is scored first: one that the model misclassifies from the outset costs one query and is returned
    clean, as a success. Multi-label: all draws are tried, and the one of highest loss is returned (the clean clip
    among them).

    Args:
        draws: for each clip.
        loss: a name in `LOSSES`.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, *, draws: int, loss: str) -> None:
        self.draws = draws
        self.loss = LOSSES[loss]

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class."""
        tracker = Tracker(victim, self.loss)
        tracker.offer(victim.clean)
        tracker.settle()
        for draw in range(self.draws):
            if not len(tracker.victim):
                break
            tracker.offer(self.draw(tracker.victim, draw))
            tracker.settle()
        return tracker.result()

    def draw(self, victim: BoundVictim, number: int) -> dict[str, Tensor]:
        """One point of the region for each clip, by attacked modality, (B, ...)."""
        return victim.region.sample(lambda name: victim.generators(f"noise/{number}/{name}"))


class GaussianNoise(UniformNoise):
    """As `UniformNoise`, with normal noise that fills each modality's ball and is then projected onto the region.

    For l2 and l1 the noise is scaled to the radius exactly: in many dimensions that is a standard deviation of
    radius / sqrt(n), or radius sqrt(pi / 2) / n. For linf its root mean square is the radius, so that a third of the
    samples is cut to it. n counts the samples that may change. In a shared ball all modalities get the same share.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    def draw(self, victim: BoundVictim, number: int) -> dict[str, Tensor]:
        """One point of the region for each clip, by attacked modality, (B, ...)."""
        return victim.region.project(
            {
                name: ball.center + _filling(ball, victim.generators(f"gaussian/{number}/{name}"))
                for name, ball in victim.balls.items()
            }
        )


def _filling(ball: Ball, generators: list[torch.Generator]) -> Tensor:
    """Normal noise, confined to the freedom of time, of the size that fills the ball: (B, ...)."""
    noise = torch.stack([torch.randn(ball.center.shape[1:], generator=g) for g in generators]).to(ball.center.device)
    if ball.freedom is not None:
        noise = ball.freedom.confine(noise)
    flat = noise.flatten(1)
    if ball.norm == "l1":
        size = flat.abs().sum(dim=1)
    else:
        size = torch.linalg.vector_norm(flat, dim=1)
        if ball.norm == "linf":
            size = size / (flat != 0).sum(dim=1).clamp(min=1).sqrt()
    return noise / like(size.clamp(min=torch.finfo(noise.dtype).tiny), noise) * ball.step_radius
