"""Every bundled component passes the conformance kit: attacks and augmentations next door, other kinds here."""

import pytest

from avrobust_core import Registry
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.testing import check_component
from avrobust_core.testing.component_checks import media_of

OFFERS = [offer for offer in Registry.discover().entries() if offer.distribution == "avrobust"]
NEXT_DOOR = {"attack", "augmentation"}
MEDIA = media_of(tuple(offer for offer in OFFERS if offer.kind == "dataset"))


def test_every_kind_is_checked_here_or_next_door() -> None:
    assert {offer.kind for offer in OFFERS} == {*KINDS}
    assert set(KINDS) > NEXT_DOOR


@pytest.mark.slow
@pytest.mark.parametrize(
    "offer",
    [offer for offer in OFFERS if offer.kind not in NEXT_DOOR],
    ids=lambda offer: f"{offer.kind}-{offer.component.name}",
)
def test_a_bundled_component_conforms(offer: RegistryEntry) -> None:
    outcomes = list(check_component(offer, MEDIA))
    assert {outcome.check: outcome.reason for outcome in outcomes if outcome.status == "failed"} == {}
    assert {"described_fields", "example", "build"} <= {outcome.check for outcome in outcomes}
