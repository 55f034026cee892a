"""How much of a clip is left beside what was changed in it: SNR of sound, PSNR of pictures."""

import math

from torch import Tensor


def snr_db(clean: Tensor, changed: Tensor) -> float:
    """The signal-to-noise ratio: the clean clip's energy over that of the change, in dB, computed in float64.

    Args:
        clean: any shape.
        changed: of the same shape.

    Returns:
        10 log10(sum x^2 / sum d^2); inf if nothing was changed, -inf if silence was.
    """
    return _decibels(float(clean.double().square().sum()), _energy(clean, changed))


def psnr_db(clean: Tensor, changed: Tensor, span: float) -> float:
    """The peak signal-to-noise ratio: the square of the span of values over the mean square of the change, in dB.

    Args:
        clean: any shape, not empty.
        changed: of the same shape.
        span: from the lowest to the highest value that there can be.

    Returns:
        10 log10(span^2 / mean d^2); inf if nothing was changed.
    """
    return _decibels(span**2, _energy(clean, changed) / clean.numel())


def _energy(clean: Tensor, changed: Tensor) -> float:
    return float((changed.double() - clean.double()).square().sum())


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
