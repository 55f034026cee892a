"""The plugin `video`: encoders of clips of pictures."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_video.configs import SlowFastConfig, SlowFastTinyConfig

if TYPE_CHECKING:
    from avrobust_core import Encoder, MediaSpec

SLOWFAST = "https://arxiv.org/abs/1812.03982"


def _build_slowfast(config: SlowFastConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.layouts import LAYOUTS
    from avrobust_video.slowfast import SlowFast, check_media

    layout = LAYOUTS[config.size]
    check_media(media, layout, config.alpha)
    return SlowFast(layout, alpha=config.alpha, dropout=config.dropout)


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """The SlowFast family."""
    yield Component(
        name="slowfast",
        summary="SlowFast network: a slow and a fast pathway with lateral connections; R50, small or tiny.",
        config=SlowFastConfig,
        build=_build_slowfast,
        references=(SLOWFAST,),
        example={"size": "small"},
    )
    yield Component(
        name="slowfast-tiny",
        summary="SlowFast network for small pictures: 8 frames of 32x32 take milliseconds on a CPU.",
        config=SlowFastTinyConfig,
        build=_build_slowfast,
        references=(SLOWFAST,),
        example={},
    )
