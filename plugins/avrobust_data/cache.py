"""A memory-bound store of clips, in the compact form in which they are made."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Media(dict[str, NDArray[Any]]):
    """The arrays of one clip by modality: float32 in the range of the modality's bounds, or uint8 for pictures.

    Attributes:
        padded: as `Clip.padded`.
    """

    padded: Mapping[str, float] = MappingProxyType({})


class ClipCache:
    """Keeps clips until it is full, then keeps what it has.

    Training reads all clips in a new order at each pass: to drop the least recently used would drop each just
    before it is needed. A copy for another process starts empty.

    Args:
        limit_bytes: of the arrays kept; 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._clips: dict[tuple[str, int], Media] = {}

    def __len__(self) -> int:
        return len(self._clips)

    def __getstate__(self) -> dict[str, Any]:
        return {"limit_bytes": self.limit_bytes, "bytes": 0, "_clips": {}}

    def get(self, key: tuple[str, int], make: Callable[[], Media]) -> Media:
        """The clip of `key`: the kept one, or a new one by `make`; what `make` raises is passed on."""
        media = self._clips.get(key)
        if media is None:
            media = make()
            size = sum(array.nbytes for array in media.values())
            if self.bytes + size <= self.limit_bytes:
                self._clips[key] = media
                self.bytes += size
        return media


def to_tensors(media: Media) -> dict[str, Tensor]:
    """Copies as float32 tensors of the same shapes; uint8 0..255 becomes 0..1."""
    return {name: _to_tensor(array) for name, array in media.items()}


def _to_tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype == np.uint8:
        return torch.from_numpy(array).to(torch.float32).div_(255)
    return torch.from_numpy(array).to(torch.float32, copy=True)
