"""The components that the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_depth.configs import DepthCnnConfig, DepthNetConfig, ToyAVDConfig


@hookimpl
def avrobust_datasets() -> Iterator[Component]:
    """Offer `toy-avd`."""
    yield Component(
        name="toy-avd",
        summary="Generated clips of sound, pictures and a depth map; each modality knows one bit of the class.",
        config=ToyAVDConfig,
        build="avrobust_depth.data:ToyAVD",
        example={"train": 240},
    )


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """Offer `depth-cnn`."""
    yield Component(
        name="depth-cnn",
        summary="A small 2-D convolutional network over depth maps.",
        config=DepthCnnConfig,
        build="avrobust_depth.encoder:DepthCnn",
        example={"channels": [8, 16]},
    )


@hookimpl
def avrobust_fusions() -> Iterator[Component]:
    """Offer `depth-net`."""
    yield Component(
        name="depth-net",
        summary="A small network of sound, pictures and depth, as one module; for encoders `raw`.",
        config=DepthNetConfig,
        build="avrobust_depth.whole:depth_net",
        example={"width": 4},
    )
