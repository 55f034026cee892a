"""What the gradient attacks offer; free of torch."""

from functools import partial
from typing import TYPE_CHECKING

from avrobust_attacks.gradient.configs import ApgdConfig, FgsmConfig, MimConfig, PgdConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_fgsm(config: FgsmConfig) -> "Attack":
    """One step to the point of the region that the linearised loss likes best."""
    from avrobust_attacks.gradient.attack import GradientAttack
    from avrobust_attacks.gradient.pgd import PlainSteps

    stepper = partial(PlainSteps, [], leaps=True)
    return GradientAttack(stepper, steps=1, random_start=config.random_start, clean_first=False, loss=config.loss)


def build_pgd(config: PgdConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.gradient.attack import GradientAttack
    from avrobust_attacks.gradient.pgd import PlainSteps, falling_lengths

    steps = config.steps
    stepper = partial(PlainSteps, falling_lengths(steps - 1), leaps=True)
    if config.step_size is not None:
        stepper = partial(PlainSteps, [config.step_size] * steps)
    return GradientAttack(
        stepper,
        steps=steps,
        restarts=config.restarts,
        random_start=config.random_start,
        loss=config.loss,
        targets=config.targets,
    )


def build_mim(config: MimConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.gradient.attack import GradientAttack
    from avrobust_attacks.gradient.mim import DEFAULT_REACH, MomentumSteps

    length = DEFAULT_REACH / config.steps if config.step_size is None else config.step_size
    stepper = partial(MomentumSteps, config.decay, length)
    return GradientAttack(stepper, steps=config.steps, random_start=False, loss=config.loss)


def build_apgd(config: ApgdConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.gradient.apgd import AutoSteps
    from avrobust_attacks.gradient.attack import GradientAttack

    return GradientAttack(
        partial(AutoSteps, config.steps),
        steps=config.steps,
        restarts=config.restarts,
        random_start=config.random_start,
        loss=config.loss,
        targets=config.targets,
    )


OFFERS: tuple[Component, ...] = (
    Component(
        name="fgsm",
        summary="Fast gradient method: one step over the whole radius, all attacked modalities at once.",
        config=FgsmConfig,
        build=build_fgsm,
        references=("https://arxiv.org/abs/1412.6572",),
        example={},
        version=3,
    ),
    Component(
        name="pgd",
        summary="Projected gradient: joint steps on all attacked modalities, restarts from random points.",
        config=PgdConfig,
        build=build_pgd,
        references=("https://arxiv.org/abs/1706.06083",),
        example={"steps": 10},
        version=4,
    ),
    Component(
        name="mim",
        summary="Momentum iterative method: joint steps along a running sum of normalised gradients.",
        config=MimConfig,
        build=build_mim,
        references=("https://arxiv.org/abs/1710.06081",),
        example={"steps": 10},
        version=3,
    ),
    Component(
        name="apgd",
        summary="Auto-PGD: momentum, and a step size per clip that is halved where it no longer pays.",
        config=ApgdConfig,
        build=build_apgd,
        references=("https://arxiv.org/abs/2003.01690",),
        example={"steps": 20, "loss": "dlr"},
        version=3,
    ),
)
