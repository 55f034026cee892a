"""The component that the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_purification.configs import PurifiedConfig


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """Offer `purified`."""
    yield Component(
        name="purified",
        summary="Any encoder behind requantisation, a codec or a random room; attacked through it (BPDA, EoT).",
        config=PurifiedConfig,
        build="avrobust_purification.encoder:purified",
        references=("https://arxiv.org/abs/1802.00420", "https://arxiv.org/abs/1711.00117"),
        example={"encoder": "cnn", "steps": ["mu-law:8"]},
    )
