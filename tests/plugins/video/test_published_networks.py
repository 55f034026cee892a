"""SlowFast and X3D beside PyTorchVideo's own: sizes, keys, logits, gradients, pooling over windows, PySlowFast's names.

PySlowFast is no package: its keys are made by renaming PyTorchVideo's, written out here from its module names.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from avrobust_video.convolution import conv_norm, normalised
from avrobust_video.pictures import windows
from pytorchvideo.models.hub import slowfast_r50, slowfast_r101, x3d_l, x3d_m, x3d_s, x3d_xs
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import DataError, WeightsError
from avrobust_core.models.weights import load_checkpoint

X3D = {"xs": x3d_xs, "s": x3d_s, "m": x3d_m, "l": x3d_l}


def pixels(x: Tensor) -> Tensor:
    return (x - 0.45) / 0.225


def pathways(x: Tensor) -> list[Tensor]:
    """Slow and fast, the slow one by PyTorchVideo's own PackPathway."""
    return [x.index_select(2, torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()), x]


def slowfast_logits(network: nn.Module):
    return lambda x: network(pathways(pixels(x)))


def x3d_logits(network: nn.Module):
    network.blocks[5].activation = None
    return lambda x: network(pixels(x))


@pytest.fixture(scope="module")
def r50(shaken):
    torch.manual_seed(1)
    return shaken(slowfast_r50())


def pyslowfast_key(key: str) -> str:
    key = key.replace("blocks.6.proj.", "head.projection.")
    key = re.sub(r"blocks\.0\.multipathway_blocks\.(\d)\.norm", r"s1.pathway\1_stem.bn", key)
    key = re.sub(r"blocks\.0\.multipathway_blocks\.(\d)\.conv", r"s1.pathway\1_stem.conv", key)
    lateral = re.match(r"blocks\.(\d)\.multipathway_fusion\.(.*)", key)
    if lateral:
        part = lateral[2].replace("conv_fast_to_slow", "conv_f2s").replace("norm", "bn")
        return f"s{int(lateral[1]) + 1}_fuse.{part}"
    block = re.match(r"blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.(.*)", key)
    if block:
        part = re.sub(r"norm_([abc])", r"\1_bn", re.sub(r"conv_([abc])", r"\1", block[4]))
        part = part.replace("branch1_norm", "branch1_bn").replace("branch1_conv", "branch1")
        return f"s{int(block[1]) + 1}.pathway{block[2]}_res{block[3]}.{part}"
    return key


def test_a_checkpoint_of_slowfast_r50_gives_the_published_logits(r50, make, load, agree, clips, tmp_path: Path) -> None:
    torch.save({"model_state": r50.state_dict()}, tmp_path / "SLOWFAST_8x8_R50.pyth")
    assert len(r50.state_dict()) == 662
    ours = load(make("slowfast", 3, 32, 224, 224), tmp_path / "SLOWFAST_8x8_R50.pyth", 400)
    assert ours.layout == "PyTorchVideo"
    assert sum(p.numel() for p in ours.model.parameters()) == 34_566_488
    agree(ours, r50, slowfast_logits(r50), clips(1, 3, 32, 224, 224), gradients=False)


def test_the_gradient_of_slowfast_r50_is_the_published_one(r50, make, load, agree, clips, tmp_path: Path) -> None:
    save_file(r50.state_dict(), tmp_path / "r50.safetensors")
    ours = load(make("slowfast", 3, 32, 64, 64), tmp_path / "r50.safetensors", 400)
    theirs = copy.deepcopy(r50)
    theirs.blocks[5].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1)] * 2)  # its windows do not fit so small a picture
    agree(ours, theirs, slowfast_logits(theirs), clips(1, 3, 32, 64, 64))


@pytest.mark.slow
def test_the_gradient_of_slowfast_r50_is_the_published_one_at_its_own_size(
    r50, make, load, agree, clips, tmp_path: Path
) -> None:
    save_file(r50.state_dict(), tmp_path / "r50.safetensors")
    ours = load(make("slowfast", 3, 32, 224, 224), tmp_path / "r50.safetensors", 400)
    agree(ours, r50, slowfast_logits(r50), clips(1, 3, 32, 224, 224))


def test_pictures_larger_than_those_of_training_are_pooled_over_windows(r50, make, load, clips, tmp_path: Path) -> None:
    save_file(r50.state_dict(), tmp_path / "r50.safetensors")
    ours = load(make("slowfast", 3, 32, 256, 256), tmp_path / "r50.safetensors", 400)
    x = clips(1, 3, 32, 256, 224)
    with torch.no_grad():
        theirs, found = slowfast_logits(r50)(x), ours.logits(x)
    assert float((found - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_a_checkpoint_of_pyslowfast_is_the_same_network(make, load, clips, tmp_path: Path) -> None:
    torch.manual_seed(2)
    state = slowfast_r50().state_dict()
    renamed = {f"module.{pyslowfast_key(key)}": value for key, value in state.items()}
    assert not any("blocks" in key or "norm" in key for key in renamed)
    torch.save({"model_state": renamed, "epoch": 1}, tmp_path / "pyslowfast.pkl")
    ours = load(make("slowfast", 3, 32, 64, 64), tmp_path / "pyslowfast.pkl", 400)
    assert ours.layout == "PySlowFast"
    for key, value in ours.model.encoders["video"].state_dict().items():
        assert torch.equal(value, state[key]), key
    assert torch.equal(ours.model.head.weight, state["blocks.6.proj.weight"])


def test_r101_has_the_keys_and_shapes_of_the_published_network(make) -> None:
    with torch.device("meta"):
        theirs = slowfast_r101().state_dict()
    own = {key: value.shape for key, value in make("slowfast", 3, 32, 64, 64, size="r101").state_dict().items()}
    assert own == {key: value.shape for key, value in theirs.items() if not key.startswith("blocks.6.")}


@pytest.mark.slow
def test_a_checkpoint_of_slowfast_r101_gives_the_published_logits(make, load, agree, shaken, clips, tmp_path) -> None:
    torch.manual_seed(3)
    theirs = shaken(slowfast_r101())
    save_file(theirs.state_dict(), tmp_path / "r101.safetensors")
    ours = load(make("slowfast", 3, 32, 224, 224, size="r101"), tmp_path / "r101.safetensors", 400)
    agree(ours, theirs, slowfast_logits(theirs), clips(1, 3, 32, 224, 224))


@pytest.mark.parametrize(
    ("size", "shape", "gradients"),
    [
        ("xs", (4, 160, 160), True),
        ("xs", (6, 182, 200), False),
        ("s", (13, 160, 160), False),
        ("m", (16, 224, 224), False),
        pytest.param("s", (13, 160, 160), True, marks=pytest.mark.slow),
        pytest.param("m", (16, 224, 224), True, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_x3d_gives_the_published_logits(
    size: str, shape: tuple[int, ...], gradients: bool, make, load, agree, shaken, clips, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    theirs = shaken(X3D[size]())
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "x3d.pyth")
    ours = load(make("x3d", 3, *shape, size=size), tmp_path / "x3d.pyth", 400)
    assert ours.layout == "PyTorchVideo"
    assert sum(p.numel() for p in ours.model.parameters()) == 3_794_274
    x = clips(1, 3, *shape)
    if shape == (4, 160, 160):
        torch.testing.assert_close(ours.logits(x).softmax(dim=1), theirs(pixels(x)))
    agree(ours, theirs, x3d_logits(theirs), x, gradients)


def test_x3d_l_has_the_keys_and_shapes_of_the_published_network(make) -> None:
    with torch.device("meta"):
        theirs = x3d_l().state_dict()
    own = {key: value.shape for key, value in make("x3d", 3, 4, 64, 64, size="l").state_dict().items()}
    assert own == {key: value.shape for key, value in theirs.items() if not key.startswith("blocks.5.proj.")}


@pytest.mark.parametrize(("name", "fields"), [("x3d", {"size": "xs"}), ("slowfast", {"size": "tiny"})])
@pytest.mark.parametrize("shape", [(3, 5, 33, 47), (3, 4, 64, 32), (3, 9, 40, 40)])
def test_odd_clips_are_read_and_independent_of_batch_mates(name, fields, shape, make, shaken, clips) -> None:
    encoder = shaken(make(name, *shape, **fields))
    x = clips(2, *shape)
    together = encoder(x)
    assert together.tokens.shape[2] == encoder.dims.token
    assert together.pooled.shape == (2, encoder.dims.embed)
    for i in range(2):
        alone = encoder(x[i : i + 1])
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.tokens[i], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_networks_are_trained_with_the_statistics_of_the_batch(make, clips) -> None:
    encoder = make("x3d", 3, 4, 32, 32, size="xs").train()
    x = clips(4, 3, 4, 32, 32)
    before = {key: value.clone() for key, value in encoder.state_dict().items() if "running" in key}
    encoder(x).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for key, p in encoder.named_parameters())
    assert all(not torch.equal(encoder.state_dict()[key], value) for key, value in before.items())


def test_x3d_refuses_what_it_cannot_read(make) -> None:
    with pytest.raises(DataError, match="at least 32 pixels"):
        make("x3d", 3, 4, 31, 40)
    with pytest.raises(DataError, match="reads pictures"):
        make("x3d", 10, 2048)


def test_a_checkpoint_of_another_size_is_refused_with_its_keys(make) -> None:
    encoder = make("x3d", 3, 4, 64, 64, size="l")
    with pytest.raises(WeightsError, match=r"PyTorchVideo.*missing: blocks\.1\.res_blocks\.3"):
        load_checkpoint(encoder, x3d_s().state_dict(), encoder.layouts, "x3d_s.pyth")


@pytest.mark.parametrize("groups", [1, 4])
def test_a_normalised_convolution_is_the_convolution_then_the_normalisation(groups: int, shaken, clips) -> None:
    conv, norm = conv_norm(4, 8, (3, 3, 3), (1, 2, 2), groups)
    shaken(norm)
    x = clips(2, 4, 5, 6, 7).requires_grad_()
    for training in (False, True):
        norm.train(training)
        results = []
        for y in (normalised(conv, norm, x), norm(conv(x))):
            wanted = (x, conv.weight, norm.weight, norm.bias)
            results.append((y, *torch.autograd.grad((y**2).sum(), wanted)))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_are_cut_to_the_map(clips) -> None:
    x = clips(1, 2, 3, 8, 9)
    torch.testing.assert_close(windows(x, (9, 9, 9)), x.mean(dim=(2, 3, 4), keepdim=True))
    torch.testing.assert_close(windows(x, (9, 7, 7)), F.avg_pool3d(x, (3, 7, 7), 1))
