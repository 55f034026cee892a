"""The component that the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_corruptions.configs import CorruptionConfig


@hookimpl
def avrobust_attacks() -> Iterator[Component]:
    """Offer `corruption`."""
    yield Component(
        name="corruption",
        summary="Sound and picture corrupted at once, as by rain or a crowd; takes no notice of eps.",
        config=CorruptionConfig,
        build="avrobust_corruptions.attack:Corruption",
        references=("https://arxiv.org/abs/2506.00358", "https://arxiv.org/abs/1903.12261"),
        example={"kind": "impulse", "severity": 5},
    )
