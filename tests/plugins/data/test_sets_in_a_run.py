"""A run on a published data set says which clips of it this copy has, and samples by its labels."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avrobust_core.cli import main

EXAMPLES = Path(__file__).parents[3] / "examples"
LEFT_OUT = [
    f"{{model: {model}, training: {regime}}}"
    for model in ("audio-only", "video-only", "late", "decision")
    for regime in ("mixup", "guided-mixup", "guided-vertex-mixup", "adversarial")
]
SMALL = [
    *("data.with.sample_rate=8000", "data.with.frames=2", "data.with.size=32", "data.with.seconds=0.5"),
    *("encoders.audio.with.embed=64", "encoders.video.with.model=resnet18", "models.mid.fusion.with.width=32"),
    *("training.standard.epochs=1", "training.mixup.epochs=1", "training.guided-mixup.epochs=2"),
    "training.guided-vertex-mixup.epochs=3",
    *("training.adversarial.epochs=1", "attacks.pgd.with.steps=2", "attacks.fmn.with.steps=2"),
    *("attacks.universal.with.epochs=1", "audit=off"),
    *(f"exclude=[{', '.join(LEFT_OUT)}]", "attacks.pgd.curve=[0.5]"),
]
"""What makes an example of the four questions small."""


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


@pytest.fixture
def official(tmp_path: Path, media) -> Callable[[str], list[str]]:
    """Return a function that writes a small copy of a data set, and says what to set in its example."""

    def write(name: str) -> list[str]:
        (tmp_path / "copy").mkdir()
        lists: dict[str, list[str]] = {"train": [], "test": []}
        labels = ["bowling", "singing", "tickling"]
        rng = np.random.default_rng(0)
        for i in range(24):
            split, label = "train" if i < 16 else "test", i % 3
            file = f"clip_{i:06d}.mp4" if name == "audioset" else f"{labels[label]}/clip_{i:06d}_000030_000040.mp4"
            (tmp_path / "copy" / file).parent.mkdir(exist_ok=True)
            sound = rng.normal(0, 0.1, (1, 4000)) + 0.4 * np.sin(np.arange(4000) * (label + 1) / 4)
            pictures = rng.integers(0, 90, (4, 32, 32, 3)).astype(np.uint8)
            pictures[..., label] += 150
            media(tmp_path / "copy" / file, sound=sound.astype(np.float32), rate=8000, pictures=pictures, fps=8)
            if name == "audioset":
                lists[split].append(f'clip_{i:06d}, 30.000, 40.000, "/m/{label}{",/m/3" if i % 2 else ""}"')
            else:
                lists[split].append(f"{labels[label]},clip_{i:06d},30,40,{split},0")
        head = "# a\n# b\n# c\n" if name == "audioset" else "label,youtube_id,time_start,time_end,split,is_cc\n"
        for split, lines in lists.items():
            (tmp_path / f"{split}.csv").write_text(head + "\n".join(lines) + "\n")
        classes = "".join(f"{k},/m/{k},Class {k}\n" for k in range(4))
        (tmp_path / "classes.csv").write_text(f"index,mid,display_name\n{classes}")
        given = f"{{train: {tmp_path}/train.csv, test: {tmp_path}/test.csv}}"
        changes = [f"data.with.lists={given}", f"data.with.media={tmp_path}/copy"]
        return changes + ([f"data.with.class_list={tmp_path}/classes.csv"] if name == "audioset" else [])

    return write


@pytest.mark.slow
@pytest.mark.parametrize(("example", "task"), [("audioset", "multi-label"), ("ks", "single-label")])
def test_the_four_questions_are_answered_on_a_copy_in_the_official_layout(
    tmp_path, official, capsys, example, task
) -> None:
    pytest.importorskip("timm")
    changes = [part for change in [*official(example), *SMALL] for part in ("--set", change)]
    spec = EXAMPLES / f"li_2022_{example}.yaml"
    assert main(["run", str(spec), "--out", str(tmp_path / "run"), "--quiet", *changes]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["task"] == task
    assert result["failed"] == 0
    assert len(result["cells"]) == 9
    assert result["data"]["missing"] == {"train": 0, "test": 0}
    assert {comparison["question"][0] for comparison in result["comparisons"]} == {"1", "3", "4"}
    assert result["correlations"]
    for question in ("1. Are multi-modal", "3. Which fusion", "4. Does guided mix-up"):
        assert question in printed
