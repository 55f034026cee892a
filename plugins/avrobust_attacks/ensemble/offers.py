"""What the ensemble offers; free of torch."""

from typing import TYPE_CHECKING

from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_ensemble(config: EnsembleConfig) -> "Attack":
    """Of the members named, or the standard ones."""
    from avrobust_attacks.ensemble.ensemble import Ensemble
    from avrobust_attacks.losses import LOSSES

    members = [(name, component.make(settings)) for name, component, settings in config.components()]
    return Ensemble(members, LOSSES[config.loss])


OFFERS: tuple[Component, ...] = (
    Component(
        name="ensemble",
        summary="AutoAttack for several modalities: one attack after the other, each on what the earlier ones left.",
        config=EnsembleConfig,
        build=build_ensemble,
        references=("https://arxiv.org/abs/2003.01690",),
        example={"members": ["fgsm", {"use": "pgd", "with": {"steps": 10}}]},
        version=3,
    ),
)
