"""The data sets that this plugin offers."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_data.configs import ClipsConfig, ToyAVConfig
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.shards_config import ShardsConfig


@hookimpl
def avrobust_datasets() -> Iterator[Component]:
    """Offer the data sets."""
    yield Component(
        name="toy-av",
        summary="Generated audio-visual events, some told apart only by sound, some only by sight; nothing downloaded.",
        config=ToyAVConfig,
        build="avrobust_data.toy:ToyAV",
        example={"classes": 10},
    )
    yield Component(
        name="clips",
        summary="Media files named by a CSV manifest (path, label or labels, split), decoded with PyAV.",
        config=ClipsConfig,
        build="avrobust_data.clips:make_clips",
        references=("https://pyav.basswood-io.com",),
        example={"manifest": "manifest.csv"},
    )
    yield Component(
        name="features",
        summary="Features computed beforehand, in HDF5 as the reference's, .npy or .npz files; read clip by clip.",
        config=FeaturesConfig,
        build="avrobust_data.features.dataset:Features",
        references=("https://arxiv.org/abs/2203.12122",),
        example={"path": "features.h5"},
        extras=("features",),
    )
    yield Component(
        name="shards",
        summary="Clips of any data set that `avrobust data pack` has decoded and packed; read without decoding.",
        config=ShardsConfig,
        build="avrobust_data.shards:make_shards",
        example={"root": "packed"},
    )
