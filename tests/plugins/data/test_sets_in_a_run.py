"""A run on a published data set says which clips of it this copy has, and samples by its labels."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from avrobust_core.cli import main


@pytest.fixture
def spec(tmp_path: Path, media) -> Path:
    """AudioSet's layout with 16 segments of two classes; one of each list has no file, and one file is no sound."""
    rng = np.random.default_rng(0)
    (tmp_path / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/b,"Bells, all"\n1,/m/a,Alarm\n')
    (tmp_path / "wav").mkdir()
    for name, count in ("balanced_train", 10), ("eval", 6):
        rows = []
        for i in range(count):
            clip = f"{name[:5]}_{i:05d}"
            rows.append(f'{clip}, {10 * i}.000, {10 * i + 10}.000, "{"/m/a,/m/b" if i == 4 else "/m/" + "ab"[i % 2]}"')
            if i:
                sound = rng.uniform(-0.5, 0.5, (1, 2000)).astype(np.float32)
                path = tmp_path / "wav" / f"Y{clip}_{10 * i}.wav"
                media(path, sound=sound, rate=8000, audio_codec="pcm_f32le")
        (tmp_path / f"{name}_segments.csv").write_text("# a\n# b\n# c\n" + "\n".join(rows) + "\n")
    (tmp_path / "wav" / "Yeval_00003_30.wav").write_bytes(b"\x00not a sound")
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"""
version: 1
name: heard
data:
  use: audioset
  with:
    lists: {{train: [{tmp_path}/balanced_train_segments.csv], test: {tmp_path}/eval_segments.csv}}
    class_list: {tmp_path}/class_labels_indices.csv
    media: {tmp_path}/wav
    modalities: [audio]
    seconds: 0.25
    sample_rate: 8000
    max_unreadable: 0.5
encoders:
  audio: {{use: cnn, with: {{channels: [4, 4]}}}}
models:
  heard: {{encoders: [audio]}}
training:
  balanced: {{epochs: 1, batch_size: 3, select: last, augment: [balanced-sampling]}}
"""
    )
    return path


def test_a_run_says_what_was_listed_found_missing_and_read(tmp_path, spec, capsys) -> None:
    assert main(["run", str(spec), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    printed = capsys.readouterr().out
    said = "audioset: train: 9 found (10 listed, 22160 published); test: 5 found (6 listed, 20371 published)"
    assert f"data: {said}" in printed
    assert "2 of the 16 listed clips have no file below" in printed
    assert "skipped 1 unreadable clip(s) of split 'test': eval_00003" in printed
    data = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
    assert data["summary"] == said
    assert data["missing"] == {"train": 1, "test": 1}
    read = "".join(f"eval_{i:05d}\n" for i in (1, 2, 4, 5))
    assert data["splits"]["test"] == {
        "clips": 5,
        "unreadable": 1,
        "ids": hashlib.sha256(read.encode()).hexdigest(),
    }
