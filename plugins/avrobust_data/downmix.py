"""From several channels of sound to one."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Downmix = Literal["weighted", "mean"]

_SIDE: Final = 0.5
_CENTRE: Final = 2**-0.5
_SURROUND: Final = 0.5 * 2**-0.5

_WEIGHTS: Final = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC"), _SIDE),
    "FC": _CENTRE,
    **dict.fromkeys(("BL", "BR", "SL", "SR", "BC"), _SURROUND),
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
}
"""By FFmpeg's names of channels: the mean of left and right after the downmix to stereo of ITU-R BS.775-3, annex 4."""


def weights(channels: Sequence[str], kind: Downmix) -> NDArray[np.float32] | None:
    """The weights of channels (C,) float32, none negative, which sum to 1; None for the plain mean.

    They sum to 1 so that no mix exceeds full scale where no channel does. The centre of 5.1 gets 0.29, where the mean
    of all channels leaves it 0.17; the low-frequency channel gets nothing.

    Args:
        channels: their names, as FFmpeg has them ("FL", "FR", "FC", "LFE", ...).
        kind: weighted, which for channels of other names is the mean; or mean.
    """
    if kind == "mean" or len(channels) < 3 or not all(name in _WEIGHTS for name in channels):
        return None
    found = np.array([_WEIGHTS[name] for name in channels], np.float32)
    found /= found.sum()
    return found
