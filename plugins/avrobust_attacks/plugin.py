"""The plugin `attacks`: the attack suite, each group's components from its own `offers`."""

from collections.abc import Iterator

from avrobust_attacks.blackbox import offers as blackbox
from avrobust_attacks.ensemble import offers as ensemble
from avrobust_attacks.gradient import offers as gradient
from avrobust_attacks.minimal import offers as minimal
from avrobust_attacks.universal import offers as universal
from avrobust_core import Component, hookimpl


@hookimpl
def avrobust_attacks() -> Iterator[Component]:
    """The attack suite."""
    yield from gradient.OFFERS
    yield from minimal.OFFERS
    yield from blackbox.OFFERS
    yield from universal.OFFERS
    yield from ensemble.OFFERS
