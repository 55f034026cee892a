"""The plugin `video`: encoders of clips of pictures, and of features of frames."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from avrobust_core import Component, hookimpl
from avrobust_video.configs import (
    FrameTransformerConfig,
    SlowFastConfig,
    SlowFastTinyConfig,
    TimmFramesConfig,
    VideoPatchesConfig,
    X3dConfig,
)

if TYPE_CHECKING:
    from avrobust_core import Encoder, MediaSpec

SLOWFAST: Final = "https://arxiv.org/abs/1812.03982"
X3D: Final = "https://arxiv.org/abs/2004.04730"
REFERENCE: Final = "https://arxiv.org/abs/2203.12122"
TIMM: Final = "https://github.com/huggingface/pytorch-image-models"
VIVIT: Final = "https://arxiv.org/abs/2103.15691"


def _build_slowfast(config: SlowFastConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.layouts import LAYOUTS
    from avrobust_video.slowfast import SlowFast, check_media

    layout = LAYOUTS[config.size]
    check_media(media, layout, config.alpha)
    return SlowFast(layout, alpha=config.alpha, dropout=config.dropout)


def _build_x3d(config: X3dConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.pictures import check_pictures, check_side
    from avrobust_video.x3d import EXPANSIONS, TOTAL_STRIDE, X3d

    check_pictures(media)
    check_side(media, TOTAL_STRIDE)
    return X3d(EXPANSIONS[config.size], dropout=config.dropout)


def _build_frame_transformer(config: FrameTransformerConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.frame_transformer import FrameTransformer, check_features

    check_features(media)
    return FrameTransformer(media.shape[1], config)


def _build_timm_frames(config: TimmFramesConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.timm_frames import make_timm_frames

    return make_timm_frames(config, media)


def _build_video_patches(config: VideoPatchesConfig, media: "MediaSpec") -> "Encoder":
    from avrobust_video.patches import VideoPatches
    from avrobust_video.pictures import check_pictures

    check_pictures(media)
    return VideoPatches(config)


@hookimpl
def avrobust_encoders() -> "Iterator[Component[Any, Encoder]]":
    """The SlowFast and X3D families, frame encoders, and patches."""
    yield Component(
        name="slowfast",
        summary="SlowFast network, a slow and a fast pathway: R50 and R101 as published, small or tiny.",
        config=SlowFastConfig,
        build=_build_slowfast,
        references=(SLOWFAST,),
        example={"size": "small"},
        version=2,
    )
    yield Component(
        name="slowfast-tiny",
        summary="SlowFast network for small pictures: 8 frames of 32x32 take milliseconds on a CPU.",
        config=SlowFastTinyConfig,
        build=_build_slowfast,
        references=(SLOWFAST,),
        example={},
        version=2,
    )
    yield Component(
        name="x3d",
        summary="X3D network: under 4 million parameters; reads PyTorchVideo's published checkpoints.",
        config=X3dConfig,
        build=_build_x3d,
        references=(X3D,),
        example={"size": "xs"},
    )
    yield Component(
        name="frame-transformer",
        summary="The reference's video encoder: a transformer layer over features of frames, attention pooling.",
        config=FrameTransformerConfig,
        build=_build_frame_transformer,
        references=(REFERENCE,),
        example={"width": 64, "heads": 4},
    )
    yield Component(
        name="timm-frames",
        summary="Any image network of timm on each frame by itself.",
        config=TimmFramesConfig,
        build=_build_timm_frames,
        references=(TIMM,),
        example={"model": "resnet18"},
        extras=("timm",),
    )
    yield Component(
        name="video-patches",
        summary="Patches of space and time, projected: tokens for a transformer that fuses from the start.",
        config=VideoPatchesConfig,
        build=_build_video_patches,
        references=(VIVIT,),
        example={"width": 64},
    )
