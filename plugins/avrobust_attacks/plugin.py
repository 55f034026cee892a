"""The plugin `attacks`: the attack suite."""

from collections.abc import Iterator

from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_attacks.single import SINGLE_ATTACKS
from avrobust_core import Component, hookimpl


@hookimpl
def avrobust_attacks() -> Iterator[Component]:
    """The attack suite."""
    yield from SINGLE_ATTACKS
    yield Component(
        name="ensemble",
        summary="AutoAttack for several modalities: one attack after the other, each on what the earlier ones left.",
        config=EnsembleConfig,
        build="avrobust_attacks.ensemble.ensemble:ensemble",
        references=("https://arxiv.org/abs/2003.01690",),
        example={"members": ["fgsm", {"use": "pgd", "with": {"steps": 10}}]},
        version=3,
    )
