"""SNR and PSNR against what can be reckoned by hand."""

import math

import pytest
import torch

from avrobust_core.report.likeness import psnr_db, snr_db


def test_the_ratio_of_a_tone_to_a_change_of_every_sample_is_that_of_their_powers() -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 100 * torch.arange(8000) / 8000)[None]
    # The power of a tone of amplitude a is a^2 / 2, that of a change by d of every sample is d^2.
    signs = torch.tensor([1.0, -1.0]).repeat(4000)
    assert snr_db(tone, tone + 0.005 * signs) == pytest.approx(10 * math.log10(0.125 / 0.005**2), abs=1e-4)
    assert snr_db(tone, tone / 2) == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert snr_db(tone, tone) == math.inf
    assert snr_db(torch.zeros(1, 9), torch.full((1, 9), 0.1)) == -math.inf
    assert snr_db(torch.zeros(1, 9), torch.zeros(1, 9)) == math.inf


def test_the_peak_ratio_does_not_know_the_picture_but_the_span_of_its_values() -> None:
    picture = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    assert psnr_db(picture, picture + 4 / 255, 1.0) == pytest.approx(20 * math.log10(255 / 4), abs=1e-4)
    assert psnr_db(picture, picture + 4 / 255, 2.0) == pytest.approx(20 * math.log10(2 * 255 / 4), abs=1e-4)
    half = picture.clone()
    half[:, 0] += 4 / 255  # half of the values: half the mean square
    assert psnr_db(picture, half, 1.0) == pytest.approx(20 * math.log10(255 / 4) + 10 * math.log10(2), abs=1e-4)
    assert psnr_db(picture, picture, 1.0) == math.inf
