"""Encoders of frames and of patches: attention pooling as the reference's, timm's logits, any length and size."""

import sys

import pytest
import timm
import torch
from avrobust_video.patches import grid_positions
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from avrobust_core import AttentionPooling, AVModel, AvrobustError, DataError, sinusoids

SMALL = {"width": 24, "heads": 4}


def reference_pooling(head: AttentionPooling, tokens: torch.Tensor) -> torch.Tensor:
    """Probabilities as FACTS gives the reference's formula, in float64."""
    tokens = tokens.double()
    prob = tokens @ head.prob.weight.double().T + head.prob.bias.double()
    att = tokens @ head.att.weight.double().T + head.att.bias.double()
    weights = att.exp() / att.exp().sum(dim=1, keepdim=True)
    return (weights / (1 + (-prob).exp())).sum(dim=1)


def test_the_sigmoid_of_a_logit_is_the_reference_s_probability(make, clips) -> None:
    model = AVModel({"video": make("frame-transformer", 10, 2048, **SMALL)}, None, 7).eval()
    x = clips(3, 10, 2048)
    logits = model({"video": x})
    expected = reference_pooling(model.head, model.encoders["video"](x).tokens)
    torch.testing.assert_close(logits.sigmoid().double(), expected, rtol=1e-5, atol=0)
    assert expected.std() > 0


def test_features_of_any_number_of_frames_are_read_and_their_order_matters(make, clips) -> None:
    encoder = make("frame-transformer", 10, 32, layers=2, **SMALL).eval()
    for frames in (1, 7, 10, 33):
        out = encoder(clips(2, frames, 32))
        assert out.tokens.shape == (2, frames, 24)
        torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))
    x = clips(1, 10, 32)
    assert torch.equal(encoder.frontend(x), x)
    assert (encoder(x).pooled - encoder(x.flip(1)).pooled).abs().max() > 1e-4


def test_a_feature_clip_does_not_depend_on_its_batch_mates(make, clips) -> None:
    model = AVModel({"video": make("frame-transformer", 10, 32, dropout=0.5, **SMALL)}, None, 3).eval()
    x = clips(3, 10, 32)
    alone = torch.cat([model({"video": x[i : i + 1]}) for i in range(3)])
    torch.testing.assert_close(model({"video": x}), alone, rtol=1e-4, atol=1e-5)


def test_the_transformer_layer_is_that_of_pytorch(make, clips) -> None:
    layer = make("frame-transformer", 10, 32, **SMALL).layers[0].eval()
    theirs = nn.TransformerEncoderLayer(24, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    pairs = {"norm1": "norm1", "norm2": "norm2", "linear1": "fc1", "linear2": "fc2", "self_attn.out_proj": "proj"}
    state = {
        f"{theirs_name}.{kind}": layer.state_dict()[f"{ours}.{kind}"]
        for theirs_name, ours in pairs.items()
        for kind in ("weight", "bias")
    } | {f"self_attn.in_proj_{kind}": layer.state_dict()[f"qkv.{kind}"] for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    x = clips(2, 9, 24)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_feature_encoders_refuse_pictures_and_widths_that_heads_do_not_divide(make) -> None:
    with pytest.raises(DataError, match="reads features of frames"):
        make("frame-transformer", 3, 8, 32, 32)
    with pytest.raises(ValueError, match="multiple of heads"):
        make("frame-transformer", 10, 2048, width=10, heads=4)


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 48), ("mobilenetv3_small_050", 40), ("vit_tiny_patch16_224", 224)]
)
def test_the_logits_of_a_clip_are_the_mean_of_those_of_timm_s_frames(name, side, make, load, agree, clips, tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False, num_classes=11).eval()
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = load(make("timm-frames", 3, 3, side, side, model=name), tmp_path / "timm.safetensors", 11)
    assert ours.layout == "timm"
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))

    def frames(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([theirs((x[:, :, t] - mean.to(x)) / std.to(x)) for t in range(x.shape[2])]).mean(dim=0)

    agree(ours, theirs, frames, clips(2, 3, 3, side, side))


def test_a_timm_network_is_built_without_asking_for_weights(make, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    encoder = make("timm-frames", 3, 2, 32, 32)
    assert encoder.dims.token == 512


def test_timm_frames_say_what_is_wrong(make, monkeypatch) -> None:
    with pytest.raises(AvrobustError, match=r"no model 'resnet19'.*begin alike: resn"):
        make("timm-frames", 3, 2, 32, 32, model="resnet19")
    with pytest.raises(DataError, match="takes pictures of 224x224 only, and these are 32x40"):
        make("timm-frames", 3, 2, 32, 40, model="vit_tiny_patch16_224")
    with pytest.raises(AvrobustError, match="no single classifier"):
        make("timm-frames", 3, 2, 224, 224, model="deit_tiny_distilled_patch16_224")
    with pytest.raises(DataError, match="reads pictures"):
        make("timm-frames", 10, 2048)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(AvrobustError, match=r"pip install 'avrobust\[timm\]'"):
        make("timm-frames", 3, 2, 32, 32)


def test_patches_are_a_linear_map_of_the_pixels_of_their_place(make, clips) -> None:
    encoder = make("video-patches", 3, 4, 8, 12, patch_frames=2, patch_size=4, width=10).eval()
    x = clips(1, 3, 4, 8, 12)
    tokens = encoder(x).tokens
    assert tokens.shape == (1, 2 * 2 * 3, 10)
    block = ((x - 0.45) / 0.225)[0, :, 2:4, 0:4, 8:12].flatten()
    position = torch.cat([sinusoids(torch.tensor([place]), width)[0] for place, width in ((1, 4), (0, 3), (2, 3))])
    expected = encoder.proj.weight.flatten(1) @ block + encoder.proj.bias + position
    torch.testing.assert_close(tokens[0, 1 * 6 + 0 * 3 + 2], expected, rtol=1e-4, atol=1e-5)


def test_a_clip_of_half_patches_is_filled_up_with_grey(make, clips) -> None:
    encoder = make("video-patches", 3, 3, 30, 20).eval()
    x = clips(2, 3, 3, 30, 20)
    filled = torch.full((2, 3, 4, 32, 32), 0.45)
    filled[:, :, :3, :30, :20] = x
    out = encoder(x)
    torch.testing.assert_close(out.tokens, encoder(filled).tokens)
    torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), width=st.integers(1, 20))
@settings(max_examples=50)
def test_positions_have_the_width_and_tell_places_apart(shape: tuple[int, int, int], width: int) -> None:
    found = grid_positions(shape, width, torch.zeros(()))
    assert found.shape == (*shape, width)
    assert found.abs().max() <= 1
    if width >= 6:
        assert len(found.flatten(0, 2).unique(dim=0)) == shape[0] * shape[1] * shape[2]
