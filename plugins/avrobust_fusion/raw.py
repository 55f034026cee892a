"""The encoder `raw`, for fusions that are whole models."""

from avrobust_core import Encoder, MediaSpec, Raw
from avrobust_fusion.configs import RawConfig


def raw(config: RawConfig, media: MediaSpec) -> Encoder:
    """Hand the input on as it is."""
    return Raw(media)
