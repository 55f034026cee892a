"""What the universal attack offers; free of torch."""

from typing import TYPE_CHECKING

from avrobust_attacks.universal.configs import UniversalConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_universal(config: UniversalConfig) -> "Attack":
    """As configured; it must be prepared."""
    from avrobust_attacks.universal.universal import Universal
    from avrobust_core import Preparation

    return Universal(
        Preparation(config.split, config.batch_size),
        epochs=config.epochs,
        step_size=config.step_size,
        loss=config.loss,
        projected=config.projected,
    )


OFFERS: tuple[Component, ...] = (
    Component(
        name="universal",
        summary="One perturbation of each modality for a whole set of clips, projected after every step.",
        config=UniversalConfig,
        build=build_universal,
        references=("https://arxiv.org/abs/1610.08401", "https://arxiv.org/abs/2203.12122"),
        example={"epochs": 10},
        version=2,
    ),
)
