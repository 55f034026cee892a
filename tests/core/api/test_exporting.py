"""`evaluate` writes clips as media files: what they are worth is measured on the files; what cannot be is refused."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import avrobust_core
from avrobust_core import MediaSpec, Registry
from avrobust_core.errors import AvrobustError
from avrobust_core.registry.choices import configure
from avrobust_core.report.media_files import Writer

CLIPS = 20
MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 400), bounds=(-1.0, 1.0), rate=4000, time_axis=-1),
    "video": MediaSpec(kind="video", shape=(3, 2, 8, 8), bounds=(0.0, 1.0), rate=20, time_axis=1),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.audio = nn.Parameter(torch.randn(400, 3, generator=generator))
        self.video = nn.Parameter(torch.randn(384, 3, generator=generator))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["audio"].flatten(1) @ self.audio + inputs["video"].flatten(1) @ self.video


@pytest.fixture
def export(tmp_path: Path):
    """`evaluate` with one step of the sign; its arguments may be replaced."""
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "audio": torch.rand(CLIPS, 1, 400, generator=generator) - 0.5,
        "video": torch.rand(CLIPS, 3, 2, 8, 8, generator=generator),
    }
    with torch.no_grad():
        targets = Net()(inputs).argmax(1)
    targets[::4] = (targets[::4] + 1) % 3
    loader = [({k: x[i : i + 6] for k, x in inputs.items()}, targets[i : i + 6]) for i in range(0, CLIPS, 6)]

    def run(**options: Any) -> tuple[avrobust_core.Evaluation, Tensor]:
        settings: dict[str, Any] = {
            "attacks": {"sign": "fgsm"},
            "threats": {"both": {"audio": {"eps": 0.01}, "video": {"eps": 0.02}}},
            "media": MEDIA,
            "resamples": 100,
            "audit": "off",
            "export": tmp_path / "out",
        }
        return avrobust_core.evaluate(Net(), loader, **(settings | options)), targets

    return run


def test_what_exported_clips_are_worth_is_what_a_reader_of_the_files_finds(export, tmp_path: Path) -> None:
    result, targets = export(classes=["x", "y", "z"], groups=[f"g{i // 2}" for i in range(CLIPS)])
    (cell,), (outcome,) = result.exported["cells"], result.outcomes
    (entry,) = cell["attacks"]
    row = {clip_id: i for i, clip_id in enumerate(result.clean.ids)}
    assert len(cell["clips"]) == len(entry["clips"]) == 8
    assert all(result.clean.correct[row[clip_id]] for clip_id in cell["clips"])
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["data"]
    files = configure(Registry.discover(), "dataset", data["use"], data["with"]).build()
    assert files.classes == ("x", "y", "z")
    index = {clip_id: i for i, clip_id in enumerate(files.ids("test"))}
    assert set(files.groups("test")) == {f"g{row[clip_id] // 2}" for clip_id in cell["clips"]}
    for clip in entry["clips"]:
        number = row[clip["id"]]
        assert clip["logits"] == pytest.approx(outcome.predictions.logits[number].tolist(), abs=1e-4)
        assert clip["fooled"] == outcome.predictions.success[number]
        read = files.read("test", index[clip["path"].rpartition(".")[0]])
        with torch.no_grad():
            logits = Net()({name: x[None] for name, x in read.inputs.items()})[0].tolist()
        assert clip["logits_saved"] == pytest.approx(logits, abs=1e-4)
        assert clip["fooled_saved"] == (clip["fooled"] and int(np.argmax(logits)) != int(targets[number]))
    assert any(clip["fooled"] for clip in entry["clips"])
    assert entry["otherwise_than_in_run"] == 0
    assert entry["success_rate_in_run"] == result.summary["attack_success_rate"]["sign"]["both"]
    assert f"sign on both, saved: still fooled {entry['still_fooled']['count']} of" in str(result)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"media": None, "bounds": {"audio": (-1, 1), "video": (0, 1)}},
            "samples per second are unknown; state its",
        ),
        ({"media": MEDIA | {"video": replace(MEDIA["video"], rate=10)}}, "audio lasts 0.1 s and video 0.2 s"),
        ({"attacks": []}, "there is no attack of which clips"),
        ({"export": {"out": "x", "clip": 3}}, "export: clip: "),
        ({"export": {"out": "x", "ids": ["0", "twenty"]}}, "the loader gives no clip 'twenty'"),
        ({"export": {"out": "x", "sound": "aac"}}, "aac needs bits per second"),
        ({"export": Path(__file__).parent}, "is there already, and not empty"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_attacked(export, monkeypatch, options, why) -> None:
    attacked: list[object] = []
    monkeypatch.setattr("avrobust_core.evaluation.predictions.attack_batch", lambda *arguments: attacked.append(1))
    with pytest.raises(AvrobustError, match=why):
        export(**options)
    assert not attacked


def test_a_disk_that_is_full_at_the_end_costs_the_files_and_not_the_figures(export, monkeypatch, tmp_path) -> None:
    def full(self, clip, folder: Path, name: str) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / name))

    monkeypatch.setattr(Writer, "write", full)
    result, _ = export()
    assert result.summary["robust_accuracy"]["sign"]["both"]["n"] == CLIPS
    assert "No space left on device; free some space" in result.exported["failed"]
    assert "not exported: " in str(result)
    assert not list(tmp_path.iterdir())
