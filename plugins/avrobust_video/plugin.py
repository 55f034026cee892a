"""The plugin `video`: encoders of clips of pictures, and of features of frames."""

from collections.abc import Iterator
from typing import Final

from avrobust_core import Component, hookimpl
from avrobust_video import configs

SLOWFAST: Final = "https://arxiv.org/abs/1812.03982"
X3D: Final = "https://arxiv.org/abs/2004.04730"


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """The SlowFast and X3D families, frame encoders, and patches."""
    yield Component(
        name="slowfast",
        summary="SlowFast network, a slow and a fast pathway: R50 and R101 as published, small or tiny.",
        config=configs.SlowFastConfig,
        build="avrobust_video.slowfast:SlowFast",
        references=(SLOWFAST,),
        example={"size": "small"},
        version=2,
    )
    yield Component(
        name="slowfast-tiny",
        summary="SlowFast network for small pictures: 8 frames of 32x32 take milliseconds on a CPU.",
        config=configs.SlowFastTinyConfig,
        build="avrobust_video.slowfast:SlowFast",
        references=(SLOWFAST,),
        version=2,
    )
    yield Component(
        name="x3d",
        summary="X3D network: under 4 million parameters; reads PyTorchVideo's published checkpoints.",
        config=configs.X3dConfig,
        build="avrobust_video.x3d:X3d",
        references=(X3D,),
        example={"size": "xs"},
    )
    yield Component(
        name="frame-transformer",
        summary="The reference's video encoder: a transformer layer over features of frames, attention pooling.",
        config=configs.FrameTransformerConfig,
        build="avrobust_video.frame_transformer:FrameTransformer",
        references=("https://arxiv.org/abs/2203.12122",),
        example={"width": 64, "heads": 4},
    )
    yield Component(
        name="timm-frames",
        summary="Any image network of timm on each frame by itself.",
        config=configs.TimmFramesConfig,
        build="avrobust_video.timm_frames:make_timm_frames",
        references=("https://github.com/huggingface/pytorch-image-models",),
        example={"model": "resnet18"},
        extras=("timm",),
        requires=("timm",),
    )
    yield Component(
        name="video-patches",
        summary="Patches of space and time, projected: tokens for a transformer that fuses from the start.",
        config=configs.VideoPatchesConfig,
        build="avrobust_video.patches:VideoPatches",
        references=("https://arxiv.org/abs/2103.15691",),
        example={"width": 64},
    )
