"""CAV-MAE: the logits and gradients of a plain one with both modalities, with each alone and with one missing.

The original is no package. The plain one here is written from the paper and from the keys of its checkpoints, with
nothing of the project's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from avrobust_fusion.cav_mae_branches import CavMaeAudio, CavMaeVideo, MiddlePicture, grid_positions
from avrobust_fusion.cav_mae_joint import CavMae
from avrobust_fusion.configs import CavMaeAudioConfig, CavMaeConfig, CavMaeFusionConfig, CavMaeVideoConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from avrobust_core import AVModel, AvrobustError, DataError, Encoded, EncodedDims, MediaSpec, WeightsError
from avrobust_core.models.weights import load_checkpoint, load_model, read_checkpoint

Make = Callable[..., Any]
Clips = Callable[..., Tensor]
Shaken = Callable[[nn.Module], Any]

FRAMES = 96
PATCHES = 3 * 2
WIDTH, HEADS, DEPTH, CLASSES = 24, 3, 2, 7


class PlainBlock(nn.Module):
    """A layer with three sets of norms and one of everything else."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("norm1", "norm1_a", "norm1_v", "norm2", "norm2_a", "norm2_v"):
            setattr(self, name, nn.LayerNorm(WIDTH))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor, which: str = "") -> Tensor:
        y = getattr(self, f"norm1{which}")(x)
        heads = []
        query, key, value = self.attn["qkv"](y).split(WIDTH, dim=2)
        for part in torch.arange(WIDTH).chunk(HEADS):
            scores = query[..., part] @ key[..., part].transpose(1, 2) / len(part) ** 0.5
            heads.append(scores.softmax(dim=2) @ value[..., part])
        x = x + self.attn["proj"](torch.cat(heads, dim=2))
        y = self.mlp["fc1"](getattr(self, f"norm2{which}")(x))
        return x + self.mlp["fc2"](y * 0.5 * (1 + torch.erf(y / 2**0.5)))


class PlainCavMae(nn.Module):
    """The fine-tuned model.

    Args:
        frames: of the filter bank.
        patches: of a picture.
    """

    def __init__(self, frames: int, patches: int, joint: int = 1) -> None:
        super().__init__()
        self.patch_embed_a = nn.ModuleDict({"proj": nn.Conv2d(1, WIDTH, 16, stride=16)})
        self.patch_embed_v = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 16, stride=16)})
        self.modality_a = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.modality_v = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed_a = nn.Parameter(torch.zeros(1, frames // 2, WIDTH))
        self.pos_embed_v = nn.Parameter(torch.zeros(1, patches, WIDTH))
        self.blocks_a = nn.ModuleList(PlainBlock() for _ in range(DEPTH))
        self.blocks_v = nn.ModuleList(PlainBlock() for _ in range(DEPTH))
        self.blocks_u = nn.ModuleList(PlainBlock() for _ in range(joint))
        self.norm_a, self.norm_v, self.norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp_head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))

    def audio(self, fbank: Tensor) -> Tensor:
        """From the filter bank (B, frames, 128) to tokens."""
        x = self.patch_embed_a["proj"](fbank.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        x = x + self.pos_embed_a + self.modality_a
        for block in self.blocks_a:
            x = block(x)
        return x

    def video(self, picture: Tensor) -> Tensor:
        """From normalised pictures (B, 3, H, W) to tokens."""
        x = self.patch_embed_v["proj"](picture).flatten(2).transpose(1, 2) + self.pos_embed_v + self.modality_v
        for block in self.blocks_v:
            x = block(x)
        return x

    def joined(self, x: Tensor, which: str = "") -> Tensor:
        """The mean of the joint tokens, with one set of norms."""
        for block in self.blocks_u:
            x = block(x, which)
        return getattr(self, f"norm{which}")(x).mean(dim=1)

    def both(self, fbank: Tensor, picture: Tensor) -> Tensor:
        """Logits of a model that was trained on both."""
        return self.mlp_head(self.joined(torch.cat([self.audio(fbank), self.video(picture)], dim=1)))

    def alone(self, tokens: Tensor, which: str) -> Tensor:
        """Logits of a model that was trained on one modality alone."""
        return self.mlp_head(self.joined(tokens, which))

    def missing(self, tokens: Tensor, which: str) -> Tensor:
        """Logits of a model that was trained on both and gets one."""
        return self.mlp_head((self.joined(tokens) + self.joined(tokens, which)) / 2)


SIZES = {"width": WIDTH, "heads": HEADS, "depth": DEPTH}
JOINED = {"audio": EncodedDims(WIDTH, WIDTH), "video": EncodedDims(WIDTH, WIDTH)}


@pytest.fixture
def plain(shaken: Shaken) -> PlainCavMae:
    torch.manual_seed(0)
    return shaken(PlainCavMae(FRAMES, PATCHES, joint=2))


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 5, 48, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def whole(make: Make, plain: PlainCavMae, tmp_path: Path) -> AVModel:
    """The whole model, with the plain one's weights, read from a file as it was published."""
    save_file({f"module.{key}": value for key, value in plain.state_dict().items()}, tmp_path / "whole.safetensors")
    encoders = {"audio": make("cav-mae-audio", **SIZES, frames=FRAMES), "video": make("cav-mae-video", **SIZES)}
    model = AVModel(encoders, make("cav-mae", JOINED, heads=HEADS, depth=2), CLASSES).eval()
    assert load_model(model, read_checkpoint(tmp_path / "whole.safetensors"), "whole") == "CAV-MAE"
    return model


def normalised(pictures: Tensor) -> Tensor:
    """The third of five frames, as torchvision would normalise it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pictures[:, :, 2].permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2)


def test_agrees_with_the_plain_model_on_both(
    whole: AVModel, plain: PlainCavMae, clips: Clips, pictures: Tensor, agree: Any
) -> None:
    frontend = whole.encoders["audio"].frontend
    agree(
        whole,
        lambda x: plain.both(frontend(x["audio"])[:, 0], normalised(x["video"])),
        {"audio": clips(), "video": pictures},
    )


@pytest.mark.parametrize(("modality", "side"), [("audio", "_a"), ("video", "_v")])
def test_agrees_with_the_plain_model_where_a_modality_is_missing(
    whole: AVModel, plain: PlainCavMae, clips: Clips, pictures: Tensor, agree: Any, modality: str, side: str
) -> None:
    def ours(x: dict[str, Tensor]) -> Tensor:
        return whole.classify(whole.encode(x))

    def theirs(x: dict[str, Tensor]) -> Tensor:
        return plain.missing(tokens_of(plain, whole.encoders["audio"].frontend, x), side)

    agree(ours, theirs, {modality: clips() if modality == "audio" else pictures})


@pytest.mark.parametrize(("modality", "side"), [("audio", "_a"), ("video", "_v")])
def test_an_encoder_alone_agrees_with_the_plain_model_of_one_modality(
    make: Make,
    plain: PlainCavMae,
    clips: Clips,
    pictures: Tensor,
    loaded: Any,
    agree: Any,
    modality: str,
    side: str,
) -> None:
    fields = {"frames": FRAMES} if modality == "audio" else {}
    encoder = make(f"cav-mae-{modality}", **SIZES, **fields, joint_depth=2)
    state = {f"module.{key}": value for key, value in plain.state_dict().items()}
    model, layout = loaded(encoder, state, CLASSES, modality)
    assert layout == "CAV-MAE"
    agree(
        model,
        lambda x: plain.alone(tokens_of(plain, encoder.frontend, x), side),
        {modality: clips() if modality == "audio" else pictures},
    )


def tokens_of(plain: PlainCavMae, frontend: nn.Module, x: dict[str, Tensor]) -> Tensor:
    return plain.audio(frontend(x["audio"])[:, 0]) if "audio" in x else plain.video(normalised(x["video"]))


def test_modalities_may_have_other_names(make: Make, plain: PlainCavMae, clips: Clips, pictures: Tensor) -> None:
    encoders = {"sight": make("cav-mae-video", **SIZES), "sound": make("cav-mae-audio", **SIZES, frames=FRAMES)}
    dims = {name: encoder.dims for name, encoder in encoders.items()}
    model = AVModel(encoders, make("cav-mae", dims, audio="sound", video="sight", heads=HEADS, depth=2), CLASSES)
    load_model(model.eval(), plain.state_dict(), "renamed")
    with torch.no_grad():
        found = model({"sight": pictures, "sound": clips()})
        wanted = plain.both(encoders["sound"].frontend(clips())[:, 0], normalised(pictures))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_has_the_published_parameters_but_those_that_are_never_used(whole: AVModel, plain: PlainCavMae) -> None:
    unused = [
        key
        for key in plain.state_dict()
        if key.startswith(("blocks_a.", "blocks_v.")) and key.split(".")[2].endswith(("_a", "_v"))
    ]
    assert len(unused) == 2 * DEPTH * 4 * 2
    assert len(whole.state_dict()) == len(plain.state_dict()) - len(unused)
    with torch.device("meta"):
        audio = CavMaeAudio(CavMaeAudioConfig(), MediaSpec(kind="audio", shape=(1, 160_000), rate=16_000))
        video = CavMaeVideo(CavMaeVideoConfig(), MediaSpec(kind="video", shape=(3, 10, 224, 224)))
        fusion = CavMae(CavMaeFusionConfig(), {"audio": audio.dims, "video": video.dims})
        model = AVModel({"audio": audio, "video": video}, fusion, 527)
    layer = 12 * 768**2 + 9 * 768 + 4 * 768
    patches, tokens, positions = (1 + 3) * 256 * 768 + 2 * 768, 2 * 768, (512 + 196) * 768
    rest = 4 * 2 * 768 + 3 * 2 * 768 + 2 * 768 + 769 * 527
    assert sum(p.numel() for p in model.parameters()) == 23 * layer + patches + tokens + positions + rest


def test_builds_for_the_published_sizes_of_clips(make: Make) -> None:
    small = {"width": 8, "heads": 2, "depth": 1}
    audio = make("cav-mae-audio", MediaSpec(kind="audio", shape=(1, 160_000), rate=16_000), **small)
    video = make("cav-mae-video", MediaSpec(kind="video", shape=(3, 10, 224, 224)), **small)
    assert audio(torch.randn(1, 1, 160_000)).tokens.shape == (1, 512, 8)
    assert video(torch.rand(1, 3, 10, 224, 224)).tokens.shape == (1, 196, 8)


def test_the_middle_frame_is_what_is_seen(make: Make, pictures: Tensor) -> None:
    encoder = make("cav-mae-video", **SIZES)
    x = pictures.requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).pooled.square().sum(), x)
    assert (gradient.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist() == [False, False, True, False, False]
    assert [MiddlePicture()(torch.rand(1, 3, n, 16, 16)).shape for n in (1, 2)] == [(1, 3, 16, 16)] * 2
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder.frontend(pictures).dtype == torch.float32


def test_positions_start_as_a_grid_in_which_no_two_are_alike() -> None:
    positions = grid_positions(3, 5, 16).reshape(3, 5, 16)
    assert torch.equal(positions[0, :, :8], positions[2, :, :8])
    assert torch.equal(positions[:, 0, 8:], positions[:, 4, 8:])
    torch.testing.assert_close(positions[0, 3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(positions[2, 0, 12], torch.tensor(2.0).cos())
    assert len(positions.flatten(0, 1).unique(dim=0)) == 15


def test_pretrained_weights_start_the_encoders_and_are_refused_as_a_whole_model(
    make: Make, plain: PlainCavMae, whole: AVModel
) -> None:
    state = {key: value for key, value in plain.state_dict().items() if not key.startswith("mlp_head")}
    state |= {"mask_token": torch.zeros(1), "decoder_blocks.0.norm1_a.weight": torch.zeros(1)}
    for name in ("audio", "video"):
        encoder = make(f"cav-mae-{name}", **SIZES, **({"frames": FRAMES} if name == "audio" else {}))
        load_checkpoint(encoder, state, encoder.layouts, "pretrained")
        theirs = whole.encoders[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    with pytest.raises(WeightsError, match=r"4 missing: head\.0\.weight.*head\.1\.bias$"):
        load_model(whole, state, "pretrained")


def test_lists_what_does_not_fit(make: Make, plain: PlainCavMae, whole: AVModel) -> None:
    state = {**plain.state_dict(), "blocks_u.0.extra": torch.zeros(1), "blocks_a.0.extra": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"2 unexpected: .*blocks_u\.0\.extra, encoders\.audio\.blocks\.0\.extra"):
        load_model(whole, state, "more")
    longer = make("cav-mae-audio", **SIZES, frames=FRAMES + 16)
    with pytest.raises(WeightsError, match=r"1 of other shapes: pos_embed \(1, 48, 24\) instead of \(1, 56, 24\)"):
        load_checkpoint(longer, plain.state_dict(), longer.layouts, "shorter")


def test_norms_of_one_modality_wait_untrained_in_a_model_of_both(
    whole: AVModel, clips: Clips, pictures: Tensor
) -> None:
    whole({"audio": clips(), "video": pictures}).sum().backward()
    trained = [name for name, p in whole.named_parameters() if p.requires_grad]
    assert all(whole.get_parameter(name).grad is not None for name in trained)
    frozen = {name.removeprefix("fusion.") for name, p in whole.named_parameters() if not p.requires_grad}
    blocks = {f"blocks_u.{i}.norm{j}_{side}" for i in range(2) for j in (1, 2) for side in "av"}
    assert frozen == {f"{name}.{kind}" for name in blocks | {"norm_a", "norm_v"} for kind in ("weight", "bias")}


def test_tokens_of_other_widths_are_mapped_to_the_fusions(make: Make) -> None:
    fusion = make("cav-mae", {"audio": EncodedDims(6, 1), "video": EncodedDims(8, 1)}, width=8, heads=2)
    assert fusion.maps.keys() == {"a"}
    generator = torch.Generator().manual_seed(0)
    tokens = {n: torch.randn(3, t, d, generator=generator) for n, t, d in (("audio", 5, 6), ("video", 4, 8))}
    found = fusion({name: Encoded(x, x[:, 0]) for name, x in tokens.items()})
    assert found.shape == (3, 8)
    same = make("cav-mae", {"audio": EncodedDims(8, 1), "video": EncodedDims(8, 1)}, heads=2)
    same.load_state_dict({key: value for key, value in fusion.state_dict().items() if not key.startswith("maps.")})
    tokens["audio"] = fusion.maps["a"](tokens["audio"])
    assert torch.equal(found, same({name: Encoded(x, x[:, 0]) for name, x in tokens.items()}))


@pytest.mark.parametrize(
    ("widths", "fields", "message"),
    [
        ({"audio": 8}, {}, "the model's are: 'audio'.*one encoder needs no fusion"),
        ({}, {}, "the model's are: none"),
        ({"audio": 8, "depth": 8}, {}, "joins the modalities 'audio' and 'video'.*'depth'; name them"),
        ({"audio": 8, "video": 8, "depth": 8}, {}, "'audio', 'depth', 'video'"),
        ({"audio": 6, "video": 8}, {}, "these are 6 and 8 wide; give both encoders one width, or set `width`"),
        ({"audio": 8, "video": 8}, {"heads": 3}, "8 is not a multiple of 3 heads"),
    ],
)
def test_the_fusion_refuses_what_it_cannot_join(widths: dict[str, int], fields: dict[str, int], message: str) -> None:
    config = CavMaeFusionConfig(**{"heads": 2, **fields})
    with pytest.raises(AvrobustError, match=message):
        CavMae(config, {name: EncodedDims(width, 1) for name, width in widths.items()})


def test_no_modality_at_all_is_an_error(whole: AVModel) -> None:
    with pytest.raises(KeyError, match="audio and video; both are missing"):
        whole.fusion({})


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("video", (3, 5, 40, 32), "40x32 cannot be cut into patches of 16x16; resize.*224x224"),
        ("video", (3, 5, 0, 32), r"of shape \(3, 5, 0, 32\)"),
        ("video", (1, 5, 32, 32), "reads pictures"),
        ("video", (10, 2048), "give this modality another encoder"),
        ("audio", (3, 5, 32, 32), "reads pictures"),
    ],
)
def test_the_video_encoder_refuses_other_media(make: Make, kind: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make("cav-mae-video", MediaSpec(kind=kind, shape=shape), **SIZES)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (CavMaeConfig, {"width": 10, "heads": 2}, "multiple of 4"),
        (CavMaeAudioConfig, {"frames": 100}, "multiple of 16"),
        (CavMaeFusionConfig, {"audio": "x", "video": "x"}, "name two modalities"),
    ],
)
def test_configurations_refuse_what_cannot_be(config: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


@pytest.mark.parametrize("name", ["cav-mae-audio", "cav-mae-video"])
def test_weights_depend_on_the_seed_alone_and_are_finite(make: Make, name: str) -> None:
    fields = {"width": 16, "heads": 2, "depth": 1} | ({} if name == "cav-mae-video" else {"frames": 32})
    one, other = make(name, **fields), make(name, **fields)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
