"""What the gradient attacks offer; free of torch."""

from typing import TYPE_CHECKING, Any

from avrobust_attacks.gradient.configs import FgsmConfig, PgdConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_fgsm(config: FgsmConfig) -> "Attack":
    """One step over the whole radius."""
    from avrobust_attacks.gradient.pgd import PGD

    return PGD(steps=1, step_size=1.0, restarts=1, random_start=config.random_start, loss=config.loss)


def build_pgd(config: PgdConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.gradient.pgd import PGD

    return PGD(
        steps=config.steps,
        step_size=2.5 / config.steps if config.step_size is None else config.step_size,
        restarts=config.restarts,
        random_start=config.random_start,
        loss=config.loss,
    )


OFFERS: tuple[Component[Any, "Attack"], ...] = (
    Component(
        name="fgsm",
        summary="Fast gradient method: one step over the whole radius, all attacked modalities at once.",
        config=FgsmConfig,
        build=build_fgsm,
        references=("https://arxiv.org/abs/1412.6572",),
        example={},
    ),
    Component(
        name="pgd",
        summary="Projected gradient: joint steps on all attacked modalities, random starts, restarts.",
        config=PgdConfig,
        build=build_pgd,
        references=("https://arxiv.org/abs/1706.06083",),
        example={"steps": 10},
        version=2,
    ),
)
