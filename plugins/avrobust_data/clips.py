"""`clips`: a data set of media files named by a manifest."""

from avrobust_core import DataError
from avrobust_data.configs import ClipsConfig
from avrobust_data.manifest import read_manifest
from avrobust_data.media_clips import MediaClips


def make_clips(config: ClipsConfig) -> MediaClips:
    """The clips of a manifest.

    Raises:
        DataError: if the manifest or its root folder cannot be used.
    """
    root = config.root if config.root is not None else config.manifest.parent
    if config.root is not None and not root.is_dir():
        raise DataError(f"data.with.root is {root}, which is not a folder")
    return MediaClips(read_manifest(config), root, config.splits, config)
