"""What the plugin offers. Every `avrobust` command imports this module: nothing heavy at the top."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_depth.configs import DepthCnnConfig, DepthNetConfig, ToyAVDConfig

if TYPE_CHECKING:
    from avrobust_core import Dataset, EncodedDims, Encoder, Fusion, MediaSpec


def build_toy_avd(config: ToyAVDConfig) -> "Dataset":
    """Make the data set."""
    from avrobust_depth.data import ToyAVD

    return ToyAVD(config)


def build_depth_cnn(config: DepthCnnConfig, media: "MediaSpec") -> "Encoder":
    """Make the encoder for a modality of a data set.

    Raises:
        DataError: if the modality is not depth.
    """
    from avrobust_depth.encoder import DepthCnn

    return DepthCnn(config.channels, media)


def build_depth_net(config: DepthNetConfig, inputs: "Mapping[str, EncodedDims]") -> "Fusion":
    """Make the whole model for encoders that hand their inputs on.

    Raises:
        ComponentError: if they are not `raw`.
    """
    from avrobust_depth.whole import depth_net

    return depth_net(config.width, config.classes, inputs)


@hookimpl
def avrobust_datasets() -> Iterator[Component[Any, Any]]:
    """Offer `toy-avd`."""
    yield Component(
        name="toy-avd",
        summary="Generated clips of sound, pictures and a depth map; each modality knows one bit of the class.",
        config=ToyAVDConfig,
        build=build_toy_avd,
        example={"train": 240},
    )


@hookimpl
def avrobust_encoders() -> Iterator[Component[Any, Any]]:
    """Offer `depth-cnn`."""
    yield Component(
        name="depth-cnn",
        summary="A small 2-D convolutional network over depth maps.",
        config=DepthCnnConfig,
        build=build_depth_cnn,
        example={"channels": [8, 16]},
    )


@hookimpl
def avrobust_fusions() -> Iterator[Component[Any, Any]]:
    """Offer `depth-net`."""
    yield Component(
        name="depth-net",
        summary="A small network of sound, pictures and depth, as one module; for encoders `raw`.",
        config=DepthNetConfig,
        build=build_depth_net,
        example={"width": 4},
    )
