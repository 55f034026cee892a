"""SSIM against its closed forms and a plain loop over windows; flicker."""

import math

import pytest
import torch
from avrobust_perceptual.pictures import flicker, ssim
from torch import Tensor


def plain(x: Tensor, y: Tensor) -> float:
    """SSIM of two pictures (H, W), as the paper's equations say it, one window after the other."""
    place = range(-5, 6)
    weights = torch.tensor([[math.exp(-(a * a + b * b) / (2 * 1.5**2)) for b in place] for a in place]).double()
    weights /= weights.sum()
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            lightness = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
            found.append(float(lightness * (2 * cov + 9e-4) / (vp + vq + 9e-4)))
    return sum(found) / len(found)


def test_ssim_is_that_of_the_papers_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 1, 14, 17, generator=generator)
    y = (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    assert float(ssim(x, y)) == pytest.approx(plain(x[0, 0, 0].double(), y[0, 0, 0].double()), abs=1e-10)


def test_ssim_of_a_clip_with_itself_is_one_and_it_is_symmetric() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(2, 3, 4, 20, 24, generator=generator) for _ in range(2))
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(ssim(x, y), ssim(y, x))
    assert (ssim(x, y) < 0.2).all()


def test_ssim_of_constant_pictures_is_its_luminance() -> None:
    x, y = torch.full((1, 3, 2, 16, 16), 0.25), torch.full((1, 3, 2, 16, 16), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(ssim(x, y)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_a_contrast_of_zero_mean_pattern_is_its_structure() -> None:
    """A chequerboard around 0.5 and the same at half the contrast: means alike, so that only structure counts."""
    board = ((torch.arange(24)[:, None] + torch.arange(24)) % 2 * 2 - 1).double() * 0.2
    x, y = (0.5 + scale * board[None, None, None] for scale in (1.0, 0.5))
    variance = 0.2**2
    expected = (2 * 0.5 * variance + 9e-4) / (variance * 1.25 + 9e-4)
    assert float(ssim(x, y)) == pytest.approx(expected, abs=1e-4)


def test_a_clips_ssim_is_the_mean_over_frames_and_not_of_its_batch_mates() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.rand(3, 3, 4, 16, 16, generator=generator) for _ in range(2))
    frames = torch.stack([ssim(x[:, :, t : t + 1], y[:, :, t : t + 1]) for t in range(4)])
    assert torch.allclose(ssim(x, y), frames.mean(dim=0))
    assert torch.allclose(ssim(x, y)[1:2], ssim(x[1:2], y[1:2]))


def test_small_frames_and_wrong_shapes() -> None:
    assert ssim(torch.rand(1, 3, 2, 6, 9), torch.rand(1, 3, 2, 6, 9)).isfinite().all()
    with pytest.raises(ValueError, match="two clips of pictures"):
        ssim(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))


def test_flicker_is_of_change_over_time_only() -> None:
    still = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 5, 8, 8)
    assert float(flicker(still)) == 0
    blinking = torch.zeros(1, 3, 5, 8, 8)
    blinking[:, :, ::2] = 4 / 255
    assert float(flicker(blinking)) == pytest.approx(4, abs=1e-5)
    assert float(flicker(blinking[:, :, :1])) == 0
