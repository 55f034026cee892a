"""Clips as small pictures: frames side by side, sound as spectrograms, what differs between two; and PNG of them."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]

QUIETEST_DB: Final = -200.0
"""What stands for the level of silence."""


def spread(frames: int, most: int) -> list[int]:
    """The positions of at most so many of a clip's frames, spread over it."""
    count = min(frames, most)
    return [(2 * i + 1) * frames // (2 * count) for i in range(count)]


def side_by_side(frames: Tensor, low: float, high: float) -> Pixels:
    """Pictures (F, 3, H, W) in a row, (H, F W, 3): `low` becomes 0, `high` 255."""
    return np.concatenate(list(np.moveaxis(levels(frames, low, high), 1, -1)), axis=1)


def levels(values: Tensor, low: float, high: float) -> Pixels:
    """Values of any shape as 8 bits: `low` and less become 0, `high` and more 255."""
    scaled = (values - low) / (high - low if high > low else 1)
    found: Pixels = scaled.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return found


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes (..., C, H, W) in another size, each value the mean of those that it covers."""
    return torch.nn.functional.interpolate(x, size, mode="area")


def spectrogram(x: Tensor, height: int, width: int) -> Tensor:
    """Levels of sound (C, T) over time and frequency: (height, width) in dB, low frequencies below.

    Of the channels' mean, by a Hann window of 2 height samples. 0 dB is a constant 1 through a window: a level has a
    meaning beside another one.
    """
    window = torch.hann_window(2 * height, dtype=x.dtype)
    hop = max(1, math.ceil(x.shape[1] / width))
    spectrum = torch.stft(x.mean(0), 2 * height, hop, window=window, return_complex=True, pad_mode="constant")
    shares = spectrum.abs()[:height] / window.sum()  # a row for each, but for half the rate itself
    decibels = 20 * torch.log10(shares.clamp_min(10 ** (QUIETEST_DB / 20)))
    return resized(decibels.flip(0)[None, None], (height, width))[0, 0]


def magnification(difference: Tensor, span: float) -> float:
    """The largest power of two by which a difference (any shape) can be multiplied to lie within half of `span`.

    1 if nothing differs.
    """
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    return 2.0 ** math.floor(math.log2(span / 2 / largest)) if largest else 1.0


def png(picture: Pixels) -> bytes:
    """A picture (H, W, 3) in red, green and blue, or (H, W) in grey, as PNG."""
    kind = "gray" if picture.ndim == 2 else "rgb24"
    codec: Any = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = picture.shape[1], picture.shape[0], kind
    codec.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
    packets: Sequence[Any] = (*codec.encode(frame), *codec.encode(None))
    return b"".join(map(bytes, packets))
