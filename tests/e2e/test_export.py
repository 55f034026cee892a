"""`avrobust export`: what is written is what was reported, read by `clips` and by FFmpeg, and asked anew."""

import csv
import json
import os
import shutil
import signal
import subprocess
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from avrobust_core import Registry
from avrobust_core.cli import main
from avrobust_core.errors import RunError
from avrobust_core.models.saving import load_weights
from avrobust_core.registry.choices import configure
from avrobust_core.report.html.page import gather
from avrobust_core.report.html.reading import read_run
from avrobust_core.report.html.view import Gallery
from avrobust_core.report.media_files import Form
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder
from avrobust_core.study.console import Monitor
from avrobust_core.study.runner import carry_out
from avrobust_core.training.fit import WEIGHTS

SPEC = """\
version: 1
name: tiny
data: {use: toy-av, with: {classes: 4, train: 48, val: 0, test: 16, size: 16, frames: 4, sample_rate: 4000}}
encoders:
  audio: {use: cnn, with: {channels: [8], n_mels: 16, hop_ms: 16}}
  video: {use: video-patches, with: {width: 16, patch_size: 8}}
models: {concat: {encoders: [audio, video], fusion: concat}}
training: {standard: {epochs: 0}}
threats: {both: {audio: {eps: 0.01}, video: {eps: 6.4/255}}, loud: {audio: {eps: 0.00002}, video: {eps: 0.4/255}}}
attacks:
  pgd: {use: pgd, with: {steps: 3}, curve: [0.5, 2]}
  rounded: {use: rounded, with: {attack: {use: pgd, with: {steps: 3}}}, threats: [both]}
audit: off
evaluation: {resamples: 100}
engine: {accelerator: cpu, batch_size: 5}
"""

AVDIGITS = Path(__file__).parents[3] / "shared" / "data" / "avdigits" / "manifest.csv"


def made(folder: Path, text: str) -> Path:
    (folder / "spec.yaml").write_text(text)
    registry = Registry.discover()
    found = carry_out(load_spec(folder / "spec.yaml", registry), registry, out=folder / "run", silent=True)
    assert not found["failed"], found
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("study"), SPEC)


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[Path, dict[str, Any]]:
    assert main(["export", str(run), "--ids", *(f"test-{i:06}" for i in range(16)), "--quiet", "--png"]) == 0
    return run / "export", json.loads((run / "export" / "export.json").read_text())


class Asking:
    """The run's model and data, put together apart from what is tested."""

    def __init__(self, run: Path) -> None:
        self.registry = Registry.discover()
        spec = load_spec(run / "resolved.yaml", self.registry).spec
        builder = Builder(spec, self.registry)
        self.dataset = builder.dataset()
        self.model = builder.model("concat", self.dataset)
        (weights,) = run.glob(f"cells/*/{WEIGHTS}")
        load_weights(self.model, weights)
        self.model.eval()

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self.model({name: x[None] for name, x in inputs.items()})[0]

    def by_clips(self, folder: Path) -> Callable[[str], dict[str, Tensor]]:
        data = yaml.safe_load((folder / "data.yaml").read_text())["data"]
        read = configure(self.registry, "dataset", data["use"], data["with"]).build()
        assert read.classes == self.dataset.classes
        index = {clip_id: i for i, clip_id in enumerate(read.ids("test"))}
        return lambda path: read.read("test", index[path.rpartition(".")[0]]).inputs


def by_ffmpeg(folder: Path, path: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    def decoded(*options: str) -> bytes:
        command = ["ffmpeg", "-v", "error", "-i", str(folder / path), *options, "-"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    seen = np.frombuffer(decoded("-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough"), np.uint8)
    heard = np.frombuffer(decoded("-f", "s16le"), "<i2")
    frames, size = shape[1], shape[2]
    pictures = torch.from_numpy(seen.copy()).reshape(frames, size, size, 3).permute(3, 0, 1, 2)
    return {"audio": torch.from_numpy(heard.copy())[None] / 32768, "video": pictures / 255}


def told(findings: dict[str, Any]) -> Iterator[tuple[str, str, list[float], dict[str, Any] | None]]:
    for cell in findings["cells"]:
        clean = cell["clean"]
        for path, clip_id, logits in zip(clean["paths"], cell["clips"], clean["logits_saved"], strict=True):
            yield path, clip_id, logits, None
        for attack in cell["attacks"]:
            for clip in attack["clips"]:
                yield clip["path"], clip["id"], clip["logits_saved"], clip


def check(run: Path, folder: Path, findings: dict[str, Any]) -> None:
    """What is said of every file, against what a reader of its own finds in it."""
    asking = Asking(run)
    read = asking.by_clips(folder)
    position = {clip_id: i for i, clip_id in enumerate(asking.dataset.ids("test"))}
    shape = asking.dataset.media["video"].shape
    for number, (path, clip_id, logits, clip) in enumerate(told(findings)):
        inputs = read(path)
        assert asking.logits(inputs).tolist() == pytest.approx(logits, abs=1e-4), path
        if number % 9 == 0 and shutil.which("ffmpeg"):
            others = by_ffmpeg(folder, path, shape)
            assert asking.logits(others).tolist() == pytest.approx(logits, abs=1e-4), path
        if clip is None:
            continue
        clean = asking.dataset.read("test", position[clip_id])
        right = int(asking.logits(clean.inputs).argmax()) == int(clean.target)
        assert clip["fooled_saved"] == (clip["fooled"] and int(np.argmax(logits)) != int(clean.target))
        assert not clip["fooled"] or right
        for name, norm in clip["norm_saved"].items():
            assert norm == pytest.approx(float((inputs[name].double() - clean.inputs[name].double()).abs().max()))


def test_logits_and_norms_after_saving_are_those_of_the_files(run: Path, exported) -> None:
    folder, findings = exported
    assert len(list(told(findings))) == 16 * 4
    check(run, folder, findings)


def test_what_is_worth_nothing_once_saved_is_told_apart_from_what_is(exported) -> None:
    found = {(e["attack"], e["threat"]): e for e in exported[1]["cells"][0]["attacks"]}
    for entry in found.values():
        fooled = [clip["fooled"] for clip in entry["clips"]]
        still = [clip["fooled_saved"] for clip in entry["clips"]]
        assert entry["fooled"]["count"] == sum(fooled)
        assert (entry["still_fooled"]["count"], entry["still_fooled"]["of"]) == (sum(still), sum(fooled))
        assert (entry["fooled_saved"]["count"], entry["fooled_saved"]["of"]) == (sum(still), 16)
        assert entry["otherwise_than_in_run"] == 0
        assert entry["success_rate_in_run"]["n"] > 0
    # Searched among what files keep, it is still there, inside its budget, which others leave by half a step.
    rounded, plain = found["rounded", "both"], found["pgd", "both"]
    assert rounded["still_fooled"]["count"] == rounded["fooled"]["count"] > 0
    assert rounded["beyond_budget"] == 0 < plain["beyond_budget"]
    # Less than half a step of 8 bits is gone once saved.
    assert all(clip["norm_saved"]["video"] <= 0.5 / 255 + 1e-6 for clip in found["pgd", "loud"]["clips"])


def test_the_manifest_keeps_versions_of_a_clip_together_and_says_which_is_which(exported) -> None:
    folder, findings = exported
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["version"] for row in rows] == ["clean"] * 16 + ["attacked"] * 48
    assert {row["group"] for row in rows} == {row["source"] for row in rows} == set(findings["cells"][0]["clips"])
    clips = {c["path"]: c for _, _, _, c in told(findings) if c is not None}
    for row in rows[16:]:
        assert row["fooled_saved"] == str(int(clips[row["path"]]["fooled_saved"]))
        assert row["path"].startswith(f"concat_standard/{row['attack']}/{row['threat']}/{row['source']}.")
    for row in rows:
        with wave.open(str(folder / row["wav"])) as sound:
            assert (sound.getframerate(), sound.getsampwidth(), sound.getnframes()) == (4000, 2, 4000)
        assert sorted(path.name for path in (folder / row["png"]).iterdir()) == [f"{i:04}.png" for i in range(4)]
    assert not list(folder.parent.glob(".avrobust-unfinished*"))
    assert folder.stat().st_mode & 0o777 == 0o755, "others may read it, though it was made in a folder of its own"


def test_pictures_as_png_are_those_of_the_film(exported) -> None:
    image = pytest.importorskip("PIL.Image")
    folder, _ = exported
    film = by_ffmpeg(folder, "clean/test-000001.mkv", (3, 4, 16, 16))["video"] if shutil.which("ffmpeg") else None
    if film is None:
        pytest.skip("ffmpeg is not installed")
    for i in range(4):
        picture = torch.from_numpy(np.array(image.open(folder / "clean" / "test-000001" / f"{i:04}.png")))
        assert torch.equal(picture.permute(2, 0, 1) / 255, film[:, i])


def test_clips_that_the_model_has_right_are_chosen_by_a_hash_and_named_in_the_last_lines(
    run, tmp_path, capsys, monkeypatch
) -> None:
    speakers = {f"test-{i:06}": f"speaker-{i % 2}" for i in range(16)}
    monkeypatch.setattr("avrobust_core.report.exporting.groups_by_clip", lambda *_: speakers)
    command = ["export", str(run), "--clips", "2", "--attacks", "pgd/both", "--sound", "float32", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "few")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("saved as float32 and ffv1; clips: of each model the first 2")
    findings = json.loads((tmp_path / "few" / "export.json").read_text())
    assert lines[1].startswith("concat/standard: clean clips right after saving: 2 of 2 (100.0 [")
    assert "concat/standard, pgd on both: still fooled after saving: " in lines[2]
    assert len(findings["cells"][0]["clips"]) == 2
    (entry,) = findings["cells"][0]["attacks"]
    # Samples of 32 bits are kept as they are.
    assert all(clip["norm_saved"]["audio"] == clip["norm"]["audio"] for clip in entry["clips"])
    with (tmp_path / "few" / "manifest.csv").open() as file:
        assert all(row["group"] == speakers[row["source"]] for row in csv.DictReader(file)), "the study's own groups"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cells", "concat/standrd"], "there is no cell 'concat/standrd'; there are: concat/standard; did you mean"),
        (["--attacks", "pgd/bth"], "there is no attack 'pgd/bth'"),
        (["--ids", "test-000999"], "has not evaluated concat/standard on clip test-000999"),
        (["--sound", "mp3:64k"], "'mp3' is no coding; there are: pcm16, float32, aac, opus"),
        (["--sound", "aac"], "aac needs bits per second"),
        (["--pictures", "ffv1:9k"], "ffv1 loses nothing"),
        (["--set", "training.standard.epochs=3"], "it is not fitted here: changed: training.epochs 0"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(run, tmp_path, capsys, options, message) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--quiet", *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_half_way_leaves_nothing(run, tmp_path, monkeypatch, capsys) -> None:
    def write(self, clip, folder, name):
        (folder / "half").mkdir(parents=True)
        raise RunError("the encoder gave up")

    monkeypatch.setattr("avrobust_core.report.media_files.Writer.write", write)
    assert main(["export", str(run), "--clips", "1", "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "the encoder gave up" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    kept = Form.kept
    monkeypatch.setattr(Form, "kept", lambda *given: {name: x + 1 / 256 for name, x in kept(*given).items()})
    assert main(["export", str(run), "--clips", "1", "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "is not read back as it was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_report_shows_what_was_exported(run, exported) -> None:
    page = gather(read_run(run), Registry.discover())
    (found,) = [part for section in page.sections for part in section.parts if isinstance(part, Gallery)]
    versions = {version.title for clip in found.clips for version in clip.versions}
    assert versions == {f"concat/standard: {name}" for name in ("pgd on both", "pgd on loud", "rounded on both")}
    assert all(media.data for clip in found.clips for media in (*clip.media, *clip.versions[0].media))


def test_a_folder_that_is_no_run_and_one_that_is_not_empty_are_refused(run, exported, tmp_path, capsys) -> None:
    assert main(["export", str(tmp_path)]) == 1
    assert f"{tmp_path} is no run" in capsys.readouterr().err
    assert main(["export", str(run), "--quiet"]) == 1
    assert "is there already, and not empty" in capsys.readouterr().err


def test_an_export_that_a_signal_stops_leaves_nothing_and_says_so(
    run, tmp_path, monkeypatch, capsys, ordinary_signals
) -> None:
    monkeypatch.setattr(Monitor, "update", lambda monitor, done, total: os.kill(os.getpid(), signal.SIGTERM))
    command = ["export", str(run), "--out", str(tmp_path / "out"), "--clips", "2", "--attacks", "pgd/both"]
    assert main(command) == 143
    assert f"stopped by SIGTERM; nothing of it is kept: avrobust {' '.join(command)}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not AVDIGITS.exists(), reason="the clips are not here")
def test_real_clips_are_what_was_reported(tmp_path: Path) -> None:
    data = f"{{use: clips, with: {{manifest: '{AVDIGITS}'}}}}"
    text = SPEC.replace(SPEC.splitlines()[2], f"data: {data}").replace("resamples: 100", "resamples: 100, clips: 40")
    run = made(tmp_path, text)
    assert main(["export", str(run), "--clips", "6", "--quiet"]) == 0
    check(run, run / "export", json.loads((run / "export" / "export.json").read_text()))


@pytest.mark.slow
def test_clips_with_several_labels_coded_with_losses(tmp_path: Path, capsys) -> None:
    run = made(tmp_path, SPEC.replace("{classes: 4,", "{classes: 4, labels_per_clip: 2,"))
    command = ["export", str(run), "--sound", "aac:32k", "--pictures", "h264:200k", "--attacks", "pgd/both"]
    try:
        assert main([*command, "--ids", "test-000001", "test-000002", "--quiet", "--json"]) == 0
    except RunError as error:  # pragma: no cover - an FFmpeg without these encoders
        pytest.skip(str(error))
    findings = json.loads(capsys.readouterr().out)
    assert (findings["sound"], findings["pictures"]) == ("aac:32k", "h264:200k")
    asking = Asking(run)
    read = asking.by_clips(run / "export")
    for path, _, logits, _ in told(findings):
        assert asking.logits(read(path)).tolist() == pytest.approx(logits, abs=1e-4)
