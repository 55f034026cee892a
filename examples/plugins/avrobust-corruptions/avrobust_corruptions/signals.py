"""Sound in parts: noise of a colour, bands, bursts that ring, and mixing at a ratio of signal to noise.

All take and give (B, C, T) float32; noise has one channel, which all channels of a clip hear.
"""

import math

import torch
from torch import Tensor

from avrobust_core import ClipDraws

QUIETEST = 0.01
"""The loudness, as a root mean square of full scale, that a quieter clip is taken to have: noise falls on silence,
too."""


def white(draws: ClipDraws, steps: int) -> Tensor:
    """Normal noise: (B, 1, steps)."""
    return draws.noise((1, steps), "gaussian")


def loudness(x: Tensor, own: Tensor | None = None) -> Tensor:
    """The root mean square of each clip: (B, 1, 1).

    Args:
        x: (B, C, T).
        own: (B,) the share of T that is the clip's own, where the rest is padding of zeros.
    """
    power = x.square().mean(dim=(1, 2))
    if own is not None:
        power = power / own.clamp(min=1 / x.shape[2])
    return power.sqrt().view(-1, 1, 1)


def mixed(x: Tensor, noise: Tensor, snr_db: float, own: Tensor | None) -> Tensor:
    """`x` with noise (B, 1, T) at a ratio of signal to noise, in decibels over the whole clip."""
    level = loudness(x, own).clamp(min=QUIETEST) / loudness(noise).clamp(min=1e-6)
    return x + noise * level * 10 ** (-snr_db / 20)


def filtered(x: Tensor, rate: float, low: float = 0.0, high: float = math.inf, order: int = 4) -> Tensor:
    """What lies between two frequencies in hertz, with edges as soft as a Butterworth filter's of this order."""
    frequency = torch.fft.rfftfreq(x.shape[2], 1 / rate, device=x.device)
    gain = torch.ones_like(frequency)
    if low > 0:
        gain = gain / (1 + (low / frequency.clamp(min=1e-3)) ** (2 * order)).sqrt()
    if math.isfinite(high):
        gain = gain / (1 + (frequency / high) ** (2 * order)).sqrt()
    found: Tensor = torch.fft.irfft(torch.fft.rfft(x) * gain, n=x.shape[2])
    return found


def bursts(draws: ClipDraws, steps: int, rate: float, per_second: float, ring: float, when: Tensor) -> Tensor:
    """Noise that starts at random moments and rings off: (B, 1, steps).

    Args:
        draws: of the clips.
        steps: T.
        rate: samples per second.
        per_second: how many bursts.
        ring: seconds in which a burst falls to 1/e.
        when: (B, T) in [0, 1]: where bursts are likely.
    """
    starts = (draws.uniform(steps) < 2 * when * min(per_second / rate, 0.5)).float() * draws.uniform(steps)
    length = 2 * steps
    decay = torch.exp(-torch.arange(steps, device=starts.device) / max(ring * rate, 1e-3))
    envelope: Tensor = torch.fft.irfft(torch.fft.rfft(starts, n=length) * torch.fft.rfft(decay, n=length), n=length)
    return envelope[:, None, :steps] * white(draws, steps)


def tones(steps: int, rate: float, hertz: Tensor, phases: Tensor) -> Tensor:
    """Sines side by side, each at its own pitch: from (B, n) and (B, n) turns to their sum, (B, 1, steps)."""
    time = torch.arange(steps, device=hertz.device) / rate
    total = torch.zeros(len(hertz), steps, device=hertz.device)
    for pitch, phase in zip(hertz.unbind(1), phases.unbind(1), strict=True):
        total += torch.sin(2 * math.pi * (pitch[:, None] * time + phase[:, None]))
    return total.unsqueeze(1)
