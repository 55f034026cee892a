"""The masking threshold of a sound, and how far a perturbation is above it.

Schönherr, Kohls, Zeiler, Holz, Kolossa (NDSS 2019, arXiv 1808.05665) hide perturbations below the threshold of MPEG-1's
psychoacoustic model 1; Qin, Carlini, Cottrell, Goodfellow, Raffel (ICML 2019, arXiv 1903.10346, appendix A) give the
simpler model with a spreading function of two slopes that is computed here: the threshold in quiet, the maskers among a
frame's peaks, and the power of all that they mask.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core import per_clip

WINDOW_SECONDS = 0.128
"""Length of a frame: 2048 samples at 16 kHz, as in Qin et al."""

LOUDEST_DB = 96.0
"""The sound pressure level that the loudest bin of a clip is taken to have (Qin et al., after Lin and Abdulla 2015)."""

SILENCE = 1e-10
"""Power relative to a full-scale sine's below which a whole clip is silence, which masks nothing."""

NEIGHBOURHOOD_BARK = 0.5
"""Of maskers that are closer than this, only the loudest counts."""

MOST_MASKERS = 64
"""Per frame; peaks half a Bark apart are at most 51 on the 25 Bark of hearing."""

FRAMES_AT_ONCE = 128
"""Frames whose spreading is computed at once: memory."""

TINY = 1e-30
"""Added to powers before the logarithm: -300 dB, which no sum of float64 notices."""


def bark(hertz: Tensor) -> Tensor:
    """Frequency in Bark (Zwicker's formula, as in Lin and Abdulla 2015)."""
    return 13 * torch.atan(0.00076 * hertz) + 3.5 * torch.atan((hertz / 7500) ** 2)


def quiet(hertz: Tensor) -> Tensor:
    """The threshold in quiet in dB SPL (Terhardt 1979); frequencies below 20 Hz have that of 20 Hz."""
    khz = hertz.clamp(min=20) / 1000
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4


@dataclass(frozen=True, slots=True)
class Threshold:
    """The masking threshold of clips, beside the unit that perturbations are measured in.

    Attributes:
        decibels: (B * C, bins, frames) float64, dB SPL.
        reference: (B * C,) float64, the power of a bin that is 0 dB.
    """

    decibels: Tensor
    reference: Tensor


class Masking:
    """Masking in sounds of one sample rate: of each channel C by itself. All is computed in float64.

    Args:
        rate: samples per second.

    Raises:
        ValueError: if the rate is so low that a frame has fewer than 16 samples (125 Hz).
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.n_fft = 2 * round(WINDOW_SECONDS * rate / 2)
        if self.n_fft < 16:
            raise ValueError(f"a sample rate of {rate:g} Hz is too low to say what is heard: at least 125 Hz")
        self.hop = self.n_fft // 4
        self.window = torch.hann_window(self.n_fft, dtype=torch.float64)
        self.hertz = torch.arange(self.n_fft // 2 + 1, dtype=torch.float64) * rate / self.n_fft
        self.bark = bark(self.hertz)
        self.quiet = quiet(self.hertz)
        self.full_scale = float(self.window.sum() / 2) ** 2  # the power of a full-scale sine's bin

    def spectrum(self, sound: Tensor) -> Tensor:
        """The short-time spectrum of sound (B, ..., T): (B * C, bins, frames) complex128; silence around the clip."""
        flat = sound.double().flatten(0, -2)
        return torch.stft(
            flat, self.n_fft, self.hop, window=self.window.to(flat.device), pad_mode="constant", return_complex=True
        )

    def sound(self, spectrum: Tensor, shape: torch.Size) -> Tensor:
        """The sound (B, ..., T) whose spectrum is nearest to this one: the inverse of `spectrum`."""
        window = self.window.to(spectrum.device)
        # `length` beyond the last frame's middle: the frames of `spectrum` reach it.
        return torch.istft(spectrum, self.n_fft, self.hop, window=window, length=shape[-1]).reshape(shape)

    def threshold(self, clean: Tensor) -> Threshold:
        """The global masking threshold of clean sound (B, ..., T).

        A clip that is silent masks nothing: of it the threshold is that in quiet, a full-scale sine being 96 dB.
        """
        power = self.spectrum(clean).abs() ** 2
        loudest = power.flatten(1).amax(dim=1)
        loudest = torch.where(loudest > SILENCE * self.full_scale, loudest, self.full_scale)
        reference = loudest / 10 ** (LOUDEST_DB / 10)
        levels = _decibels(power / reference[:, None, None]).transpose(1, 2)  # (B * C, frames, bins)
        rows = levels.flatten(0, 1)
        masked = torch.cat([self._masked(rows[i : i + FRAMES_AT_ONCE]) for i in range(0, len(rows), FRAMES_AT_ONCE)])
        return Threshold(masked.reshape(levels.shape).transpose(1, 2), reference)

    def excess(self, perturbation: Tensor, threshold: Threshold) -> Tensor:
        """How far each bin of a perturbation (B, ..., T) is above the threshold, in dB: (B * C, bins, frames)."""
        power = self.spectrum(perturbation).abs() ** 2
        return _decibels(power / threshold.reference[:, None, None]) - threshold.decibels

    def peak_excess(self, perturbation: Tensor, threshold: Threshold) -> Tensor:
        """The highest of a clip's excesses in dB: (B,); not above 0 where nothing of the perturbation is heard."""
        return self.excess(perturbation, threshold).reshape(len(perturbation), -1).amax(dim=1)

    def mean_excess(self, perturbation: Tensor, threshold: Threshold) -> Tensor:
        """The mean over bins of what is above the threshold, in dB: (B,); the loss of Qin et al., equation 5."""
        return self.excess(perturbation, threshold).clamp(min=0).reshape(len(perturbation), -1).mean(dim=1)

    def audible_share(self, perturbation: Tensor, threshold: Threshold) -> Tensor:
        """The share of the perturbation's energy above the threshold: (B,) in [0, 1]; 0 of no perturbation."""
        power = self.spectrum(perturbation).abs() ** 2
        heard = (power - threshold.reference[:, None, None] * 10 ** (threshold.decibels / 10)).clamp(min=0)
        total, above = (x.reshape(len(perturbation), -1).sum(dim=1) for x in (power, heard))
        return torch.where(total > 0, above / total.clamp(min=torch.finfo(total.dtype).tiny), 0)

    def below(self, perturbation: Tensor, threshold: Threshold, excess_db: float) -> Tensor:
        """The perturbation (B, ..., T) with what is above the threshold, by more than so many dB, turned down to it.

        Frames overlap, so that the sound made of them may still be above it by a few dB: it is turned down whole by as
        much. What is returned holds the limit.
        """
        spectrum = self.spectrum(perturbation)
        power = spectrum.abs() ** 2
        over = (_decibels(power / threshold.reference[:, None, None]) - threshold.decibels - excess_db).clamp(min=0)
        quieter = self.sound(spectrum * 10 ** (-over / 20), perturbation.shape)
        # A clip that holds the limit already stays as it is, bit for bit.
        heard = per_clip(over.reshape(len(perturbation), -1).amax(dim=1) > 0, perturbation)
        quieter = quieter * per_clip(self.shrink(quieter, threshold, excess_db), quieter)
        return torch.where(heard, quieter, perturbation.double())

    def shrink(self, perturbation: Tensor, threshold: Threshold, excess_db: float) -> Tensor:
        """The factor, at most 1, that turns the perturbation (B, ..., T) down to the limit: (B,)."""
        over = self.peak_excess(perturbation, threshold) - excess_db
        return 10 ** (-over.clamp(min=0) / 20)

    def _masked(self, levels: Tensor) -> Tensor:
        """The threshold of frames from their levels in dB, both (R, bins)."""
        hertz_bark, floor = self.bark.to(levels.device), self.quiet.to(levels.device)
        places, heights = self._maskers(levels, hertz_bark, floor)
        at = hertz_bark[places]  # (R, M)
        apart = hertz_bark - at.unsqueeze(2)  # (R, M, bins)
        upwards = -27 + 0.37 * (heights - 40).clamp(min=0)
        spread = torch.where(apart > 0, upwards.unsqueeze(2) * apart, 27 * apart)
        masked = (heights - 6.025 - 0.275 * at).unsqueeze(2) + spread  # -inf where there is no masker
        power = 10 ** (floor / 10) + (10 ** (masked / 10)).sum(dim=1)
        return _decibels(power)

    def _maskers(self, levels: Tensor, at: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """The maskers of frames (R, bins): their bins and their levels, (R, M), -inf where a frame has fewer."""
        inner = levels[:, 1:-1]
        peak = (inner > levels[:, :-2]) & (inner > levels[:, 2:])
        power = 10 ** (levels / 10)
        height = _decibels(power[:, :-2] + power[:, 1:-1] + power[:, 2:])  # a masker's side bins belong to it
        height = torch.where(peak & (height > floor[1:-1]), height, -torch.inf)
        places, heights = [], []
        for _ in range(min(MOST_MASKERS, math.ceil(2 * float(at[-1])) + 1)):
            top = height.max(dim=1)
            places.append(top.indices + 1)
            heights.append(top.values)
            near = (at[1:-1] - at[1:-1][top.indices].unsqueeze(1)).abs() < NEIGHBOURHOOD_BARK
            height = height.masked_fill(near, -torch.inf)
        return torch.stack(places, dim=1), torch.stack(heights, dim=1)


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + TINY)
