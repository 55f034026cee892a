"""The data sets that this plugin offers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_data.configs import ClipsConfig, ToyAVConfig

if TYPE_CHECKING:
    from avrobust_core import Dataset


def build_toy_av(config: ToyAVConfig) -> "Dataset":
    """Make the generated data set."""
    from avrobust_data.toy import ToyAV

    return ToyAV(config)


def build_clips(config: ClipsConfig) -> "Dataset":
    """Read the manifest and make the data set of its files.

    Raises:
        DataError: if the manifest cannot be used.
    """
    from avrobust_data.clips import Clips

    return Clips(config)


@hookimpl
def avrobust_datasets() -> Iterator[Component[Any, Any]]:
    """Offer `toy-av` and `clips`."""
    yield Component(
        name="toy-av",
        summary="Generated audio-visual events, some told apart only by sound, some only by sight; nothing downloaded.",
        config=ToyAVConfig,
        build=build_toy_av,
        example={"classes": 10},
    )
    yield Component(
        name="clips",
        summary="Media files named by a CSV manifest (path, label or labels, split), decoded with PyAV.",
        config=ClipsConfig,
        build=build_clips,
        references=("https://pyav.basswood-io.com",),
        example={"manifest": "manifest.csv"},
    )
