"""The power spectrum: PyTorch's own in values and gradients."""

import pytest
import torch

from avrobust_core import power_spectrum


@pytest.mark.parametrize(("samples", "n_fft"), [(16, 16), (13, 16), (1, 2), (50, 64)])
def test_is_the_squared_magnitude_of_the_transform(samples: int, n_fft: int) -> None:
    frames = _frames(3, samples)
    found, wanted = power_spectrum(frames, n_fft), torch.fft.rfft(frames, n_fft).abs().square()
    assert found.shape == (3, n_fft // 2 + 1)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad(power, frames, upstream)[0] for power in (found, wanted)))


def test_its_gradient_has_the_right_gradient() -> None:
    frames = _frames(2, 7)
    assert torch.autograd.gradcheck(lambda x: power_spectrum(x, 8), (frames,))
    assert torch.autograd.gradgradcheck(lambda x: power_spectrum(x, 8), (frames,))


def test_silence_has_no_power_and_a_gradient_of_zero() -> None:
    frames = torch.zeros(1, 8, requires_grad=True)
    power = power_spectrum(frames, 8)
    power.sum().backward()
    assert not power.any()
    assert frames.grad is not None
    assert not frames.grad.any()


def _frames(count: int, samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, samples, dtype=torch.float64, generator=generator).requires_grad_()
