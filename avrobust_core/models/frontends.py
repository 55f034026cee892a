"""Front ends of published networks that several plugins read: normalised pixels, and Kaldi's filter bank."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import DataError
from avrobust_core.models.power import power_spectrum

RATE: Final = 16_000
WINDOW: Final = 400
HOP: Final = 160
N_FFT: Final = 512
LOWEST_HZ: Final = 20.0
PREEMPHASIS: Final = 0.97

FLOOR: Final = torch.finfo(torch.float32).eps
"""Power below which the logarithm is cut off, in float64 too: bands of digital silence have no gradient."""


class PixelNormalisation(nn.Module):
    """Subtract a mean and divide by a standard deviation, the same for all pixels, or one per colour.

    The defaults are those of the published SlowFast and X3D networks.

    Args:
        mean: in the units of the pixels, [0, 1]; one number, or three for red, green and blue.
        std: in the same units; positive.
    """

    means: Tensor
    stds: Tensor

    def __init__(self, mean: float | Sequence[float] = 0.45, std: float | Sequence[float] = 0.225) -> None:
        super().__init__()
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        if not min(self.std) > 0:
            raise ValueError(f"std must be positive, not {std}")
        self.register_buffer("means", torch.tensor(self.mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("stds", torch.tensor(self.std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From pixels (B, 3, T, H, W) in [0, 1] to features of the same shape; in float32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = x if x.dtype == torch.float64 else x.float()
            if len(self.mean) == len(self.std) == 1:  # by numbers: exact in float64 too
                return (pixels - self.mean[0]) / self.std[0]
            return (pixels - self.means) / self.stds

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


class KaldiFbank(nn.Module):
    """Log-mel filter bank features of Kaldi, of a fixed number of frames, normalised.

    In values and in gradients it is `torchaudio.compliance.kaldi.fbank` with 128 bands, a Hann window of 25 ms, a shift
    of 10 ms and neither dither nor energy, of each clip after its mean is removed; then rows of zeros up to `frames`,
    then the normalisation, so that padding is not zero. It is computed in float32 also under autocast (float64 stays
    float64). Nothing here is learned or saved with the weights.

    Source: the input of Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", 2021 (arXiv 2104.01778), section 2.1.

    Args:
        media: waveforms of 16 kHz, which the encoder has required.
        frames: that come out; further ones are cut off.
        mean: is subtracted.
        scale: is divided by.

    Raises:
        DataError: if the sample rate is another, or the clips are shorter than a window.
    """

    bands: Final = 128
    banks: Tensor

    def __init__(self, media: MediaSpec, *, frames: int, mean: float, scale: float) -> None:
        from torchaudio.compliance.kaldi import get_mel_banks  # not for the pixels

        super().__init__()
        if media.rate != RATE:
            theirs = "no sample rate" if media.rate is None else f"{media.rate:g} Hz"
            raise DataError(
                f"this encoder reads audio of {RATE} Hz, for which the published networks were trained, and this has "
                f"{theirs}; resample the data set to {RATE} Hz"
            )
        if media.shape[1] < WINDOW:
            raise DataError(
                f"clips of {media.shape[1]} samples are shorter than the window: at least {WINDOW} are needed; use "
                "longer clips"
            )
        self.frames = frames
        self.mean = mean
        self.scale = scale
        banks, _ = get_mel_banks(self.bands, N_FFT, float(RATE), LOWEST_HZ, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer("banks", banks.T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From waveforms (B, C, T) of 16 kHz in [-1, 1], averaged over channels, to features (B, 1, frames, 128).

        Raises:
            DataError: if the shape is another, or the clips are shorter than a window.
        """
        if x.ndim != 3 or x.shape[2] < WINDOW:
            raise DataError(
                f"expected waveforms (B, C, T) of at least {WINDOW} samples, not {tuple(x.shape)}; use longer clips"
            )
        with torch.autocast(x.device.type, enabled=False):
            mono = (x if x.dtype == torch.float64 else x.float()).mean(dim=1)
            mono = mono - mono.mean(dim=1, keepdim=True)
            pieces = mono[:, : (self.frames - 1) * HOP + WINDOW].unfold(1, WINDOW, HOP)
            pieces = pieces - pieces.mean(dim=2, keepdim=True)
            before = torch.cat((pieces[..., :1], pieces[..., :-1]), dim=2)
            # Not a buffer: one of float32 would be too coarse where a double looks at quiet bands beside loud ones.
            window = torch.hann_window(WINDOW, periodic=False, dtype=pieces.dtype, device=pieces.device)
            power = power_spectrum((pieces - PREEMPHASIS * before) * window, N_FFT)
            # Kaldi's banks leave out the last bin, half the sampling rate.
            logs = (power[..., :-1] @ self.banks).clamp(min=FLOOR).log()
            whole = F.pad(logs, (0, 0, 0, self.frames - logs.shape[1]))
            return ((whole - self.mean) / self.scale).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"frames={self.frames}, mean={self.mean}, scale={self.scale}"


def _numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    numbers = (float(value),) if isinstance(value, (int, float)) else tuple(map(float, value))
    if len(numbers) not in (1, 3):
        raise ValueError(f"{name} must be one number or three, not {len(numbers)}")
    return numbers
