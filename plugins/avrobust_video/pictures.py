"""Checks of the pictures that an encoder reads, and pooling of their maps."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import DataError, MediaSpec

PICTURES: Final = ("pictures", "video", (3, "frames", "height", "width"))
"""The kind and shape of a modality of pictures, for `MediaSpec.require`."""


def check_side(media: MediaSpec, least: int) -> None:
    """Refuse pictures that a network halves away.

    Args:
        media: pictures.
        least: pixels of the input per pixel of the last map.

    Raises:
        DataError: if a side has fewer pixels than that.
    """
    _, _, height, width = media.shape
    if min(height, width) < least:
        raise DataError(
            f"pictures of {height}x{width} are too small for this network, which halves them down to 1/{least}: each "
            f"side needs at least {least} pixels; use larger pictures, or a smaller size of the network"
        )


def windows(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Averages over all windows of a map, one step apart, as published networks pool maps larger than they learned on.

    Args:
        x: (B, C, T, H, W).
        size: frames, height and width of a window; one that is larger than the map is cut to it.

    Returns:
        (B, C, T', H', W'), of which each axis is 1 where the window has the map's size.
    """
    kernel = [min(wanted, there) for wanted, there in zip(size, x.shape[2:], strict=True)]
    if kernel == list(x.shape[2:]):  # the usual case, for which a mean is faster
        return x.mean(dim=(2, 3, 4), keepdim=True)
    return F.avg_pool3d(x, kernel, stride=1)


def pool_space(x: Tensor, window: int | None) -> Tensor:
    """One vector per frame: from (B, C, T, H, W) to (B, C, T).

    Args:
        x: maps.
        window: for a mean over all windows of so many pixels a side, in which those at the border count less; of maps
            that are no larger, the plain mean. None for the maximum.
    """
    if window is None:
        return torch.amax(x, dim=(3, 4))
    if max(x.shape[3:]) > window:
        x = windows(x, (1, window, window))
    return x.mean(dim=(3, 4))
