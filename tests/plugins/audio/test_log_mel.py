"""The log-mel front end: agrees with its definition, is differentiable everywhere, refuses what it cannot read."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchlibrosa
from avrobust_audio.configs import CnnConfig, LogMelConfig
from avrobust_audio.frontend import LogMel, count_empty, mel_filters
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AvrobustError, DataError, MediaSpec


def media(samples: int = 8000, rate: float | None = 8000, channels: int = 1) -> MediaSpec:
    return MediaSpec(kind="audio", shape=(channels, samples), rate=rate, bounds=(-1, 1))


def noise(*shape: int, scale: float = 0.1, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: 200/3 Hz per mel up to 1000 Hz, then 27 mels per factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def decibels_by_definition(x: NDArray[np.float64], frontend: LogMel, rate: int, f_min: float, f_max: float) -> Any:
    n_fft, window = frontend.n_fft, len(frontend.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    left = (n_fft - window) // 2
    hann = np.pad(hann, (left, n_fft - window - left))
    padded = np.pad(x, n_fft // 2, mode="reflect")
    starts = range(0, len(padded) - n_fft + 1, frontend.hop)
    power = np.stack([np.abs(np.fft.rfft(hann * padded[s : s + n_fft])) ** 2 for s in starts])
    edges = slaney_hz(np.linspace(slaney_mel(f_min), slaney_mel(f_max), frontend.n_mels + 2))
    hz = np.linspace(0, rate / 2, n_fft // 2 + 1)
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.maximum(0, np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)))
        bands.append(triangle * 2 / (high - low))
    return 10 * np.log10(power @ np.stack(bands, axis=1) + 1e-10)


@pytest.mark.parametrize(("rate", "window_ms", "n_mels"), [(8000, 32.0, 64), (16000, 25.0, 40), (32000, 32.0, 64)])
def test_agrees_with_the_definition_in_numpy(rate: int, window_ms: float, n_mels: int) -> None:
    frontend = LogMel(LogMelConfig(window_ms=window_ms, n_mels=n_mels), media(4001, rate)).double()
    x = noise(1, 1, 4001).double()
    expected = decibels_by_definition(x[0, 0].numpy(), frontend, rate, 50.0, min(14000.0, rate / 2))
    ours = frontend(x)[0, 0].numpy()
    assert ours.shape == expected.shape == (frontend.frames(4001), n_mels)
    np.testing.assert_allclose(ours, expected, atol=1e-3)  # the window and the filters are kept in float32


def test_has_the_settings_of_panns_at_32_khz() -> None:
    frontend = LogMel(LogMelConfig(), media(32000, 32000))
    assert (frontend.n_fft, len(frontend.window), frontend.hop, frontend.n_mels) == (1024, 1024, 320, 64)


@given(st.integers(8, 5000))
@settings(max_examples=40)
def test_the_transform_is_the_smallest_power_of_two_that_holds_the_window(window: int) -> None:
    config = LogMelConfig(window_ms=window / 48, hop_ms=1 / 48, n_mels=1, f_min=0, f_max=24000)
    frontend = LogMel(config, media(48000, 48000))
    assert len(frontend.window) == window
    assert frontend.n_fft & (frontend.n_fft - 1) == 0
    assert frontend.n_fft // 2 < window <= frontend.n_fft


def test_channels_are_averaged() -> None:
    frontend = LogMel(LogMelConfig(), media(channels=2))
    x = noise(3, 2, 4000)
    torch.testing.assert_close(frontend(x), frontend(x.mean(dim=1, keepdim=True)))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1e-5, 1.0])
def test_gradient_is_finite_however_quiet_the_clip(scale: float) -> None:
    frontend = LogMel(LogMelConfig(), media())
    x = (scale * noise(2, 1, 4000, scale=1.0)).requires_grad_()
    (gradient,) = torch.autograd.grad(frontend(x).sum(), x)
    assert frontend(x).isfinite().all()
    assert gradient.isfinite().all()
    if scale >= 1e-8:
        assert (gradient.flatten(1).norm(dim=1) > 0).all()  # not cut off by the floor


def test_silence_is_the_floor() -> None:
    frontend = LogMel(LogMelConfig(), media())
    torch.testing.assert_close(frontend(torch.zeros(1, 1, 4000)), torch.full((1, 1, 51, 64), -100.0))


def test_is_computed_in_float32_under_autocast() -> None:
    frontend = LogMel(LogMelConfig(), media())
    x = noise(2, 1, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = frontend(x)
        narrow = frontend(x.bfloat16())
    assert under.dtype == narrow.dtype == torch.float32
    assert torch.equal(under, frontend(x))


def panns_front_end(rate: int) -> tuple[LogMel, Any]:
    """Ours, clamped, and torchlibrosa's, with the settings of the published networks."""
    window, hop, f_max = {32000: (1024, 320, 14000), 16000: (512, 160, 8000), 8000: (256, 80, 4000)}[rate]
    frontend = LogMel(LogMelConfig(floor="clamped"), media(rate, rate))
    power = torchlibrosa.Spectrogram(n_fft=window, hop_length=hop, win_length=window, freeze_parameters=True)
    mel = torchlibrosa.LogmelFilterBank(
        sr=rate, n_fft=window, n_mels=64, fmin=50, fmax=f_max, ref=1.0, amin=1e-10, top_db=None, freeze_parameters=True
    )
    return frontend, lambda x: mel(power(x[:, 0]))


@pytest.mark.parametrize("rate", [32000, 16000, 8000])
@pytest.mark.parametrize("scale", [0.3, 1e-3, 1e-5])
def test_clamped_it_is_torchlibrosas_in_values_and_gradients(rate: int, scale: float) -> None:
    frontend, theirs = panns_front_end(rate)
    x = noise(2, 1, rate // 2, scale=scale)
    x[0, :, 1000:3000] = 0
    found = []
    for f in (frontend, theirs):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        found.append((y.detach(), torch.autograd.grad((y * weights).sum(), leaf)[0]))
    (ours, our_gradient), (expected, gradient) = found
    assert (expected <= -99.99).any()  # some of it is below the floor
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)
    assert (our_gradient - gradient).abs().max() < 1e-4 * gradient.abs().max()
    assert torch.equal(our_gradient == 0, gradient == 0)


def test_clamped_power_below_the_floor_has_no_gradient_and_added_it_has() -> None:
    for floor, seen in (("clamped", False), ("added", True)):
        frontend = LogMel(LogMelConfig(floor=floor), media())
        x = noise(1, 1, 4000, scale=1e-7).requires_grad_()
        (gradient,) = torch.autograd.grad(frontend(x).sum(), x)
        assert bool((gradient != 0).any()) == seen


def test_the_floors_agree_to_half_a_decibel_from_minus_90_upwards() -> None:
    added, clamped = (LogMel(LogMelConfig(floor=floor), media()) for floor in ("added", "clamped"))
    x = torch.cat([noise(4, 1, 4000, scale=10.0**-k, seed=k) for k in range(6)])
    loud = clamped(x) >= -90
    assert loud.any()
    assert (added(x) - clamped(x))[loud].abs().max() < 0.5
    assert CnnConfig().floor == "added"


def test_nothing_of_it_is_saved_with_the_weights() -> None:
    assert not LogMel(LogMelConfig(), media()).state_dict()


def test_empty_bands_are_an_error_that_says_how_many_would_fit() -> None:
    with pytest.raises(AvrobustError, match=r"\d+ of 64 mel bands .* lower n_mels to at most (\d+)") as caught:
        LogMel(LogMelConfig(window_ms=8, hop_ms=8), media())
    fitting = int(str(caught.value).rsplit(" ", 1)[1])
    assert LogMel(LogMelConfig(window_ms=8, hop_ms=8, n_mels=fitting), media()).n_mels == fitting
    with pytest.raises(AvrobustError):
        LogMel(LogMelConfig(window_ms=8, hop_ms=8, n_mels=fitting + 1), media())


def test_a_range_without_any_frequency_is_an_error() -> None:
    with pytest.raises(AvrobustError, match="lower f_min, or raise f_max"):
        LogMel(LogMelConfig(f_min=1001, f_max=1002), media())


@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000]),
    window_ms=st.floats(4, 64),
    n_mels=st.integers(1, 128),
)
@settings(max_examples=40)
def test_no_band_is_ever_empty(rate: int, window_ms: float, n_mels: int) -> None:
    config = LogMelConfig(window_ms=window_ms, hop_ms=4, n_mels=n_mels)
    try:
        frontend = LogMel(config, media(rate, rate))
    except AvrobustError:
        window = round(window_ms * rate / 1000)
        n_fft = 2 ** math.ceil(math.log2(window))
        assert count_empty(mel_filters(n_fft, rate, n_mels, 50.0, min(14000.0, rate / 2))) > 0
    else:
        assert (frontend.filters.sum(dim=0) > 0).all()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_the_defaults_fit_the_usual_sample_rates(rate: int) -> None:
    LogMel(CnnConfig(), media(rate, rate))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (MediaSpec(kind="video", shape=(3, 8, 32, 32), rate=8), "kind 'video'"),
        (MediaSpec(kind="audio", shape=(1, 100, 64), rate=8000), "waveforms"),
        (media(rate=None), "sample rate"),
        (media(rate=8000.5), "whole Hz"),
    ],
)
def test_refuses_what_is_no_waveform(spec: MediaSpec, says: str) -> None:
    with pytest.raises(DataError, match=says):
        LogMel(LogMelConfig(), spec)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"f_max": 4001}, "half the sample rate, 4000"),
        ({"f_min": 5000}, "f_max must be above f_min"),
        ({"window_ms": 0.2, "hop_ms": 0.2}, "samples"),
        ({"hop_ms": 0.01}, "0 samples"),
    ],
)
def test_refuses_settings_that_do_not_fit_the_sample_rate(fields: dict[str, float], says: str) -> None:
    with pytest.raises(AvrobustError, match=says):
        LogMel(LogMelConfig(**fields), media())


@pytest.mark.parametrize("fields", [{"f_min": 100, "f_max": 100}, {"hop_ms": 40}, {"n_mels": 0}, {"mels": 64}])
def test_refuses_settings_that_fit_nothing(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        LogMelConfig(**fields)


@pytest.mark.parametrize("shape", [(1, 1, 128), (1, 4000), (1, 1, 1, 4000)])
def test_refuses_other_shapes_and_too_short_waveforms(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least 129 samples"):
        LogMel(LogMelConfig(), media())(torch.zeros(shape))


def test_reads_the_shortest_waveform_that_it_names() -> None:
    frontend = LogMel(LogMelConfig(), media())
    assert frontend(noise(1, 1, frontend.shortest)).shape == (1, 1, frontend.frames(frontend.shortest), 64)
