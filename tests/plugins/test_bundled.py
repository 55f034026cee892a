"""What the bundled plugins offer can be imported by its name, and fits its kind."""

import pytest

from avrobust_core import Registry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.loading import fitting_builder
from avrobust_core.registry.registry import RegistryEntry

OFFERS = [offer for offer in Registry.discover().entries() if offer.distribution == "avrobust"]


@pytest.mark.parametrize("offer", OFFERS, ids=[f"{offer.kind}-{offer.component.name}" for offer in OFFERS])
def test_each_is_built_from_the_name_of_a_class_or_function_that_fits_its_kind(offer: RegistryEntry) -> None:
    assert isinstance(offer.component.build, str)
    assert callable(fitting_builder(offer))


def test_every_kind_is_bundled() -> None:
    assert {offer.kind for offer in OFFERS} == {*KINDS}
