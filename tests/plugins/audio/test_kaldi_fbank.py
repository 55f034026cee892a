"""The filter bank of AST and CAV-MAE is torchaudio's, in values and gradients, and refuses what it cannot read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torchaudio.compliance import kaldi

from avrobust_core import DataError, KaldiFbank, MediaSpec

Make = Callable[..., Any]
Clips = Callable[..., Tensor]

MEDIA = MediaSpec(kind="audio", shape=(1, 16_000), rate=16_000)
MEAN, SCALE = -4.2677393, 2 * 4.5689974


def plain(clip: Tensor, frames: int) -> Tensor:
    """One clip (1, T), as AST's code reads it."""
    found = kaldi.fbank(
        clip - clip.mean(),
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    return (F.pad(found[:frames], (0, 0, 0, max(frames - len(found), 0))) - MEAN) / SCALE


@pytest.mark.parametrize(("samples", "frames"), [(16_000, 98), (16_000, 130), (16_123, 64), (400, 16), (559, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 1e-13)])
def test_is_torchaudios_in_values_and_gradients(
    clips: Clips, samples: int, frames: int, dtype: torch.dtype, tolerance: float
) -> None:
    fbank = KaldiFbank(MEDIA, frames=frames, mean=MEAN, scale=SCALE).to(dtype)
    ours, theirs = (clips(3, samples).to(dtype).requires_grad_() for _ in range(2))
    found = fbank(ours)
    expected = torch.stack([plain(clip, frames) for clip in theirs])[:, None]
    assert found.shape == (3, 1, frames, 128)
    weights = torch.randn(found.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    gradients = [
        torch.autograd.grad((features * weights).sum(), x)[0] for features, x in ((found, ours), (expected, theirs))
    ]
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    assert float((gradients[0] - gradients[1]).abs().max()) <= tolerance * float(gradients[1].abs().max())


def test_is_what_transformers_extracts_for_ast(clips: Clips, make: Make) -> None:
    extractor = transformers.ASTFeatureExtractor(max_length=120)
    wanted = extractor([np.asarray(clip[0]) for clip in clips()], sampling_rate=16_000, return_tensors="pt")
    found = make("ast", frames=120, width=16, depth=1, heads=2).frontend(clips())
    torch.testing.assert_close(found[:, 0], wanted["input_values"], rtol=1e-4, atol=1e-4)


def test_padding_is_zero_before_the_normalisation(clips: Clips) -> None:
    fbank = KaldiFbank(MEDIA, frames=100, mean=-5.0, scale=4.0)
    found = fbank(clips(1, 400 + 9 * 160))
    assert torch.equal(found[:, :, 10:], torch.full((1, 1, 90, 128), 5 / 4))
    assert not torch.isclose(found[:, :, :10], torch.tensor(5 / 4)).all(dim=3).any()


def test_cav_mae_divides_by_one_standard_deviation_and_ast_by_two(clips: Clips, make: Make) -> None:
    sizes = {"frames": 96, "width": 16, "depth": 1, "heads": 2}
    logs = KaldiFbank(MEDIA, frames=96, mean=0.0, scale=1.0)(clips())
    torch.testing.assert_close(make("cav-mae-audio", **sizes).frontend(clips()), (logs + 5.081) / 4.4849)
    torch.testing.assert_close(make("ast", **sizes).frontend(clips()), (logs + 4.2677393) / (2 * 4.5689974))


def test_channels_are_averaged(clips: Clips) -> None:
    fbank = KaldiFbank(MEDIA, frames=20, mean=MEAN, scale=SCALE)
    stereo = clips(2, 4_000, channels=2)
    torch.testing.assert_close(fbank(stereo), fbank(stereo.mean(dim=1, keepdim=True)))


def test_is_in_float32_under_autocast_and_keeps_nothing_with_the_weights(clips: Clips) -> None:
    fbank = KaldiFbank(MEDIA, frames=20, mean=MEAN, scale=SCALE)
    expected = fbank(clips(1, 4_000))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fbank(clips(1, 4_000)), expected)
    assert not fbank.state_dict()


@pytest.mark.parametrize("shape", [(1, 399), (16_000,), (2, 1, 1, 16_000)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least 400 samples"):
        KaldiFbank(MEDIA, frames=20, mean=MEAN, scale=SCALE)(torch.zeros(*shape))


@pytest.mark.parametrize("name", ["ast", "cav-mae-audio"])
@pytest.mark.parametrize(
    ("kind", "shape", "rate", "message"),
    [
        ("audio", (1, 16_000), 8_000, "audio of 16000 Hz.* and this has 8000 Hz; resample"),
        ("audio", (1, 16_000), None, "no sample rate; resample"),
        ("audio", (1, 399), 16_000, "at least 400 are needed; use longer clips"),
        ("audio", (1, 98, 128), 16_000, "reads waveforms"),
        ("video", (1, 16_000), 16_000, "give this modality another encoder"),
    ],
)
def test_encoders_refuse_other_media(
    make: Make, name: str, kind: str, shape: tuple[int, ...], rate: float | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(name, MediaSpec(kind=kind, shape=shape, rate=rate), frames=96)
