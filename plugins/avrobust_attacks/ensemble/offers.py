"""What the ensemble offers; free of torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from avrobust_attacks.blackbox import offers as blackbox
from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_attacks.gradient import offers as gradient
from avrobust_attacks.minimal import offers as minimal
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack

STANDARD: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("pgd", MappingProxyType({"steps": 20})),
    ("pgd", MappingProxyType({"steps": 20, "loss": "targeted"})),
    ("apgd", MappingProxyType({"steps": 100, "loss": "ce"})),
    ("apgd", MappingProxyType({"steps": 100, "loss": "dlr"})),
    ("apgd", MappingProxyType({"steps": 100, "loss": "targeted"})),
    ("fmn", MappingProxyType({})),
    ("square", MappingProxyType({})),
)
"""The members where none are named: AutoAttack's (Croce and Hein 2020) with FMN for FAB, after two cheap ones
that leave little to do."""


def build_ensemble(config: EnsembleConfig) -> "Attack":
    """The members named, found in the registry; or the standard ones, of this plugin."""
    from avrobust_attacks.ensemble.ensemble import Ensemble
    from avrobust_attacks.losses import LOSSES
    from avrobust_core import Registry

    if config.members is None:
        own = {offer.name: offer for offers in (gradient, minimal, blackbox) for offer in offers.OFFERS}
        members = [(name, own[name].build(own[name].config(**settings))) for name, settings in STANDARD]
    else:
        registry = Registry.discover()
        members = []
        for member in config.members:
            offer, configured = registry.configure("attack", member.use, member.settings)
            members.append((member.use, offer.component.build(configured)))
    return Ensemble(members, LOSSES[config.loss])


OFFERS: tuple[Component[Any, "Attack"], ...] = (
    Component(
        name="ensemble",
        summary="AutoAttack for several modalities: one attack after the other, each on what the earlier ones left.",
        config=EnsembleConfig,
        build=build_ensemble,
        references=("https://arxiv.org/abs/2003.01690",),
        example={"members": ["fgsm", {"use": "pgd", "with": {"steps": 10}}]},
    ),
)
