"""A run over media files says what it found about them, each time it is called."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avrobust_core import AvrobustWarning, CheckpointLayout, Reached, WeightsError
from avrobust_core.cli import main
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder


@pytest.fixture
def spec(tmp_path: Path, media) -> Path:
    """Ten short sounds of two classes, one of them silent, one half as long, and one of a class that nobody learns."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for i in range(10):
        sound = rng.uniform(-0.5, 0.5, (1, 2000)).astype(np.float32) * (i != 8)
        sound = sound[:, : 1000 if i == 7 else None]
        media(tmp_path / f"{i}.wav", sound=sound, rate=8000, audio_codec="pcm_f32le")
        rows.append(f"{i}.wav,{2 if i == 9 else i % 2},{'train' if i < 6 else 'test'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"""
version: 1
name: heard
data:
  use: clips
  with: {{manifest: {tmp_path}/manifest.csv, modalities: [audio], seconds: 0.25, sample_rate: 8000}}
encoders:
  audio: {{use: cnn, with: {{channels: [4, 4]}}}}
models:
  heard: {{encoders: [audio]}}
training:
  short: {{epochs: 1, batch_size: 3}}
"""
    )
    return path


def test_silent_clips_and_classes_without_clips_are_told_by_every_run(tmp_path, spec, capsys) -> None:
    for _ in range(2):  # the second reuses all, and reads no clip
        assert main(["run", str(spec), "--out", str(tmp_path / "run"), "--quiet"]) == 0
        printed = capsys.readouterr().out
        assert "read 1 clip(s) of split 'test' without content: 8.wav (audio is 0 throughout)" in printed
        assert (
            "read 1 clip(s) of split 'test' that are shorter, and padded: 7.wav (50 % of audio is padding)" in printed
        )
        assert "1 of the 3 classes of split 'test' have no clip in 'train'" in printed
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["constant"] == {"test": {"8.wav": "audio is 0 throughout"}}
        assert result["padded"] == {"test": {"7.wav": "50 % of audio is padding"}}
        assert result["skipped"] == {}
        assert len(result["notes"]) == 1
    assert result["reused"] == 1
    assert main(["plan", str(spec), "--out", str(tmp_path / "run")]) == 0
    assert "note: " in capsys.readouterr().err


def test_a_file_replaced_by_another_of_its_size_is_fitted_again(tmp_path, spec, media, capsys) -> None:
    assert main(["run", str(spec), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    size = (tmp_path / "0.wav").stat().st_size
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 2000)).astype(np.float32)
    media(tmp_path / "0.wav", sound=noise, rate=8000, audio_codec="pcm_f32le")
    assert (tmp_path / "0.wav").stat().st_size == size
    capsys.readouterr()
    assert main(["plan", str(spec), "--out", str(tmp_path / "run")]) == 0
    assert "to fit: changed: data.fingerprint" in capsys.readouterr().out


def _with_head(builder: Builder, dataset, path, **around) -> dict[str, torch.Tensor]:
    """Write weights of the encoder that the spec has, with a head that always says the first class; the head."""
    model = builder.model("heard", dataset)
    own = model.head.state_dict()
    head = {"weight": torch.zeros_like(own["weight"]), "bias": -torch.arange(len(own["bias"])).float()}
    encoder = model.encoders["audio"].state_dict()
    torch.save({"model": encoder | {f"head.{name}": x for name, x in head.items()}, **around}, path)
    return head


@pytest.mark.parametrize(
    ("around", "more", "taken"),
    [
        ({}, [], False),
        ({}, ["encoders.audio.classes=trusted"], True),
        ({"classes": ["0", "1", "2"]}, [], True),
        ({"classes": ["0", "2", "1"]}, ["encoders.audio.classes=new"], False),
    ],
)
def test_a_head_is_taken_if_its_classes_are_known_to_be_the_data_sets(tmp_path, spec, around, more, taken) -> None:
    registry = Registry.discover()
    plain = Builder(load_spec(spec, registry, []).spec, registry)
    dataset = plain.dataset()
    head = _with_head(plain, dataset, tmp_path / "theirs.pt", **around)
    changes = [f"encoders.audio.weights={tmp_path}/theirs.pt", *more]
    builder = Builder(load_spec(spec, registry, changes).spec, registry)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = builder.model("heard", dataset)
    start = plain.model("heard", dataset).head.state_dict()
    assert torch.equal(model.head.state_dict()["weight"], (head if taken else start)["weight"])
    notes = [str(note.message) for note in told if note.category is AvrobustWarning]
    assert [("is not taken" in note, "trusted" in note) for note in notes] == ([] if around or more else [(True, True)])


def test_a_head_with_classes_in_another_order_is_refused(tmp_path, spec) -> None:
    registry = Registry.discover()
    plain = Builder(load_spec(spec, registry, []).spec, registry)
    dataset = plain.dataset()
    _with_head(plain, dataset, tmp_path / "theirs.pt", classes=["0", "2", "1"])
    changes = [f"encoders.audio.weights={tmp_path}/theirs.pt"]
    builder = Builder(load_spec(spec, registry, changes).spec, registry)
    with pytest.raises(WeightsError, match=r"positions 1: '2', not '1', 2: '1', not '2'; they are the same in another"):
        builder.model("heard", dataset)
    identities = set()
    for more in ([], ["encoders.audio.classes=new"], ["encoders.audio.classes=trusted"]):
        builder = Builder(load_spec(spec, registry, [*changes, *more]).spec, registry)
        identities.add(json.dumps(builder.fit_identity("heard", "short", dataset)))
    assert len(identities) == 3, "what a cell starts from is part of what it is"


def test_a_published_network_that_is_not_trained_has_its_published_value_beside_the_one_found(
    tmp_path, spec, monkeypatch, capsys
) -> None:
    from avrobust_audio.cnn import Cnn

    registry = Registry.discover()
    builder = Builder(load_spec(spec, registry, []).spec, registry)
    _with_head(builder, builder.dataset(), tmp_path / "w.pt")
    reached = Reached("accuracy", 0.625, "the published clips")
    layout = CheckpointLayout(
        name="theirs",
        marks=("head.weight",),
        convert=lambda state: state,
        classes=lambda outputs: tuple(map(str, range(outputs))),
        reached=reached,
    )
    monkeypatch.setattr(Cnn, "layouts", (layout,))
    monkeypatch.chdir(tmp_path)
    run = ["run", str(spec), "--quiet", "--set", "encoders.audio.weights=w.pt", "--set"]
    for _ in range(2):  # computed, and reused
        assert main([*run, "training.short.epochs=0", "--set", "audit=off"]) == 0
        found = " ".join(capsys.readouterr().out.split())
        assert "heard/short as published: clean accuracy here 50.0 %; published 62.5 % on the published clips" in found
    assert main([*run, "training.short.epochs=1", "--set", "audit=off"]) == 0
    assert "as published" not in capsys.readouterr().out, "it was trained further"
    monkeypatch.setattr(Cnn, "layouts", (replace(layout, reached=replace(reached, metric="map")),))
    assert main([*run, "training.short.epochs=0", "--set", "audit=off", "--set", "seed=1"]) == 0
    assert "clean map here not measured: ask for `metrics: [map]`; published 62.5 %" in capsys.readouterr().out
