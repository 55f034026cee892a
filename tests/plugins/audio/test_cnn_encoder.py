"""The `cnn` audio encoder: shapes, gradients, independence of batch mates, weights that go to disk and back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avrobust_audio.blocks import ConvBlock
from avrobust_audio.cnn import Cnn
from avrobust_audio.configs import CnnConfig
from avrobust_audio.plugin import avrobust_encoders
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avrobust_core import DataError, Encoder, MediaSpec

SPEC = MediaSpec(kind="audio", shape=(1, 4000), rate=8000, bounds=(-1, 1))


def build(media: MediaSpec = SPEC, seed: int = 0, **fields: object) -> Encoder:
    component = next(c for c in avrobust_encoders() if c.name == "cnn")
    torch.manual_seed(seed)
    return component.make(component.config(**fields), media)


def clips(n: int = 3, samples: int = 4000, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(n, 1, samples, generator=torch.Generator().manual_seed(seed))


def trained(encoder: Encoder) -> Encoder:
    """The encoder with batch statistics that differ from their initial values, as after training."""
    encoder.train()
    with torch.no_grad():
        for seed in range(3):
            encoder(clips(8, seed=seed))
    return encoder.eval()


@pytest.mark.parametrize(("channels", "steps"), [((8,), 51), ((4, 8), 25), ((4, 8, 12), 12)])
def test_a_token_for_every_group_of_frames_and_one_embedding(channels: tuple[int, ...], steps: int) -> None:
    encoder = build(channels=channels, embed=10).eval()
    out = encoder(clips())
    assert out.tokens.shape == (3, steps, channels[-1])
    assert out.pooled.shape == (3, 10)
    assert (encoder.dims.token, encoder.dims.embed) == (channels[-1], 10)
    assert (out.pooled >= 0).all()


def test_the_embedding_is_made_of_the_maximum_and_the_mean_over_time() -> None:
    encoder = trained(build(channels=(4, 8), embed=10))
    assert isinstance(encoder, Cnn)
    out = encoder(clips())
    expected = torch.relu(encoder.fc1(out.tokens.amax(dim=1) + out.tokens.mean(dim=1)))
    torch.testing.assert_close(out.pooled, expected)


def test_a_sound_in_one_moment_changes_the_tokens_around_it_only() -> None:
    encoder = trained(build(channels=(4, 8)))
    quiet = clips(1)
    loud = quiet.clone()
    loud[..., 2000:2100] += 0.5
    changed = (encoder(quiet).tokens != encoder(loud).tokens).any(dim=2)[0]
    assert changed[12:13].all()
    assert not changed[:9].any()
    assert not changed[17:].any()


def test_blocks_are_those_of_panns() -> None:
    shapes = {name: tuple(p.shape) for name, p in ConvBlock(3, 5).named_parameters()}
    assert shapes == {
        "conv1.weight": (5, 3, 3, 3),
        "bn1.weight": (5,),
        "bn1.bias": (5,),
        "conv2.weight": (5, 5, 3, 3),
        "bn2.weight": (5,),
        "bn2.bias": (5,),
    }
    names = {name.split(".")[0] for name in build(channels=(4, 8)).state_dict()}
    assert names == {"bn0", "conv_block1", "conv_block2", "fc1"}


def test_bands_are_normalised_over_the_batch_while_training() -> None:
    encoder = build(channels=(4,)).train()
    assert isinstance(encoder, Cnn)
    seen: list[Tensor] = []
    encoder.get_submodule("conv_block1").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(clips(8))
    per_band = seen[0].transpose(1, 3).flatten(2).transpose(0, 1).flatten(1)  # (bands, clips x frames)
    torch.testing.assert_close(per_band.mean(dim=1), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(per_band.std(dim=1), torch.ones(64), atol=2e-2, rtol=0)


def test_gradient_agrees_with_finite_differences_from_the_waveform() -> None:
    encoder = trained(build(channels=(4, 8), embed=6)).double()
    head = nn.Linear(6, 1).double()
    for seed, scale in enumerate((1.0, 1e-2, 1e-4)):
        x = scale * clips(1, seed=seed).double()
        direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        step = 1e-6 * scale

        def f(x: Tensor) -> Tensor:
            return head(encoder(x).pooled).sum()

        x.requires_grad_()
        (gradient,) = torch.autograd.grad(f(x), x)
        with torch.no_grad():
            measured = (f(x + step * direction) - f(x - step * direction)) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-3, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_gradient_reaches_the_waveform_and_is_finite(scale: float) -> None:
    encoder = trained(build(channels=(4, 8)))
    x = (scale * clips()).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).pooled.sum(), x)
    assert gradient.isfinite().all()
    if scale:
        assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_a_clip_does_not_depend_on_its_batch_mates() -> None:
    encoder = trained(build(dropout=0.5))
    x = clips(5)
    together = encoder(x)
    for i in range(5):
        alone = encoder(x[i : i + 1])
        torch.testing.assert_close(together.tokens[i : i + 1], alone.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.pooled[i : i + 1], alone.pooled, atol=1e-5, rtol=1e-5)


def test_evaluation_draws_no_random_numbers_and_training_drops_out() -> None:
    encoder = trained(build(dropout=0.5))
    state = torch.get_rng_state()
    first = encoder(clips()).pooled
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, encoder(clips()).pooled)
    encoder.train()
    assert not torch.equal(encoder(clips()).pooled, encoder(clips()).pooled)


def test_initial_weights_depend_on_the_seed_only() -> None:
    one, same, other = build(seed=3).state_dict(), build(seed=3).state_dict(), build(seed=4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv_block1.conv1.weight"], other["conv_block1.conv1.weight"])


def test_weights_round_trip_through_safetensors(tmp_path: Path) -> None:
    encoder = trained(build())
    save_file(encoder.state_dict(), tmp_path / "cnn.safetensors")
    other = build(seed=9).eval()
    other.load_state_dict(load_file(tmp_path / "cnn.safetensors"))
    assert torch.equal(encoder(clips()).pooled, other(clips()).pooled)


@pytest.mark.parametrize(
    ("samples", "fields", "says"),
    [
        (128, {}, "too short for this window: at least 129"),
        (200, {"channels": (4, 4, 4)}, "3 frames are too few for 3 blocks"),
        (4000, {"channels": (4,) * 4, "n_mels": 7}, "7 mel bands are too few for 4 blocks"),
    ],
)
def test_refuses_clips_and_bands_too_few_for_its_pools(samples: int, fields: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        build(MediaSpec(kind="audio", shape=(1, samples), rate=8000), **fields)


def test_reads_the_shortest_clip_that_its_pools_allow() -> None:
    encoder = build(MediaSpec(kind="audio", shape=(1, 240), rate=8000), channels=(4, 4, 4)).eval()
    assert encoder(clips(samples=240)).tokens.shape == (3, 1, 4)
    with pytest.raises(DataError, match="too few"):
        encoder(clips(samples=239))


@pytest.mark.parametrize("fields", [{"channels": ()}, {"channels": (8, 0)}, {"embed": 0}, {"dropout": 1.0}])
def test_refuses_widths_that_make_no_network(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        CnnConfig(**fields)


def test_the_example_is_a_configuration_that_builds() -> None:
    component = next(c for c in avrobust_encoders() if c.name == "cnn")
    assert isinstance(component.make(component.config(**component.example), SPEC), Encoder)


def test_naming_the_encoders_imports_nothing_heavy() -> None:
    code = (
        "import sys, avrobust_audio.plugin as plugin; list(plugin.avrobust_encoders());"
        "print(*{'torch', 'torchaudio', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
