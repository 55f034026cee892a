"""`audio-patches`: a linear map of each patch, with its position, for clips of any length."""

import pytest
import torch
from avrobust_audio.configs import PatchesConfig
from avrobust_audio.patches import AudioPatches
from avrobust_audio.plugin import avrobust_encoders
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import DataError, MediaSpec, sinusoids


def build(samples: int = 8_000, **fields: object) -> AudioPatches:
    component = next(c for c in avrobust_encoders() if c.name == "audio-patches")
    torch.manual_seed(0)
    media = MediaSpec(kind="audio", shape=(1, samples), rate=8_000, bounds=(-1, 1), time_axis=1)
    encoder = component.make(component.config(**fields), media)
    assert isinstance(encoder, AudioPatches)
    return encoder.eval()


def clips(n: int = 2, samples: int = 8_000) -> Tensor:
    return 0.1 * torch.randn(n, 1, samples, generator=torch.Generator().manual_seed(1))


def test_tokens_are_a_strided_convolution_plus_positions() -> None:
    encoder = build(n_mels=32, patch_frames=4, patch_mels=8, width=10)
    features = torch.randn(2, 1, 12, 32)
    with torch.no_grad():
        out = encoder.encode(features)
        kernels = encoder.proj.weight.view(10, 1, 4, 8)
        grid = F.conv2d(features / (1 + 1e-5) ** 0.5, kernels, encoder.proj.bias, stride=(4, 8))  # (2, 10, 3, 4)
        expected = grid.permute(0, 2, 3, 1) + sinusoids(torch.arange(3), 10)[:, None] + encoder.pos_bands
    assert out.tokens.shape == (2, 12, 10)
    torch.testing.assert_close(out.tokens, expected.flatten(1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))


def test_tokens_are_affine_in_the_features() -> None:
    encoder = build(width=8)
    one, other = encoder.frontend(clips()), encoder.frontend(clips().flip(0))
    with torch.no_grad():
        middle = encoder.encode(0.3 * one + 0.7 * other).tokens
        torch.testing.assert_close(
            middle, 0.3 * encoder.encode(one).tokens + 0.7 * encoder.encode(other).tokens, rtol=1e-4, atol=1e-3
        )


def test_a_sound_in_one_moment_changes_the_tokens_of_that_moment_only() -> None:
    encoder = build(width=8)
    quiet = clips(1)
    loud = quiet.clone()
    loud[..., 5 * 1280 + 500 : 5 * 1280 + 600] += 0.5  # in the sixth patch of 16 frames of 80 samples
    with torch.no_grad():
        changed = (encoder(quiet).tokens != encoder(loud).tokens).any(dim=2)[0].view(-1, 4).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize(("samples", "steps"), [(1_000, 1), (1_279, 1), (1_280, 2), (8_000, 7), (8_001, 7)])
def test_reads_clips_of_any_length_to_the_last_frame(samples: int, steps: int) -> None:
    encoder = build(samples, width=8)
    x = clips(1, samples).requires_grad_()
    tokens = encoder(x).tokens
    assert tokens.shape == (1, 4 * steps, 8)
    (gradient,) = torch.autograd.grad(tokens.square().sum(), x)
    assert (gradient[..., -40:] != 0).any()


def test_the_same_sound_later_has_the_same_token_but_for_its_position() -> None:
    encoder = build(width=8)
    features = torch.randn(1, 1, 16, 64).repeat(1, 1, 2, 1)
    with torch.no_grad():
        first, second = encoder.encode(features).tokens[0].view(2, 4, 8)
    times = sinusoids(torch.arange(2), 8)
    torch.testing.assert_close(first - times[0], second - times[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, second)


def test_refuses_clips_shorter_than_the_window_and_patches_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="at least 129"):
        build(128)
    with pytest.raises(ValueError, match="multiple of patch_mels 24"):
        PatchesConfig(patch_mels=24)
