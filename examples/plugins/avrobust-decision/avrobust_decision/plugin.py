"""The components that the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_decision.configs import HopSkipJumpConfig


@hookimpl
def avrobust_attacks() -> Iterator[Component]:
    """Offer `hop-skip-jump`."""
    yield Component(
        name="hop-skip-jump",
        summary="HopSkipJump over all attacked modalities: the smallest change, by labels alone.",
        config=HopSkipJumpConfig,
        build="avrobust_decision.attack:HopSkipJump",
        references=("https://arxiv.org/abs/1904.02144",),
        example={"queries": 2500, "starts": 500, "first_probes": 50, "together": 50},
    )
