"""The ensemble's configuration; free of torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from avrobust_attacks.gradient.configs import LossName
from avrobust_attacks.single import SINGLE_ATTACKS
from avrobust_core import AttackChoice, Component, Config

STANDARD: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("pgd", MappingProxyType({"steps": 20})),
    ("pgd", MappingProxyType({"steps": 20, "loss": "targeted"})),
    ("apgd", MappingProxyType({"steps": 100})),
    ("apgd", MappingProxyType({"steps": 100, "loss": "dlr"})),
    ("apgd", MappingProxyType({"steps": 100, "loss": "targeted"})),
    ("fmn", MappingProxyType({})),
    ("square", MappingProxyType({})),
)
"""The members where none are named: AutoAttack's (Croce and Hein 2020) with FMN for FAB, after two cheap ones
that leave little to do."""


class EnsembleConfig(Config):
    """Configuration of `ensemble`."""

    members: tuple[AttackChoice, ...] | None = Field(default=None, min_length=1)
    """Attacks in their order, cheap ones first; null for pgd (reach, targeted), apgd (reach, dlr, targeted),
    fmn and square."""
    loss: LossName = "ce"
    """With several labels per clip: the loss by which the strongest of the members' results is chosen, among those that
    reach the goal if any does."""

    def components(self) -> list[tuple[str, Component, Config]]:
        """Each member's name, its component and its configuration: named ones are looked up where the ensemble was.

        Raises:
            ComponentError: if a member is not installed, or its configuration does not fit.
        """
        if self.members is None:
            own = {attack.name: attack for attack in SINGLE_ATTACKS}
            return [(name, own[name], own[name].config(**settings)) for name, settings in STANDARD]
        members = [(member.use, member.configured()) for member in self.members]
        return [(name, found.entry.component, found.config) for name, found in members]

    def identity(self) -> dict[str, Any]:
        """With the members' own versions, the standard ones' too: when results of one change, the ensemble's do."""
        if self.members is not None:
            return super().identity()
        members = [
            {"component": name, "version": component.version, "config": settings.identity()}
            for name, component, settings in self.components()
        ]
        return super().identity() | {"members": members}
