"""`shards`: media files that were packed give the same clips, and the same study, as the files themselves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig
from avrobust_data.plugin import avrobust_datasets
from safetensors.torch import load_file

from avrobust_core import ClipError
from avrobust_core.cli import main

FIELDS = {"seconds": 0.5, "sample_rate": 8000, "frames": 4, "size": 16, "max_unreadable": 0.2}

STUDY = """
version: 1
name: heard
encoders:
  audio: {use: cnn, with: {channels: [4, 4]}}
  video: slowfast-tiny
models:
  both: {encoders: [audio, video], fusion: concat}
training:
  short: {epochs: 2, batch_size: 4}
threats:
  video: {video: {eps: 4/255}}
attacks:
  pgd: {use: pgd, with: {steps: 2}}
metrics: [accuracy]
evaluation: {resamples: 100}
"""


def study(path: Path, use: str, **fields: object) -> Path:
    path.write_text(f"{STUDY}\ndata: {json.dumps({'use': use, 'with': fields})}\n")
    return path


@pytest.fixture
def files(tmp_path: Path, media: Callable[..., Path]) -> Path:
    """Twelve short films of two classes, with groups; one of them is no film. Returns the spec of a study."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split,group"]
    for i in range(12):
        sound = rng.uniform(-0.5, 0.5, (1, 4000)).astype(np.float32)
        pictures = rng.integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)
        if i == 7:
            (tmp_path / "7.mkv").write_bytes(b"no film")
        else:
            media(tmp_path / f"{i}.mkv", sound=sound, rate=8000, pictures=pictures, audio_codec="pcm_f32le")
        rows.append(f"{i}.mkv,{i % 2},{'train' if i < 8 else 'test'},speaker {i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return study(tmp_path / "files.yaml", "clips", manifest=f"{tmp_path}/manifest.csv", **FIELDS)


@pytest.fixture
def packed(files: Path, capsys) -> Path:
    folder = files.parent / "packed"
    assert main(["data", "pack", str(files), "--out", str(folder), "--shard-clips", "3"]) == 0
    return folder


def test_packed_files_give_the_clips_that_files_give_bit_for_bit(files: Path, packed: Path) -> None:
    component = next(each for each in avrobust_datasets() if each.name == "shards")
    shards = component.make(component.config(root=packed))
    clips = make_clips(ClipsConfig(manifest=files.parent / "manifest.csv", **FIELDS))
    assert (shards.classes, shards.task, shards.media, shards.splits) == (
        clips.classes,
        clips.task,
        clips.media,
        clips.splits,
    )
    for split in clips.splits:
        assert shards.ids(split) == clips.ids(split)
        assert shards.groups(split) == clips.groups(split)
        for i in range(len(clips.ids(split))):
            if (split, i) == ("train", 7):
                with pytest.raises(ClipError) as expected:
                    clips.read(split, i)
                with pytest.raises(ClipError) as found:
                    shards.read(split, i)
                assert str(found.value) == str(expected.value)
                continue
            expected, found = clips.read(split, i), shards.read(split, i)
            assert found.id == expected.id
            assert torch.equal(found.target, expected.target)
            for name, x in expected.inputs.items():
                assert found.inputs[name].dtype == torch.float32
                assert torch.equal(found.inputs[name].view(torch.int32), x.view(torch.int32))
    assert (packed / "shard-00000.tar").stat().st_size < 3 * 4 * (4000 + 3 * 4 * 16 * 16), "pictures are kept in bytes"


@pytest.mark.slow
def test_a_study_of_packed_clips_has_the_results_of_one_of_files(files: Path, packed: Path, tmp_path: Path) -> None:
    found = []
    for spec in (files, study(tmp_path / "shards.yaml", "shards", root=str(packed))):
        out = tmp_path / spec.stem
        assert main(["run", str(spec), "--out", str(out), "--quiet"]) == 0
        (cell,) = (out / "cells").iterdir()
        history = (cell / "history.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in history]
        skipped = json.loads((out / "result.json").read_text())["skipped"]
        weights = load_file(cell / "model.safetensors")
        found.append((skipped, losses, pq.read_table(cell / "samples.parquet").to_pylist(), weights))
    (of_files, of_shards) = found
    assert of_shards[:3] == of_files[:3]
    assert all(torch.equal(of_shards[3][name], x) for name, x in of_files[3].items())
    assert of_files[0].keys() == {"train"}
    assert len(of_files[1]) == 2
    assert len(of_files[2]) == 2 * 4
