"""Masking: known facts of hearing, scaling, and limits that hold."""

import math

import pytest
import torch
from avrobust_perceptual.masking import Masking, bark, quiet
from torch import Tensor

RATE = 16000


def tone(hertz: float, amplitude: float, rate: float = RATE, seconds: float = 1.0) -> Tensor:
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * hertz * time))[None, None].float()


def test_the_threshold_in_quiet_is_terhardts() -> None:
    found = quiet(torch.tensor([100.0, 1000.0, 3300.0, 10000.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([22.953, 3.369, -4.981, 10.577], abs=2e-3)
    assert quiet(torch.tensor([3300.0])) < quiet(torch.tensor([1000.0]))  # the ear is keenest there


def test_bark_is_zwickers() -> None:
    assert bark(torch.tensor([1000.0, 4000.0])).tolist() == pytest.approx([8.51, 17.25], abs=0.05)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_tone_masks_what_is_near_it_and_more_above_than_below(rate: int) -> None:
    masking = Masking(rate)
    threshold = masking.threshold(tone(1000, 0.5, rate)).decibels[0, :, 4]
    hertz = masking.hertz

    def at(frequency: float) -> float:
        return float(threshold[(hertz - frequency).abs().argmin()])

    quietly = {f: float(quiet(torch.tensor(f, dtype=torch.float64))) for f in (200.0, 3000.0)}
    assert at(1000) > at(1300) > at(2000)
    # A level of 96 dB and its side bins, less 6.025 + 0.275 * 8.5 Bark.
    assert at(1000) == pytest.approx(96 + 1.76 - 6.025 - 0.275 * 8.51, abs=0.6)
    assert at(2000) > at(500) + 10  # masking reaches upwards
    assert at(200.0) == pytest.approx(quietly[200.0], abs=0.5)  # 6.7 Bark below: only the threshold in quiet is left
    assert at(3000.0) > quietly[3000.0] + 20


def test_a_masked_tone_is_not_heard_and_the_same_tone_elsewhere_is() -> None:
    masking = Masking(RATE)
    clean = tone(1000, 0.5)
    threshold = masking.threshold(clean)
    near, far = tone(1020, 0.002), tone(200, 0.002)
    faded = torch.hann_window(RATE, periodic=False)  # without a click at either end, which is heard everywhere
    assert masking.peak_excess(near * faded, threshold) < 0
    assert masking.audible_share(near * faded, threshold) == 0
    assert masking.peak_excess(far * faded, threshold) > 10
    assert masking.audible_share(far * faded, threshold) > 0.9
    assert masking.mean_excess(far * faded, threshold) > 0


def test_what_masks_a_silent_clip_is_the_threshold_in_quiet_alone() -> None:
    masking = Masking(RATE)
    threshold = masking.threshold(torch.zeros(1, 1, RATE)).decibels
    assert torch.allclose(threshold, masking.quiet[None, :, None].expand_as(threshold), atol=1e-6)
    assert masking.audible_share(torch.zeros(1, 1, RATE), masking.threshold(tone(1000, 0.5))) == 0


def test_the_threshold_does_not_depend_on_how_loud_a_recording_is_or_on_batch_mates() -> None:
    masking = Masking(RATE)
    noise = 0.1 * torch.randn(3, 2, 5000, generator=torch.Generator().manual_seed(0))
    whole = masking.threshold(noise)
    assert torch.allclose(whole.decibels, masking.threshold(0.25 * noise).decibels, atol=1e-6)
    assert torch.allclose(whole.decibels[4:], masking.threshold(noise[2:]).decibels)
    assert whole.decibels.isfinite().all()


def test_twice_the_perturbation_is_six_decibels_more() -> None:
    masking = Masking(RATE)
    generator = torch.Generator().manual_seed(1)
    clean, noise = (scale * torch.randn(2, 1, RATE, generator=generator) for scale in (0.1, 0.01))
    threshold = masking.threshold(clean)
    once, twice = (masking.peak_excess(factor * noise, threshold) for factor in (1, 2))
    assert torch.allclose(twice - once, torch.full_like(once, 20 * math.log10(2)))


@pytest.mark.parametrize("limit", [-6.0, 0.0, 12.0])
def test_what_is_turned_down_holds_the_limit_and_keeps_more_than_turning_it_down_whole(limit: float) -> None:
    masking = Masking(RATE)
    generator = torch.Generator().manual_seed(2)
    time = torch.arange(12345) / RATE
    clean = 0.3 * torch.sin(2 * math.pi * 700 * time) + 0.003 * torch.randn(2, 1, 12345, generator=generator)
    noise = 0.01 * torch.randn(2, 1, 12345, generator=generator)
    threshold = masking.threshold(clean)
    found = masking.below(noise, threshold, limit)
    assert found.shape == noise.shape
    assert (masking.peak_excess(found, threshold) <= limit + 1e-6).all()
    plain = noise * masking.shrink(noise, threshold, limit)[:, None, None]
    assert (found.flatten(1).norm(dim=1) > 1.8 * plain.flatten(1).norm(dim=1)).all()
    again = masking.below(found, threshold, limit + 1e-6)
    assert torch.equal(again, found)


def test_a_rate_that_nobody_hears_at_is_refused() -> None:
    with pytest.raises(ValueError, match="too low"):
        Masking(50)
