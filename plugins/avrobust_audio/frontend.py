"""The log-mel front end: differentiable from the waveform to decibels per frame and mel band; or made beforehand."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from avrobust_audio.configs import LogMelConfig
from avrobust_audio.frames import windowed_frames
from avrobust_core import AvrobustError, DataError, MediaSpec, power_spectrum

POWER_FLOOR: Final = 1e-10
"""Keeps the power above zero before the logarithm: silence is -100 dB and has a finite gradient."""
HIGHEST_MEL_HZ: Final = 14_000.0
"""The highest frequency that PANNs looks at; above it, compressed audio holds little."""

LINEAR_HZ: Final = 1000.0
HZ_PER_MEL: Final = 200 / 3
LINEAR_MELS: Final = LINEAR_HZ / HZ_PER_MEL
LOG_STEP: Final = math.log(6.4) / 27
"""Slaney's scale: linear up to 1000 Hz, then 27 mels per factor of 6.4."""


class LogMel(nn.Module):
    """Log-mel spectrogram as in PANNs: centred frames, reflected ends, Hann window, power, Slaney's mel scale.

    With the floor "clamped" it is the front end of PANNs (torchlibrosa's Spectrogram and LogmelFilterBank with amin
    1e-10, ref 1 and no top_db), in values and in gradients: bands below the floor have none. With the floor "added" it
    is the same to 0.5 dB from -90 dB upwards, but smooth, so that no quiet band is hidden from a gradient. The
    transform is computed in float32 also under autocast (float64 stays float64). Nothing here is learned or saved with
    the weights.

    Args:
        config: its sizes. The window is centred in the FFT, the next power of two.
        media: a waveform.

    Raises:
        DataError: if the modality is not a waveform, has no sample rate, or its clips are too short for the window.
        AvrobustError: if the configuration does not fit the sample rate, or a band has no FFT bin under it.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: LogMelConfig, media: MediaSpec) -> None:
        super().__init__()
        rate, f_min = sample_rate(media), config.f_min
        f_max = min(HIGHEST_MEL_HZ, rate / 2) if config.f_max is None else config.f_max
        if not f_min < f_max <= rate / 2:
            raise AvrobustError(
                f"mel bands from f_min {f_min:g} to f_max {f_max:g} Hz do not fit audio of {rate} Hz: "
                f"f_max must be above f_min and at most half the sample rate, {rate / 2:g}"
            )
        window, self.hop = round(config.window_ms * rate / 1000), round(config.hop_ms * rate / 1000)
        if self.hop < 1 or window < 2:
            raise AvrobustError(
                f"window_ms {config.window_ms:g} and hop_ms {config.hop_ms:g} are {window} and {self.hop} samples at "
                f"{rate} Hz; at least 2 and 1 are needed"
            )
        self.n_fft, self.n_mels, self.floor = 1 << (window - 1).bit_length(), config.n_mels, config.floor
        filters = mel_filters(self.n_fft, rate, self.n_mels, f_min, f_max)
        empty = count_empty(filters)
        if empty:
            fewer = range(self.n_mels, 0, -1)
            fitting = next((n for n in fewer if not count_empty(mel_filters(self.n_fft, rate, n, f_min, f_max))), 0)
            remedy = f"n_mels to at most {fitting}" if fitting else "f_min, or raise f_max"
            raise AvrobustError(
                f"{empty} of {self.n_mels} mel bands from {f_min:g} to {f_max:g} Hz have no frequency under them: a "
                f"window of {window} samples at {rate} Hz resolves {rate / self.n_fft:.1f} Hz; raise window_ms, or "
                f"lower {remedy}"
            )
        if media.shape[1] < self.shortest:
            raise DataError(
                f"clips of {media.shape[1]} samples are too short for this window: at least {self.shortest} are "
                "needed; use longer clips, or lower window_ms"
            )
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, samples: int) -> int:
        """Count the frames of a waveform of so many samples."""
        return samples // self.hop + 1

    @property
    def shortest(self) -> int:
        """The fewest samples that it can read: reflecting the ends takes more than half an FFT."""
        return self.n_fft // 2 + 1

    def forward(self, x: Tensor) -> Tensor:
        """From waveforms (B, C, T) in [-1, 1], averaged over channels, to decibels (B, 1, T // hop + 1, M).

        Raises:
            DataError: if the shape is another, or the waveform is too short.
        """
        if x.ndim != 3 or x.shape[2] < self.shortest:
            raise DataError(
                f"expected waveforms (B, C, T) of at least {self.shortest} samples, not {tuple(x.shape)}; "
                "use longer clips, or a shorter window"
            )
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            mono = x[:, 0] if x.shape[1] == 1 else x.mean(dim=1)
            # The window is centred in the frame; where in it the samples stand is all the same to the power.
            before = self.n_fft // 2 - (self.n_fft - len(self.window)) // 2
            frames = windowed_frames(mono, self.window.to(mono.dtype), self.hop, before)
            mel = power_spectrum(frames, self.n_fft) @ self.filters
            floored = mel.clamp(min=POWER_FLOOR) if self.floor == "clamped" else mel + POWER_FLOOR
            return 10 * torch.log10(floored).unsqueeze(1)

    def extra_repr(self) -> str:
        sizes = f"n_fft={self.n_fft}, window={len(self.window)}, hop={self.hop}, n_mels={self.n_mels}"
        return f"{sizes}, floor={self.floor!r}"


class ReadyMade(nn.Module):
    """In the place of `LogMel` where the data set's clips are log-mel spectrograms already: hands them on as they are.

    Args:
        config: of which only `n_mels` counts.
        media: spectrograms (1, frames, bands), kind "audio".

    Raises:
        DataError: if the clips are something else, or have another number of bands.
    """

    def __init__(self, config: LogMelConfig, media: MediaSpec) -> None:
        super().__init__()
        media.require("spectrograms", "audio", (1, "frames", "bands"))
        if media.shape[2] != config.n_mels:
            raise DataError(
                f"the data set's spectrograms have {media.shape[2]} bands, and n_mels is {config.n_mels}; set n_mels "
                f"to {media.shape[2]}"
            )
        self.n_mels = config.n_mels

    def frames(self, length: int) -> int:
        """Count the frames of a spectrogram of so many."""
        return length

    def forward(self, x: Tensor) -> Tensor:
        """The spectrograms (B, 1, frames, bands) themselves."""
        return x


def front_end(config: LogMelConfig, media: MediaSpec) -> LogMel | ReadyMade:
    """What makes log-mel spectrograms of a modality: of waveforms (channels, samples), or ones made beforehand.

    Raises:
        DataError: if the modality is neither, or the clips are too short.
        AvrobustError: if the configuration does not fit the sample rate.
    """
    return ReadyMade(config, media) if len(media.shape) == 3 else LogMel(config, media)


def mel_filters(n_fft: int, rate: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular filters (n_fft // 2 + 1, n_mels), float32, of equal area, on Slaney's mel scale.

    They are computed in float64, as librosa's are: in float32 they come out different enough to turn a few of a
    network's ReLUs, and with them its gradient.
    """
    ends = torch.tensor([f_min, f_max], dtype=torch.float64)
    low, high = torch.where(ends < LINEAR_HZ, ends / HZ_PER_MEL, LINEAR_MELS + (ends / LINEAR_HZ).log() / LOG_STEP)
    mels = torch.linspace(float(low), float(high), n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < LINEAR_MELS, mels * HZ_PER_MEL, LINEAR_HZ * ((mels - LINEAR_MELS) * LOG_STEP).exp())
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (edges[2:] - edges[:-2])).float()


def count_empty(filters: Tensor) -> int:
    """Count the filters (columns) that are zero everywhere."""
    return int((filters.amax(dim=0) <= 0).sum())


def sample_rate(media: MediaSpec) -> int:
    """The sample rate of a waveform.

    Raises:
        DataError: if the modality is not a waveform, or has no sample rate.
    """
    media.require("waveforms", "audio", ("channels", "samples"))
    if media.rate is None or media.rate <= 0 or media.rate != int(media.rate):
        raise DataError(f"the data set must state the sample rate of its audio in whole Hz; it states {media.rate}")
    return int(media.rate)
