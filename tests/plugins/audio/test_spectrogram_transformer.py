"""`ast`: the published sizes and keys, and the logits and gradients of timm's and of transformers' networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from avrobust_audio.ast_layouts import fit_positions
from avrobust_audio.configs import AstConfig
from avrobust_audio.spectrogram_transformer import SpectrogramTransformer
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ASTConfig, ASTForAudioClassification

from avrobust_core import AVModel, MediaSpec, WeightsError
from avrobust_core.models.weights import load_checkpoint, read_checkpoint

Make = Callable[..., Any]
Clips = Callable[..., Tensor]
Shaken = Callable[[nn.Module], Any]

SMALL = {"frames": 64, "width": 32, "depth": 2, "heads": 4}
CLASSES = 5


class Original(nn.Module):
    """AST in its own layout: timm's distilled DeiT with another input layer, and a classifier beside it.

    Args:
        patches: that its positions are for.
        stride: between patches in time.
    """

    def __init__(self, patches: int, stride: int = 10) -> None:
        super().__init__()
        sizes = {"embed_dim": SMALL["width"], "depth": SMALL["depth"], "num_heads": SMALL["heads"]}
        self.v = VisionTransformerDistilled(img_size=32, num_classes=7, **sizes)
        self.v.patch_embed.proj = nn.Conv2d(1, SMALL["width"], 16, stride=(10, stride))
        self.v.pos_embed = nn.Parameter(torch.zeros(1, patches + 2, SMALL["width"]))
        self.mlp_head = nn.Sequential(nn.LayerNorm(SMALL["width"]), nn.Linear(SMALL["width"], CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        x = self.v.patch_embed.proj(features.transpose(2, 3)).flatten(2).transpose(1, 2)
        special = [token.expand(len(x), -1, -1) for token in (self.v.cls_token, self.v.dist_token)]
        x = self.v.norm(self.v.blocks(torch.cat([*special, x], dim=1) + self.v.pos_embed))
        return cast(Tensor, self.mlp_head((x[:, 0] + x[:, 1]) / 2))


def hugging_face(frames: int = 64) -> ASTForAudioClassification:
    return ASTForAudioClassification(
        ASTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_length=frames,
            num_labels=CLASSES,
        )
    )


def test_has_the_published_parameters_and_keys() -> None:
    with torch.device("meta"):
        published = ASTForAudioClassification(ASTConfig(num_labels=527))
        encoder = SpectrogramTransformer(AstConfig(), MediaSpec(kind="audio", shape=(1, 16_000), rate=16_000))
        model = AVModel({"audio": encoder}, None, 527)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in published.parameters()) == 86_594_063
    assert encoder.v.pos_embed.shape == (1, 12 * 101 + 2, 768)
    keys = set(Original(1).state_dict())
    assert {key for key in encoder.state_dict() if ".blocks." not in key or ".blocks.0." in key} == {
        key for key in keys if key.startswith("v.") and not key.startswith(("v.head", "v.blocks.1."))
    }


def test_agrees_with_the_original_layout(make: Make, clips: Clips, shaken: Shaken, loaded: Any, agree: Any) -> None:
    original = shaken(Original(12 * 5))
    state = {f"module.{key}": value for key, value in original.state_dict().items()}
    model, layout = loaded(make("ast", **SMALL), state, CLASSES)
    assert layout == "AST"
    frontend = model.encoders["audio"].frontend
    agree(model, lambda x: original(frontend(x["audio"])), {"audio": clips()})


@pytest.mark.parametrize("strides", [(10, 10), (16, 16), (10, 12)])
def test_agrees_with_transformers(
    make: Make, clips: Clips, shaken: Shaken, loaded: Any, agree: Any, strides: tuple[int, int]
) -> None:
    config = hugging_face().config
    config.frequency_stride, config.time_stride = strides
    network = shaken(ASTForAudioClassification(config))
    encoder = make("ast", **SMALL, fstride=strides[0], tstride=strides[1])
    model, layout = loaded(encoder, network.state_dict(), CLASSES)
    assert layout == "transformers 5"
    agree(model, lambda x: network(encoder.frontend(x["audio"])[:, 0]).logits, {"audio": clips()})


def test_reads_the_files_of_transformers(make: Make, clips: Clips, shaken: Shaken, loaded: Any, tmp_path: Path) -> None:
    network = shaken(hugging_face())
    network.save_pretrained(tmp_path / "saved")
    state = read_checkpoint(tmp_path / "saved" / "model.safetensors")
    assert "audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight" in state
    model, layout = loaded(make("ast", **SMALL), state, CLASSES)
    again, _ = loaded(make("ast", **SMALL), network.state_dict(), CLASSES)
    assert layout == "transformers"
    assert torch.equal(model({"audio": clips()}), again({"audio": clips()}))


def test_lists_what_a_file_of_transformers_lacks(make: Make, shaken: Shaken, loaded: Any) -> None:
    state = hugging_face().state_dict()
    del state["audio_spectrogram_transformer.layers.1.attention.k_proj.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: v\.blocks\.1\.attn\.qkv\.bias; 2 unexpected"):
        loaded(make("ast", **SMALL), state, CLASSES)


def test_lists_what_does_not_belong_in_a_checkpoint(make: Make, loaded: Any) -> None:
    state = {**Original(12 * 5).state_dict(), "v.extra": torch.zeros(1), "v.norm.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"1 unexpected: v\.extra; 1 of other shapes: v\.norm\.weight"):
        loaded(make("ast", **SMALL), state, CLASSES)


def test_the_tokens_are_the_special_ones_then_the_patches_of_each_band_through_time(make: Make, clips: Clips) -> None:
    encoder = make("ast", **SMALL)
    features = encoder.frontend(clips())
    moved = features.clone()
    moved[:, :, 50:, :16] += 1  # frames of the last patch in time, bands of the lowest patches
    encoder.v.blocks = nn.ModuleList()
    encoder.v.norm = nn.Identity()
    with torch.no_grad():
        tokens = encoder.encode(features).tokens
        changed = (tokens != encoder.encode(moved).tokens).any(dim=2).any(dim=0)
    assert tokens.shape == (2, 2 + 12 * 5, 32)
    assert changed.nonzero().flatten().tolist() == [2 + 4, 2 + 5 + 4]
    assert torch.equal(tokens[:, :2], (encoder.v.pos_embed[:, :2] + special(encoder)).expand(2, -1, -1))


def special(encoder: SpectrogramTransformer) -> Tensor:
    return torch.cat([encoder.v.cls_token, encoder.v.dist_token], dim=1)


def test_the_embedding_is_what_the_head_classifies(make: Make, clips: Clips) -> None:
    encoder = make("ast", **SMALL)
    model = AVModel({"audio": encoder}, None, CLASSES).eval()
    with torch.no_grad():
        found = encoder(clips())
        norm, linear = model.head
        torch.testing.assert_close(model({"audio": clips()}), linear(norm(found.pooled)))
    torch.testing.assert_close(found.pooled, found.tokens[:, :2].mean(dim=1))


@pytest.mark.parametrize("columns", [1, 2, 4, 5])
def test_positions_for_shorter_clips_are_cut_from_the_middle(columns: int) -> None:
    positions = torch.randn(1, 2 + 3 * 5, 4, generator=torch.Generator().manual_seed(0))
    found = fit_positions(positions, 3, columns)
    first = {1: 2, 2: 1, 4: 0, 5: 0}[columns]
    assert torch.equal(found[:, :2], positions[:, :2])
    grid = positions[:, 2:].reshape(3, 5, 4)[:, first : first + columns]
    assert torch.equal(found[:, 2:], grid.reshape(1, -1, 4))


def test_positions_for_longer_clips_are_interpolated_in_time() -> None:
    positions = torch.randn(1, 2 + 3 * 5, 4, generator=torch.Generator().manual_seed(0))
    found = fit_positions(positions, 3, 9)
    picture = positions[:, 2:].transpose(1, 2).reshape(1, 4, 3, 5)
    wanted = F.interpolate(picture, size=(3, 9), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, torch.cat([positions[:, :2], wanted], dim=1))


@pytest.mark.parametrize("layout", ["AST", "transformers"])
def test_a_checkpoint_for_longer_clips_is_read(make: Make, shaken: Shaken, loaded: Any, layout: str) -> None:
    source = shaken(Original(12 * 9) if layout == "AST" else hugging_face(104))
    model, _ = loaded(make("ast", **SMALL), source.state_dict(), CLASSES)
    positions = source.v.pos_embed if layout == "AST" else source.audio_spectrogram_transformer.embeddings
    positions = positions if layout == "AST" else positions.position_embeddings
    assert torch.equal(model.encoders["audio"].v.pos_embed, fit_positions(positions, 12, 5))


def test_a_checkpoint_of_other_rows_of_patches_is_refused(make: Make, loaded: Any) -> None:
    with pytest.raises(WeightsError, match=r"of other shapes: v\.pos_embed \(1, 37, 32\) instead of \(1, 62, 32\)"):
        loaded(make("ast", **SMALL), Original(7 * 5).state_dict(), CLASSES)


def test_its_own_weights_round_trip(make: Make, shaken: Shaken, clips: Clips) -> None:
    one, other = shaken(make("ast", **SMALL)), make("ast", **SMALL)
    layout, head = load_checkpoint(other, one.state_dict(), other.layouts, "own")
    assert layout == "its own"
    assert not head
    assert torch.equal(one(clips()).tokens, other(clips()).tokens)


def test_refuses_widths_that_heads_do_not_share() -> None:
    with pytest.raises(ValueError, match="width 30 must be a multiple of heads 4"):
        AstConfig(width=30, heads=4)


def test_weights_depend_on_the_seed_alone_and_are_finite(make: Make) -> None:
    fields = {"width": 16, "heads": 2, "depth": 1, "frames": 32}
    one, other = make("ast", **fields), make("ast", **fields)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
