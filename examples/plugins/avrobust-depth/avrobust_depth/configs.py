"""The components' configurations, which a spec writes under `with:`; free of torch."""

from typing import Annotated

from pydantic import Field

from avrobust_core import Config


class ToyAVDConfig(Config):
    """Configuration of `toy-avd`."""

    train: int = Field(default=400, ge=1)
    """Clips in the split "train"."""
    test: int = Field(default=200, ge=1)
    """Clips in the split "test"."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other clips of the same classes."""


class DepthCnnConfig(Config):
    """Configuration of `depth-cnn`."""

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(16, 32), min_length=1)
    """Width of each 3x3 convolution, from the first; each halves the map."""


class DepthNetConfig(Config):
    """Configuration of `depth-net`."""

    width: int = Field(default=16, ge=1)
    """Width of what is known of each modality."""
    classes: int = Field(default=8, ge=2)
    """Logits of the network; a data set of another number of classes gets a new last layer."""
