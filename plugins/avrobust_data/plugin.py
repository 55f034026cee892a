"""The data sets that this plugin offers."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_data.configs import ClipsConfig, ToyAVConfig
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.sets import configs as sets
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
        name="folder",
        summary="Media files in folders named as their classes; splits by folders, by lists, or by stated shares.",
        config=sets.FolderConfig,
        build="avrobust_data.sets.folder:make_folder",
        example={"media": "clips", "shares": {"train": 0.8, "test": 0.2}},
    )
    yield Component(
        name="audioset",
        summary="AudioSet: segments with one or more of 527 labels, from the official lists and a copy's media.",
        config=sets.AudioSetConfig,
        build="avrobust_data.sets.audioset:make_audioset",
        references=(
            "https://research.google.com/audioset/download.html",
            "https://doi.org/10.1109/ICASSP.2017.7952261",
        ),
        example={
            "lists": {"train": "balanced_train_segments.csv", "test": "eval_segments.csv"},
            "class_list": "class_labels_indices.csv",
            "media": "audioset",
        },
    )
    yield Component(
        name="kinetics-sounds",
        summary="Kinetics-Sounds: Kinetics-400's clips of classes that are heard and seen (27, 31, 32, 34, or yours).",
        config=sets.KineticsSoundsConfig,
        build="avrobust_data.sets.kinetics:make_kinetics_sounds",
        references=("https://arxiv.org/abs/1705.08168", "https://arxiv.org/abs/1705.06950"),
        example={"lists": {"train": "train.csv", "test": "validate.csv"}, "classes": "ks-31", "media": "kinetics400"},
    )
    yield Component(
        name="vggsound",
        summary="VGGSound: 10-second clips of 309 classes; with VGGSounder's audible and visible labels, if given.",
        config=sets.VGGSoundConfig,
        build="avrobust_data.sets.vggsound:make_vggsound",
        references=("https://arxiv.org/abs/2004.14368", "https://arxiv.org/abs/2508.08237"),
        example={"clips": "vggsound.csv", "media": "vggsound"},
    )
    yield Component(
        name="ave",
        summary="AVE: 10-second videos of 28 classes of events that are heard and seen.",
        config=sets.AVEConfig,
        build="avrobust_data.sets.ave:make_ave",
        references=("https://arxiv.org/abs/1803.08842",),
        example={
            "lists": {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"},
            "media": "AVE",
        },
    )
    yield Component(
        name="shards",
        summary="Clips of any data set that `avrobust data pack` has decoded and packed; read without decoding.",
        config=ShardsConfig,
        build="avrobust_data.shards:make_shards",
        example={"root": "packed"},
    )
