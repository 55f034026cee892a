"""Tensors in the smallest type that gives them back bit for bit, as packed clips are kept."""

from typing import Final, NamedTuple

import torch
from torch import Tensor


class Encoding(NamedTuple):
    """How values are kept: as numbers of a type, each the value times a scale."""

    dtype: torch.dtype
    scale: float


ENCODINGS: Final = {
    "uint8/255": Encoding(torch.uint8, 255),  # decoded pictures
    "int16/32768": Encoding(torch.int16, 32_768),  # sound of 16 bits that was not resampled
    "float16": Encoding(torch.float16, 1),
    "float32": Encoding(torch.float32, 1),
}
"""The encodings by name, the smallest first; the last one takes everything."""


def encode(x: Tensor) -> tuple[str, Tensor]:
    """Keep a tensor in the first encoding that loses nothing, not even the sign of a zero.

    Args:
        x: float32, of any shape.

    Returns:
        The encoding's name, and the numbers to keep: x's shape, of the encoding's type.
    """
    few = x.reshape(-1)[:: max(1, x.numel() // 64)]  # tell at once of most encodings that they lose something
    for name in ENCODINGS:
        if _kept(few, name) is not None and (kept := _kept(x, name)) is not None:
            return name, kept
    raise AssertionError("float32 keeps every float32")


def _kept(x: Tensor, name: str) -> Tensor | None:
    """The numbers to keep in an encoding; None if it loses something."""
    dtype, scale = ENCODINGS[name]
    kept = (x if dtype.is_floating_point else (x * scale).round_()).to(dtype).contiguous()
    if not torch.equal(decode(kept, name).view(torch.int32), x.contiguous().view(torch.int32)):
        return None
    # Which bits of a NaN outlast a change of type depends on the processor.
    return None if dtype == torch.float16 and bool(kept.isnan().any()) else kept


def decode(kept: Tensor, name: str) -> Tensor:
    """The tensor that was encoded: float32, of the same shape; `kept` itself if it is that already."""
    found = kept.to(torch.float32)
    scale = ENCODINGS[name].scale
    return found if scale == 1 else found.div_(scale)
