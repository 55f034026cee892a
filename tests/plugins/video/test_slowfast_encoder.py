"""The `slowfast` video encoders: R50 as published, pathways that stay aligned, gradients, independence, weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avrobust_video.configs import SlowFastConfig, SlowFastTinyConfig
from avrobust_video.plugin import avrobust_encoders
from avrobust_video.sizes import SIZES
from avrobust_video.slowfast import SlowFast, _kept_slow_frames, slow_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avrobust_core import Component, DataError, Encoder, MediaSpec

COMPONENTS: dict[str, Component] = {component.name: component for component in avrobust_encoders()}
SPEC = MediaSpec(kind="video", shape=(3, 8, 32, 32), rate=8, bounds=(0, 1))


def build(name: str = "slowfast-tiny", media: MediaSpec = SPEC, seed: int = 0, **fields: object) -> Encoder:
    torch.manual_seed(seed)
    return COMPONENTS[name].make(COMPONENTS[name].config(**fields), media)


def clips(n: int = 3, frames: int = 8, size: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def trained(encoder: Encoder) -> Encoder:
    """The encoder with statistics and residual branches that are not those of its start, as after training."""
    generator = torch.Generator().manual_seed(5)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    encoder.train()
    with torch.no_grad():
        encoder(clips(8))
    return encoder.eval()


def r50_parameters() -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight of PyTorchVideo's slowfast_r50 before its head, written out from its layout."""
    convs: dict[str, tuple[str, tuple[int, ...]]] = {}  # name of the convolution -> (its normalisation, its shape)
    widths, laterals = ((64, 256, 512, 1024), (8, 32, 64, 128)), ((16, 8), (64, 32), (128, 64), (256, 128))
    for p, (out, kernel) in enumerate(((64, (1, 7, 7)), (8, (5, 7, 7)))):
        stem = f"blocks.0.multipathway_blocks.{p}."
        convs[f"{stem}conv"] = (f"{stem}norm", (out, 3, *kernel))
    for b, (out, fast) in enumerate(laterals):
        lateral = f"blocks.{b}.multipathway_fusion."
        convs[f"{lateral}conv_fast_to_slow"] = (f"{lateral}norm", (out, fast, 7, 1, 1))
    slow_inputs, inner, depths = (80, 320, 640, 1280), ((64, 128, 256, 512), (8, 16, 32, 64)), (3, 4, 6, 3)
    temporal = ((1, 1, 3, 3), (3, 3, 3, 3))
    for s in range(4):
        for p in range(2):
            width = inner[p][s]
            for i in range(depths[s]):
                block = f"blocks.{s + 1}.multipathway_blocks.{p}.res_blocks.{i}."
                inputs = 4 * width if i else (slow_inputs[s] if p == 0 else widths[1][s])
                if i == 0:
                    convs[f"{block}branch1_conv"] = (f"{block}branch1_norm", (4 * width, inputs, 1, 1, 1))
                for letter, shape in (
                    ("a", (width, inputs, temporal[p][s], 1, 1)),
                    ("b", (width, width, 1, 3, 3)),
                    ("c", (4 * width, width, 1, 1, 1)),
                ):
                    convs[f"{block}branch2.conv_{letter}"] = (f"{block}branch2.norm_{letter}", shape)
    state: dict[str, tuple[int, ...]] = {}
    for conv, (norm, shape) in convs.items():
        state[f"{conv}.weight"] = shape
        state |= {f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
        state[f"{norm}.num_batches_tracked"] = ()
    return state


@pytest.fixture(scope="module")
def r50() -> Encoder:
    return build("slowfast", MediaSpec(kind="video", shape=(3, 32, 224, 224), rate=15))


def test_r50_has_the_size_of_the_published_network(r50: Encoder) -> None:
    head = nn.Linear(r50.dims.embed, 400)
    assert sum(p.numel() for module in (r50, head) for p in module.parameters()) == 34_566_488
    assert len(r50.state_dict()) + len(head.state_dict()) == 662
    assert r50.dims.embed == r50.dims.token == 2304


def test_r50_has_the_names_and_shapes_of_the_published_weights(r50: Encoder) -> None:
    assert {name: tuple(value.shape) for name, value in r50.state_dict().items()} == r50_parameters()


def test_r50_strides_where_the_published_network_does(r50: Encoder) -> None:
    shapes: list[tuple[torch.Size, torch.Size]] = []
    assert isinstance(r50, SlowFast)
    hooks = [
        block.register_forward_hook(lambda _, __, out: shapes.append((out[0].shape[1:], out[1].shape[1:])))
        for block in r50.blocks
    ]
    r50.eval()
    with torch.no_grad():
        out = r50(clips(1, frames=8, size=64))
    for hook in hooks:
        hook.remove()
    assert shapes == [
        ((80, 2, 16, 16), (8, 8, 16, 16)),
        ((320, 2, 16, 16), (32, 8, 16, 16)),
        ((640, 2, 8, 8), (64, 8, 8, 8)),
        ((1280, 2, 4, 4), (128, 8, 4, 4)),
        ((2048, 2, 2, 2), (256, 8, 2, 2)),
    ]
    assert out.tokens.shape == (1, 2, 2304)
    convs = {name: module for name, module in r50.named_modules() if isinstance(module, nn.Conv3d)}
    strided = [name for name, conv in convs.items() if conv.stride == (1, 2, 2)]
    assert len(strided) == 2 + 2 * 2 * 3  # both stems; the shortcut and conv_b of the first block of stages 2 to 4
    assert all(
        name.endswith(("blocks.0.conv", "blocks.1.conv", "0.branch1_conv", "0.branch2.conv_b")) for name in strided
    )
    assert {conv.stride for name, conv in convs.items() if "fast_to_slow" in name} == {(4, 1, 1)}
    assert all(module.eps == 1e-5 for module in r50.modules() if isinstance(module, nn.BatchNorm3d))


@pytest.mark.parametrize("frames", [8, 16, 32, 64, 128])
def test_the_slow_pathway_sees_the_frames_of_pack_pathway(frames: int) -> None:
    expected = torch.linspace(0, frames - 1, frames // 4).long()
    assert torch.equal(slow_frames(frames, 4, torch.device("cpu")), expected)


@given(frames=st.integers(1, 200), alpha=st.integers(1, 16))
def test_slow_frames_are_distinct_and_ordered_from_the_first(frames: int, alpha: int) -> None:
    index = slow_frames(frames, alpha, torch.device("cpu")).tolist()
    assert len(index) == -(-frames // alpha)
    assert index[0] == 0
    assert index == sorted(set(index))
    assert index[-1] == (frames - 1 if len(index) > 1 else 0)


@given(frames=st.integers(1, 13), alpha=st.integers(1, 5), height=st.integers(16, 24), width=st.integers(16, 24))
@settings(max_examples=20)
def test_pathways_stay_aligned_at_every_size(frames: int, alpha: int, height: int, width: int) -> None:
    encoder = SlowFast(SlowFastTinyConfig(alpha=alpha), MediaSpec(kind="video", shape=(3, 30, 32, 32))).eval()
    with torch.no_grad():
        out = encoder(torch.rand(2, 3, frames, height, width))
    assert out.tokens.shape == (2, -(-frames // alpha), encoder.dims.token)
    assert out.pooled.shape == (2, encoder.dims.embed)
    assert out.pooled.isfinite().all()


def test_the_embedding_is_the_average_over_time_of_both_pathways() -> None:
    encoder = trained(build())
    out = encoder(clips())
    torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))  # alpha divides 8, so every frame counts alike


def test_a_frame_that_the_slow_pathway_skips_changes_what_is_seen_around_it() -> None:
    encoder = trained(build(media=MediaSpec(kind="video", shape=(3, 32, 32, 32))))
    x = clips(1, frames=32)
    moved = x.clone()
    assert 2 not in slow_frames(32, 4, torch.device("cpu"))
    moved[:, :, 2] = 1 - moved[:, :, 2]
    changed = (encoder(x).tokens - encoder(moved).tokens).abs().amax(dim=2)[0] > 1e-7
    assert changed[0]
    assert not changed[-1]


def test_lateral_connections_tell_the_slow_pathway_of_frames_that_it_skips() -> None:
    encoder = trained(build())
    x = clips(1)
    moved = x.clone()
    assert 3 not in slow_frames(8, 4, torch.device("cpu"))
    moved[:, :, 3] = 1 - moved[:, :, 3]
    slow = SIZES["tiny"].slow_out
    change = (encoder(x).tokens - encoder(moved).tokens).abs()[..., :slow]
    assert change.max() > 1e-4


def test_the_order_of_frames_matters() -> None:
    encoder = trained(build())
    x = clips(1)
    assert (encoder(x).pooled - encoder(x.flip(2)).pooled).abs().max() > 1e-4


def test_the_frontend_is_the_normalised_clip() -> None:
    encoder = build()
    x = clips()
    torch.testing.assert_close(encoder.frontend(x), (x - 0.45) / 0.225)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = encoder.frontend(x)
        narrow = encoder.frontend(x.bfloat16())
    assert under.dtype == narrow.dtype == torch.float32
    assert torch.equal(under, encoder.frontend(x))


def test_gradient_agrees_with_finite_differences() -> None:
    encoder = trained(build(media=MediaSpec(kind="video", shape=(3, 4, 16, 16)))).double()
    head = nn.Linear(encoder.dims.embed, 1).double()
    for seed in range(3):
        x = clips(1, frames=4, size=16, seed=seed).double()
        direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

        def f(x: Tensor) -> Tensor:
            return head(encoder(x).pooled).sum()

        x.requires_grad_()
        (gradient,) = torch.autograd.grad(f(x), x)
        with torch.no_grad():
            measured = (f(x + 1e-7 * direction) - f(x - 1e-7 * direction)) / 2e-7
        torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.45, 1.0, None])
def test_gradient_reaches_every_frame_and_is_finite(value: float | None) -> None:
    encoder = trained(build())
    x = (clips() if value is None else torch.full((3, 3, 8, 32, 32), value)).requires_grad_()
    out = encoder(x)
    (gradient,) = torch.autograd.grad(out.pooled.square().sum() + out.tokens.square().sum(), x)
    assert gradient.isfinite().all()
    if value is None:
        assert (gradient.abs().amax(dim=(1, 3, 4)) > 0).all()


def test_a_clip_that_was_first_seen_in_inference_mode_can_be_learned_from() -> None:
    _kept_slow_frames.cache_clear()
    encoder = trained(build())
    _kept_slow_frames.cache_clear()
    with torch.inference_mode():
        encoder(clips())
    encoder(clips().requires_grad_()).pooled.sum().backward()


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_clip_does_not_depend_on_its_batch_mates(size: str) -> None:
    encoder = trained(build(size=size, dropout=0.5))
    x = clips(4)
    together = encoder(x)
    for i in range(4):
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
    stem = "blocks.0.multipathway_blocks.0.conv.weight"
    assert not torch.equal(one[stem], other[stem])


def test_weights_round_trip_through_safetensors(tmp_path: Path) -> None:
    encoder = trained(build())
    save_file(encoder.state_dict(), tmp_path / "slowfast.safetensors")
    other = build(seed=9).eval()
    other.load_state_dict(load_file(tmp_path / "slowfast.safetensors"))
    assert torch.equal(encoder(clips()).pooled, other(clips()).pooled)


@pytest.mark.parametrize(
    ("spec", "fields", "says"),
    [
        (MediaSpec(kind="audio", shape=(1, 8000)), {}, "kind 'audio'"),
        (MediaSpec(kind="depth", shape=(3, 8, 32, 32)), {}, "kind 'depth'"),
        (MediaSpec(kind="video", shape=(1, 8, 32, 32)), {}, "shape \\(3, frames, height, width\\)"),
        (MediaSpec(kind="video", shape=(10, 2048)), {}, "shape \\(3, frames, height, width\\)"),
        (MediaSpec(kind="video", shape=(3, 3, 32, 32)), {}, "3 frames are too short for alpha 4"),
        (
            MediaSpec(kind="video", shape=(3, 8, 32, 7)),
            {},
            f"32x7 are too small .* at least {SIZES['tiny'].total_stride} ",
        ),
        (MediaSpec(kind="video", shape=(3, 8, 31, 32)), {"size": "r50"}, "31x32 are too small .* at least 32 pixels"),
    ],
)
def test_refuses_what_it_cannot_read(spec: MediaSpec, fields: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        build(media=spec, **fields)


@pytest.mark.parametrize("fields", [{"size": "huge"}, {"alpha": 0}, {"dropout": 1.0}, {"depth": 50}])
def test_refuses_settings_that_make_no_network(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SlowFastConfig(**fields)


@pytest.mark.parametrize("size", SIZES)
def test_space_is_pooled_as_the_layout_says(size: str) -> None:
    encoder = build("slowfast", size=size).eval()
    assert isinstance(encoder, SlowFast)
    last: list[Tensor] = []
    encoder.blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0]))
    with torch.no_grad():
        tokens = encoder(clips(1)).tokens
    maps = last[0].flatten(3)
    expected = maps.amax(dim=3) if SIZES[size].window is None else maps.mean(dim=3)
    torch.testing.assert_close(tokens[..., : SIZES[size].slow_out], expected.transpose(1, 2))


@pytest.mark.parametrize("size", SIZES)
def test_the_total_stride_is_that_of_the_network(size: str) -> None:
    encoder, stride = build("slowfast", size=size).eval(), SIZES[size].total_stride
    assert isinstance(encoder, SlowFast)
    last: list[torch.Size] = []
    encoder.blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0].shape))
    with torch.no_grad():
        encoder(clips(1, frames=4, size=2 * stride))
    assert last[0][3:] == (2, 2)


def test_the_bare_names_have_their_sizes() -> None:
    assert SlowFastConfig().size == "r50"
    assert SlowFastTinyConfig().size == "tiny"
    assert build("slowfast", size="tiny").dims == build("slowfast-tiny").dims
    assert build("slowfast", size="small").dims.embed > build("slowfast-tiny").dims.embed


def test_the_examples_are_configurations_that_build() -> None:
    features = MediaSpec(kind="video", shape=(10, 2048))
    for name, component in COMPONENTS.items():
        media = features if name == "frame-transformer" else SPEC
        assert isinstance(build(name, media, **component.example), Encoder)


def test_naming_the_encoders_imports_nothing_heavy() -> None:
    code = (
        "import sys, avrobust_video.plugin as plugin; list(plugin.avrobust_encoders());"
        "print(*{'torch', 'torchaudio', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
