"""`cnn6`, `cnn10` and `cnn14`: published sizes and keys, checkpoints that load, and agreement with the original.

The original is no package: `PlainPanns` of benchmarks/encoders_audio.py is an independent plain version of it, written
from the paper on top of torchlibrosa, the original's own front end.
"""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from avrobust_audio.blocks import ConvBlock
from avrobust_audio.panns import Panns
from avrobust_audio.plugin import avrobust_encoders
from safetensors.torch import save_file
from torch import Tensor, nn

from avrobust_core import AVModel, DataError, MediaSpec, WeightsError
from avrobust_core.models.weights import load_checkpoint, load_fitting_head, read_checkpoint
from benchmarks.encoder_sides import errors
from benchmarks.encoders_audio import PlainPanns, make_clips, make_pair

NAMES = ("cnn6", "cnn10", "cnn14")
SIZES = {"cnn6": 4_837_455, "cnn10": 5_219_279, "cnn14": 80_753_615}


def media(samples: int, rate: float = 16_000) -> MediaSpec:
    return MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1, 1), time_axis=1)


def build(name: str, samples: int = 16_000, rate: float = 16_000, seed: int = 0, **fields: object) -> Panns:
    component = next(c for c in avrobust_encoders() if c.name == name)
    torch.manual_seed(seed)
    encoder = component.make(component.config(**fields), media(samples, rate))
    assert isinstance(encoder, Panns)
    return encoder.eval()


def published_keys(name: str) -> set[str]:
    blocks, convs = {"cnn6": (4, 1), "cnn10": (4, 2), "cnn14": (6, 2)}[name]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = {"spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight"}
    keys |= {"logmel_extractor.melW", "fc1.weight", "fc1.bias", "fc_audioset.weight", "fc_audioset.bias"}
    keys |= {f"bn0.{field}" for field in norm}
    for i in range(1, blocks + 1):
        for j in range(1, convs + 1):
            keys |= {f"conv_block{i}.conv{j}.weight", *(f"conv_block{i}.bn{j}.{field}" for field in norm)}
    return keys


@pytest.fixture(scope="module")
def plain() -> PlainPanns:
    torch.manual_seed(1)
    return PlainPanns("cnn6", 16_000).eval()


@pytest.mark.parametrize("name", NAMES)
def test_has_the_published_keys_and_parameters(name: str) -> None:
    plain, encoder = PlainPanns(name, 16_000), build(name)
    assert set(plain.state_dict()) == published_keys(name)
    converted = encoder.layouts[0].convert(plain.state_dict())
    own = {
        **encoder.state_dict(),
        **{f"head.{k}": v for k, v in nn.Linear(encoder.dims.embed, 527).state_dict().items()},
    }
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    model = AVModel({"audio": encoder}, None, 527)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name]


def test_cnn14_at_32_khz_has_the_published_84_keys_and_81853340_elements() -> None:
    state = PlainPanns("cnn14").state_dict()
    assert len(state) == 84
    assert sum(value.numel() for value in state.values()) == 81_853_340
    assert state["spectrogram_extractor.stft.conv_real.weight"].shape == (513, 1, 1024)


@pytest.mark.parametrize(
    ("name", "rate", "samples"),
    [
        ("cnn6", 8_000, 8_000),
        ("cnn6", 16_000, 16_123),
        ("cnn6", 32_000, 16_000),
        ("cnn10", 16_000, 16_123),
        ("cnn10", 32_000, 16_000),
        ("cnn14", 16_000, 12_000),
        ("cnn14", 32_000, 24_000),
    ],
)
def test_logits_and_gradients_are_the_originals(name: str, rate: int, samples: int) -> None:
    clips = make_clips(3, samples)
    assert (clips == 0).any(dim=1).any()  # silence is among them
    ours, plain = make_pair(name, clips, rate)
    found = errors(ours, plain, clips)
    assert found["logits_error"] < 1e-4
    assert found["gradient_error"] < 1e-10  # in float64
    with torch.no_grad():
        embedded, expected = ours.encoder(clips[:, None]).pooled, plain.embed(clips)
    torch.testing.assert_close(embedded, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_is_the_same_with_and_without_frozen_parameters(frozen: bool) -> None:
    clips = make_clips(2, 8_000)
    ours, plain = make_pair("cnn10", clips, 16_000)
    ours.requires_grad_(not frozen)
    assert errors(ours, plain, clips)["gradient_error"] < 1e-10


def test_learns_as_the_original_does() -> None:
    """In training mode, with batch statistics; without dropout, whose draws differ; in float64."""
    clips = make_clips(2, 8_000)
    ours, plain = (model.double() for model in make_pair("cnn10", clips, 16_000))
    clips = clips.double()
    found: list[dict[str, Tensor]] = []
    for model in (ours.encoder, plain):
        for module in model.modules():
            module.train(isinstance(module, ConvBlock | nn.BatchNorm1d | nn.BatchNorm2d))
        named = {k: p.requires_grad_() for k, p in model.named_parameters() if k.startswith(("bn0", "conv_", "fc1"))}
        embedded = ours.encoder(clips[:, None]).pooled if model is ours.encoder else plain.embed(clips)
        gradients = torch.autograd.grad(embedded.square().mean(), list(named.values()))
        found.append(dict(zip(named, gradients, strict=True)))
    assert found[0].keys() == found[1].keys()
    for key, expected in found[1].items():
        assert (found[0][key] - expected).abs().max() < 1e-9 * expected.abs().max(), key


@pytest.mark.parametrize("kind", ["torch", "parallel", "safetensors"])
def test_a_checkpoint_in_the_published_layout_gives_its_own_logits(
    kind: str, plain: PlainPanns, tmp_path: Path
) -> None:
    state = {key: value.contiguous() for key, value in plain.state_dict().items()}
    path = tmp_path / f"Cnn6.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "parallel":
        torch.save({"epoch": 3, "model": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save({"iteration": 600_000, "model": state}, path)
    model = AVModel({"audio": build("cnn6", seed=5)}, None, 527).eval()
    encoder = model.encoders["audio"]
    assert isinstance(encoder, Panns)
    layout, head = load_checkpoint(encoder, read_checkpoint(path), encoder.layouts, path.name)
    assert layout == "PANNs"
    assert load_fitting_head(model.head, head)
    clips = make_clips(2, 16_000)
    with torch.no_grad():
        torch.testing.assert_close(model({"audio": clips[:, None]}), plain(clips), rtol=1e-4, atol=1e-4)


def test_its_own_layout_loads_too() -> None:
    one, other = build("cnn6", seed=1), build("cnn6", seed=2)
    assert load_checkpoint(other, one.state_dict(), other.layouts, "own") == ("its own", {})
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_a_checkpoint_for_another_sample_rate_is_refused(plain: PlainPanns) -> None:
    encoder = build("cnn6", rate=32_000)
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(WeightsError, match=r"another front end.*\(257, 64\).*\(513, 64\)"):
        load_checkpoint(encoder, plain.state_dict(), encoder.layouts, "Cnn6")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_a_checkpoint_with_other_mel_filters_is_refused(plain: PlainPanns) -> None:
    encoder = build("cnn6")
    state = dict(plain.state_dict())
    state["logmel_extractor.melW"] = state["logmel_extractor.melW"].roll(1, dims=0)
    with pytest.raises(WeightsError, match="another front end"):
        load_checkpoint(encoder, state, encoder.layouts, "Cnn6")


def test_a_checkpoint_of_another_network_of_the_family_is_refused_with_its_keys(plain: PlainPanns) -> None:
    encoder = build("cnn10")
    with pytest.raises(
        WeightsError, match=r"missing: .*conv_block1\.conv2\.weight.* of other shapes: .*conv_block1\.conv1"
    ):
        load_checkpoint(encoder, plain.state_dict(), encoder.layouts, "Cnn6")


@pytest.mark.parametrize(("name", "steps"), [("cnn6", 6), ("cnn10", 6), ("cnn14", 3)])
def test_a_token_per_step_after_the_last_block(name: str, steps: int) -> None:
    encoder = build(name)
    with torch.no_grad():
        out = encoder(make_clips(2, 16_000)[:, None])
    width = encoder.dims.token
    assert out.tokens.shape == (2, steps, width)
    assert out.pooled.shape == (2, encoder.dims.embed)
    expected = torch.relu(encoder.fc1(out.tokens.amax(dim=1) + out.tokens.mean(dim=1)))
    torch.testing.assert_close(out.pooled, expected)


@pytest.mark.parametrize(
    ("name", "rate", "least"), [("cnn6", 8_000, 1200), ("cnn10", 16_000, 2400), ("cnn14", 32_000, 9920)]
)
def test_reads_the_shortest_clip_and_refuses_a_shorter_one_with_what_is_needed(
    name: str, rate: int, least: int
) -> None:
    encoder = build(name, least, rate)
    with torch.no_grad():
        assert encoder(make_clips(1, least)[:, None]).tokens.shape[1] == 1
        with pytest.raises(DataError, match="frames are too few"):
            encoder(make_clips(1, least - 1)[:, None])
    with pytest.raises(DataError, match=f"clips of {least - 1} samples .* at least {least} samples"):
        build(name, least - 1, rate)


@pytest.mark.parametrize("rate", [44_100, 22_050, 48_000])
def test_another_sample_rate_is_refused_with_those_that_fit(rate: int) -> None:
    with pytest.raises(DataError, match=f"32000, 16000, 8000 Hz.*not of {rate} Hz; resample"):
        build("cnn6", rate=rate)


def test_refuses_what_is_no_waveform() -> None:
    component = next(c for c in avrobust_encoders() if c.name == "cnn14")
    with pytest.raises(DataError, match="kind 'video'"):
        component.make(component.config(), MediaSpec(kind="video", shape=(3, 8, 32, 32), rate=8))


@pytest.mark.parametrize("field", ["dropout", "pooled_dropout"])
def test_each_dropout_acts_while_training_only(field: str) -> None:
    encoder = build("cnn6", **{"dropout": 0.0, "pooled_dropout": 0.0, field: 0.5})
    x = make_clips(2, 4_000)[:, None]
    with torch.no_grad():
        assert torch.equal(encoder(x).pooled, encoder(x).pooled)
        encoder.train()
        assert not torch.equal(encoder(x).pooled, encoder(x).pooled)
        assert torch.equal(encoder(x).tokens, encoder(x).tokens) == (field == "pooled_dropout")


def test_a_clip_does_not_depend_on_its_batch_mates() -> None:
    clips = make_clips(3, 8_000)
    ours, _ = make_pair("cnn10", clips, 16_000)
    with torch.no_grad():
        together = ours(clips)
        alone = torch.cat([ours(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_can_be_copied_and_pickled() -> None:
    encoder = build("cnn6")
    x = make_clips(1, 4_000)[:, None]
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        with torch.no_grad():
            assert torch.equal(other(x).pooled, encoder(x).pooled)
        assert other.layouts[0].name == "PANNs"


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_gradient_is_finite_however_quiet_the_clip(scale: float) -> None:
    encoder = build("cnn6")
    x: Tensor = (scale * make_clips(2, 4_000)[:, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).pooled.sum(), x)
    assert gradient.isfinite().all()
