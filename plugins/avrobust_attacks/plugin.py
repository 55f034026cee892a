"""The plugin `attacks`: gradient attacks inside norm balls."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_attacks.configs import FgsmConfig, PgdConfig
from avrobust_core import Component, hookimpl

if TYPE_CHECKING:
    from avrobust_core import Attack


def _build_fgsm(config: FgsmConfig) -> "Attack":
    from avrobust_attacks.pgd import PGD

    return PGD(steps=1, step_size=1.0, restarts=1, random_start=config.random_start, loss=config.loss)


def _build_pgd(config: PgdConfig) -> "Attack":
    from avrobust_attacks.pgd import PGD

    return PGD(
        steps=config.steps,
        step_size=2.5 / config.steps if config.step_size is None else config.step_size,
        restarts=config.restarts,
        random_start=config.random_start,
        loss=config.loss,
    )


@hookimpl
def avrobust_attacks() -> "Iterator[Component[Any, Attack]]":
    """FGSM and PGD."""
    yield Component(
        name="fgsm",
        summary="Fast gradient method: one step over the whole radius, linf or l2, all attacked modalities at once.",
        config=FgsmConfig,
        build=_build_fgsm,
        references=("https://arxiv.org/abs/1412.6572",),
        example={},
    )
    yield Component(
        name="pgd",
        summary="Projected gradient: joint steps on all attacked modalities, linf or l2, random starts, restarts.",
        config=PgdConfig,
        build=_build_pgd,
        references=("https://arxiv.org/abs/1706.06083",),
        example={"steps": 10},
    )
