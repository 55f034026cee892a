"""`shards`: a data set that `avrobust data pack` has packed."""

from avrobust_core import PackedClips
from avrobust_data.shards_config import ShardsConfig


def make_shards(config: ShardsConfig) -> PackedClips:
    """The clips of a folder.

    Raises:
        DataError: if it holds no packed clips, or not all of them.
    """
    return PackedClips(config.root, config.shuffle_mib)
