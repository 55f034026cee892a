"""The power spectrum of real frames, at half the usual price where its gradient is wanted.

PyTorch's gradient of a real Fourier transform is a complex one of full length. Attacks take this way back at every
step, so that it counts.
"""

from typing import Any, cast

import torch
from torch import Tensor


def power_spectrum(frames: Tensor, n_fft: int) -> Tensor:
    """Squared magnitudes of the Fourier transform of real frames; twice differentiable.

    Args:
        frames: (..., n) float, n <= n_fft; zeros are appended.
        n_fft: the transform's length, even.

    Returns:
        (..., n_fft // 2 + 1), of the frequencies from 0 to half the sample rate.
    """
    return cast(Tensor, _Power.apply(_RealTransform.apply(frames, n_fft)))


class _RealTransform(torch.autograd.Function):
    """The first half of the spectrum."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, n_fft: int) -> Tensor:
        ctx.samples, ctx.n_fft = frames.shape[-1], n_fft
        spectrum: Tensor = torch.fft.rfft(frames, n_fft)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        # A real inverse transform counts each bin but the first and the last for its conjugate, too.
        once = gradient.real.new_full(gradient.shape[-1:], 0.5)
        once[0] = once[-1] = 1
        frames: Tensor = torch.fft.irfft(gradient * once, ctx.n_fft, norm="forward")
        return frames[..., : ctx.samples], None


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        ctx.save_for_backward(spectrum)
        return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (spectrum,) = ctx.saved_tensors
        return cast(Tensor, spectrum * (2 * gradients[0]))
