"""Attacks of a single step from a random start, for fast adversarial training."""

from typing import ClassVar

from avrobust_adversarial.ascent import ascend, drawn, gradients, label_loss, unknown
from avrobust_adversarial.configs import FastAtConfig
from avrobust_adversarial.replacing import LearnFromAttacked
from avrobust_adversarial.threats import Threats
from avrobust_core import Attack, AttackResult, BoundVictim


class RandomStep(Attack):
    """One step from a point drawn from the region, projected back onto it (RS-FGSM, Wong et al. 2020, 2001.03994).

    Long training at large radii may end in catastrophic overfitting: robust to this step, and to no other attack.

    Args:
        step_size: length of the step as a share of each modality's radius.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, step_size: float) -> None:
        self.step_size = step_size

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`, for one forward and one backward pass; see the class.

        Raises:
            AvrobustError: if no gradient reaches the attacked modalities.
        """
        x = ascend(victim, label_loss(victim.goal), drawn(victim), steps=1, step_size=self.step_size)
        return AttackResult(x, unknown(victim))


class NoisyStep(Attack):
    """One step from a point of a larger region, without a way back (N-FGSM, de Jorge et al. 2022, 2202.01181).

    A clip ends up to `noise` plus `step_size` radii away, within its bounds: the noise counts as augmentation, around
    which the step is taken. Against catastrophic overfitting this works at radii where a step that is projected back
    does not. Unlike the paper's, the start is within the bounds, too.

    Args:
        step_size: length of the step as a share of each modality's radius.
        noise: size of the region that starts are drawn from, as a multiple of the threat's.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})
    bounded = False

    def __init__(self, step_size: float, *, noise: float) -> None:
        self.step_size = step_size
        self.noise = noise

    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`, for one forward and one backward pass; see the class.

        Raises:
            AvrobustError: if no gradient reaches the attacked modalities.
        """
        start = drawn(victim.scaled(self.noise))
        moved = victim.region.step(start, gradients(victim, label_loss(victim.goal), start), self.step_size)
        # This region holds any such step, so that of its limits only bounds and freedom of time cut.
        outer = victim.scaled(self.noise + self.step_size).region
        return AttackResult(outer.project(moved), unknown(victim))


def make_fast_at(config: FastAtConfig) -> LearnFromAttacked:
    """Make the augmentation `fast-at`: against a single step."""
    attack: Attack = RandomStep(config.step_size or 1.25)
    if config.variant == "n":
        attack = NoisyStep(config.step_size or 1.0, noise=config.noise or 2.0)
    threats = Threats(config.all_threats, purpose="fast-at", warmup=config.warmup, share=config.share)
    return LearnFromAttacked(attack, threats, mode=config.mode)
