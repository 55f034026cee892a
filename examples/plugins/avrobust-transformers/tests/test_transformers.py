"""Outputs are transformers' own on the same clip; gradients arrive; nothing is downloaded in silence."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from avrobust_transformers import loading
from avrobust_transformers.audio import make_audio
from avrobust_transformers.classifier import make_classifier
from avrobust_transformers.configs import AudioConfig, ClassifierConfig, VideoConfig
from avrobust_transformers.plugin import avrobust_encoders, avrobust_fusions
from avrobust_transformers.preparing import Pictures, Waveform
from avrobust_transformers.video import make_video
from pydantic import ValidationError

from avrobust_core import (
    AVModel,
    AvrobustError,
    Batch,
    Budget,
    DataError,
    MediaSpec,
    Raw,
    ThreatModel,
    Victim,
    WeightsError,
    WholeModel,
)
from avrobust_core.testing import parametrize_with_checks

AUDIO = MediaSpec(kind="audio", shape=(1, 4000), rate=16000, bounds=(-1, 1), time_axis=1)
VIDEO = MediaSpec(kind="video", shape=(3, 6, 40, 52), bounds=(0, 1), time_axis=1)

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SOUND: dict[str, Any] = SMALL | {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
SIGHT: dict[str, Any] = SMALL | {"image_size": 32, "num_frames": 4}
FIELDS: dict[str, dict[str, Any]] = {
    "wav2vec2": SOUND,
    "hubert": SOUND,
    "wavlm": SOUND,
    "videomae": SIGHT | {"patch_size": 8},
    "timesformer": SIGHT | {"patch_size": 8},
    "vivit": SIGHT | {"tubelet_size": [2, 8, 8]},
}


def saved(folder: Path, kind: str, *, head: bool = False, labels: int = 5) -> Path:
    """Save a random model and its feature extractor as `save_pretrained` does."""
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(kind, num_labels=labels, **FIELDS[kind])
    auto: Any = transformers.AutoModel
    if head and kind in loading.TYPES["audio"]:
        auto = transformers.AutoModelForAudioClassification
    elif head:
        auto = transformers.AutoModelForVideoClassification
    auto.from_config(settings).eval().save_pretrained(folder)
    extractor(kind).save_pretrained(folder)
    return folder


def extractor(kind: str) -> Any:
    """The library's own feature extractor of a model."""
    if kind in loading.TYPES["audio"]:
        return transformers.Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=16000)
    if kind == "vivit":
        return transformers.VivitImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, offset=True
        )
    return transformers.VideoMAEVideoProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, image_std=[0.2, 0.3, 0.4]
    )


def classifier(modality: str, folder: Path, media: MediaSpec) -> WholeModel:
    """The classifier in a folder, of one modality."""
    config = ClassifierConfig.model_validate({"models": {modality: {"model": str(folder)}}})
    return make_classifier(config, {modality: Raw(media).dims})


def clip(media: MediaSpec, count: int = 2) -> torch.Tensor:
    """Random clips, of whole 8-bit steps where they are pictures: what the library's extractors take."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, *media.shape, generator=generator)
    return (x * 255).round() / 255 if media.kind == "video" else 0.2 * x - 0.05


def theirs(kind: str, x: torch.Tensor, frames: Mapping[int, int] | None = None) -> torch.Tensor:
    """What the library's own feature extractor makes of clips."""
    if kind in loading.TYPES["audio"]:
        ready = extractor(kind)([row.numpy() for row in x[:, 0]], sampling_rate=16000, return_tensors="pt")
        return ready["input_values"]
    whole = (x * 255).round().to(torch.uint8)[:, :, [0, 2, 3, 5]]  # four of six frames, at equal distances
    clips = [list(each.transpose(0, 1).permute(0, 2, 3, 1).numpy()) for each in whole]
    if kind == "vivit":
        return torch.cat([extractor(kind)(frames, return_tensors="pt")["pixel_values"] for frames in clips])
    return torch.cat([extractor(kind)(np.stack(frames), return_tensors="pt")["pixel_values"] for frames in clips])


@pytest.mark.parametrize("kind", FIELDS)
def test_an_encoder_gives_what_the_library_gives(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / kind, kind)
    sound = kind in loading.TYPES["audio"]
    x = clip(AUDIO if sound else VIDEO)
    made: Any = (
        make_audio(AudioConfig(model=str(folder)), AUDIO)
        if sound
        else make_video(VideoConfig(model=str(folder)), VIDEO)
    )
    made.eval()
    own = transformers.AutoModel.from_pretrained(folder).eval()
    ready = theirs(kind, x)
    with torch.no_grad():
        expected = own(ready).last_hidden_state
        found = made(x)
    if sound:
        assert torch.allclose(made.frontend(x), ready, atol=1e-5)
        assert torch.allclose(found.tokens, expected, atol=1e-5)
    else:
        # The library resizes in 8 bits, along one side after the other, where a budget would be lost: a step at most.
        std = torch.tensor(made.frontend.std).view(1, 1, 3, 1, 1)
        steps = ((made.frontend(x) - ready) * std / made.frontend.scale * 255).abs()
        assert steps.max() <= 1.02
        assert steps.mean() < 0.4
    with torch.no_grad():
        same = made.encode(ready)
    assert torch.allclose(same.tokens, expected, atol=1e-5)
    pooled = expected[:, 0] if kind in ("timesformer", "vivit") else expected.mean(dim=1)
    assert torch.allclose(same.pooled, pooled, atol=1e-5)
    assert found.tokens.shape[2] == made.dims.token


@pytest.mark.parametrize("kind", FIELDS)
def test_a_classifier_gives_the_librarys_logits_and_keeps_its_head(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / kind, kind, head=True)
    sound = kind in loading.TYPES["audio"]
    media, modality = (AUDIO, "audio") if sound else (VIDEO, "video")
    raw = Raw(media)
    fusion = classifier(modality, folder, media)
    model = AVModel({modality: raw}, fusion, classes=5).eval()
    x = clip(media)
    ready = theirs(kind, x) if sound else fusion.module.parts[modality].frontend(x)
    auto: Any = transformers.AutoModelForAudioClassification if sound else transformers.AutoModelForVideoClassification
    with torch.no_grad():
        expected = auto.from_pretrained(folder).eval()(ready).logits
        assert torch.allclose(model({modality: x}), expected, atol=1e-5)
        other = AVModel({modality: raw}, classifier(modality, folder, media), 3)
        assert other.eval()({modality: x}).shape == (2, 3)


def test_the_logits_of_two_classifiers_are_their_mean(tmp_path: Path) -> None:
    kinds = {"audio": ("hubert", AUDIO), "video": ("videomae", VIDEO)}
    folders = {name: saved(tmp_path / kind, kind, head=True) for name, (kind, _) in kinds.items()}
    config = ClassifierConfig.model_validate({"models": {name: {"model": str(at)} for name, at in folders.items()}})
    raw = {name: Raw(media) for name, (_, media) in kinds.items()}
    both = AVModel(raw, make_classifier(config, {name: each.dims for name, each in raw.items()}), classes=5).eval()
    x = {name: clip(media) for name, (_, media) in kinds.items()}
    alone = []
    for name, (_, media) in kinds.items():
        alone.append(AVModel({name: raw[name]}, classifier(name, folders[name], media), classes=5).eval()(x))
    assert torch.allclose(both(x), torch.stack(alone).mean(dim=0), atol=1e-6)
    saved(tmp_path / "hubert", "hubert", head=True, labels=4)
    with pytest.raises(AvrobustError, match="mean of logits, and the classes are of"):
        make_classifier(config, {name: each.dims for name, each in raw.items()})


def test_pictures_of_the_models_size_are_prepared_exactly(tmp_path: Path) -> None:
    """Without resizing there is nothing to be rounded: equal to the library's to 1e-5."""
    plain = transformers.VideoMAEVideoProcessor(do_resize=False, crop_size={"height": 32, "width": 32})
    folder = saved(tmp_path / "videomae", "videomae")
    plain.save_pretrained(folder)
    frontend = make_video(VideoConfig(model=str(folder)), VIDEO).frontend
    x = clip(VIDEO, 1)
    whole = (x * 255).round().to(torch.uint8)[0, :, [0, 2, 3, 5]].permute(1, 2, 3, 0).numpy()
    assert torch.allclose(frontend(x), plain(whole, return_tensors="pt")["pixel_values"], atol=1e-5)


def test_gradients_reach_the_raw_clip_and_an_attack_keeps_to_raw_units(tmp_path: Path) -> None:
    folder = saved(tmp_path / "wav2vec2", "wav2vec2", head=True)
    raw = Raw(AUDIO)
    fusion = classifier("audio", folder, AUDIO)
    model = AVModel({"audio": raw}, fusion, classes=5).eval()
    x = clip(AUDIO)
    victim = Victim(model, media={"audio": AUDIO}, task="single-label")
    batch = Batch({"audio": x}, torch.zeros(2, dtype=torch.int64), ("a", "b"))
    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.of({"audio": Budget(norm="linf", eps=0.01)}))
        leaf = x.clone().requires_grad_(True)
        bound.loss(bound({"audio": leaf})).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.flatten(1).norm(dim=1).min() > 0
    assert (bound.region.project({"audio": x + 1})["audio"] - x).abs().max() <= 0.01 + 1e-6


@pytest.mark.parametrize("normalise", [True, False])
def test_the_gradient_of_a_prepared_waveform_is_its_slope(normalise: bool) -> None:
    x = clip(MediaSpec(kind="audio", shape=(2, 9))).double().requires_grad_(True)
    assert torch.autograd.gradcheck(Waveform(normalise=normalise), (x,))


def test_the_gradient_of_prepared_pictures_is_their_slope() -> None:
    frontend = Pictures(2, {"size": {"shortest_edge": 5}, "crop_size": {"height": 4, "width": 4}}, side=4)
    x = clip(MediaSpec(kind="video", shape=(3, 3, 7, 8)), count=1).double().requires_grad_(True)
    assert torch.autograd.gradcheck(frontend, (x,))


def test_silence_and_two_channels(tmp_path: Path) -> None:
    folder = saved(tmp_path / "wav2vec2", "wav2vec2")
    stereo = MediaSpec(kind="audio", shape=(2, 4000), rate=16000, bounds=(-1, 1))
    encoder = make_audio(AudioConfig(model=str(folder)), stereo).eval()
    x = clip(stereo)
    assert torch.allclose(encoder.frontend(x), encoder.frontend(x.mean(dim=1, keepdim=True)), atol=1e-6)
    assert encoder(torch.zeros(1, 2, 4000)).tokens.isfinite().all()


def test_training_draws_nothing_from_numpys_global_state(tmp_path: Path) -> None:
    folder = saved(tmp_path / "wav2vec2", "wav2vec2")
    encoder = make_audio(AudioConfig(model=str(folder)), AUDIO).train()
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    encoder(clip(AUDIO))
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_nothing_is_downloaded_unless_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(AvrobustError, match="nothing is downloaded otherwise"):
        make_audio(AudioConfig(model="facebook/wav2vec2-base"), AUDIO)
    assert not asked
    with pytest.raises(AvrobustError, match="could not be had from the Hugging Face hub: no network here"):
        make_audio(AudioConfig(model="facebook/wav2vec2-base", download=True), AUDIO)
    assert asked == ["facebook/wav2vec2-base"]


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AvrobustError, match="pip install 'avrobust-transformers'"):
        make_audio(AudioConfig(architecture={"model_type": "wav2vec2", **SOUND}), AUDIO)


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "videomae", "videomae")
    with pytest.raises(WeightsError, match=r"lacks weights of VideoMAEForVideoClassification: .*classifier"):
        classifier("video", folder, VIDEO)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "wav2vec2", "wav2vec2")
    config = AudioConfig(model=str(folder))
    with pytest.raises(DataError, match="reads sound of 16000 Hz, and this has 8000 Hz"):
        make_audio(config, MediaSpec(kind="audio", shape=(1, 4000), rate=8000))
    with pytest.raises(DataError, match="clips of 40 samples are too short for the model: at least 45"):
        make_audio(config, MediaSpec(kind="audio", shape=(1, 40), rate=16000))
    with pytest.raises(DataError, match="another encoder"):
        make_audio(config, VIDEO)
    with pytest.raises(AvrobustError, match="type 'wav2vec2' are not read here, but: videomae"):
        make_video(VideoConfig(model=str(folder)), VIDEO)
    with pytest.raises(AvrobustError, match="type 'bert' are not read here"):
        make_audio(AudioConfig(architecture={"model_type": "bert"}), AUDIO)
    with pytest.raises(AvrobustError, match="has models of audio, and the encoders are of audio, video"):
        make_classifier(
            ClassifierConfig.model_validate({"models": {"audio": {"model": str(folder)}}}),
            {"audio": Raw(AUDIO).dims, "video": Raw(VIDEO).dims},
        )
    with pytest.raises(DataError, match=r"a wav2vec2 model reads sound \(C, T\), and video has the shape"):
        classifier("video", saved(tmp_path / "other", "wav2vec2", head=True), VIDEO)
    (folder / "config.json").write_text("{")
    with pytest.raises(AvrobustError, match=r"config\.json cannot be read as JSON"):
        make_audio(config, AUDIO)
    for wrong in ({}, {"model": "x", "architecture": {"model_type": "hubert"}}, {"architecture": {}}):
        with pytest.raises(ValidationError):
            AudioConfig.model_validate(wrong)
    with pytest.raises(ValidationError, match="revision belongs to"):
        AudioConfig(model="x", revision="main")


def test_what_a_folder_holds_identifies_it_and_not_its_place(tmp_path: Path) -> None:
    here = saved(tmp_path / "here", "wav2vec2")
    there = Path(shutil.copytree(here, tmp_path / "there"))
    first = AudioConfig(model=str(here)).identity()
    assert AudioConfig(model=str(there)).identity() == first
    described = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps(described | {"layer_norm_eps": 0.1}))
    assert AudioConfig(model=str(there)).identity() != first


@parametrize_with_checks([*avrobust_encoders(), *avrobust_fusions()])
def test_conforms(subject: Any, check: Any) -> None:
    check(subject)
