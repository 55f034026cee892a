"""The plugin `attacks`: the attack suite."""

from collections.abc import Iterator

from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_attacks.rounded.configs import RoundedConfig
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
    yield Component(
        name="rounded",
        summary="Any attack, among the points that a file keeps: 16-bit sound and 8-bit pictures that still succeed.",
        config=RoundedConfig,
        build="avrobust_attacks.rounded.rounded:rounded",
        references=("https://arxiv.org/abs/1802.00420",),
        example={"attack": {"use": "pgd", "with": {"steps": 10}}},
    )
