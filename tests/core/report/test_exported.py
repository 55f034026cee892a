"""The files beside exported clips, and what an export refuses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from avrobust_core import Batch, Clip, MediaSpec, Registry
from avrobust_core.data.readings import checksums
from avrobust_core.errors import RunError
from avrobust_core.report import exporting
from avrobust_core.report.exported import Row, Written
from avrobust_core.report.media_files import PICTURES, SOUND, Coding, Form, Writer
from avrobust_core.report.saved_clips import SavedClips

FORM = Form.of({"audio": MediaSpec(kind="audio", shape=(1, 4000), rate=4000, bounds=(-1, 1), time_axis=1)})


def written(folder: Path, *classes: str, split: str = "test", task: str = "multi-label") -> Written:
    origin: Any = SimpleNamespace(classes=classes, task=task, split=split)
    return Written(folder, FORM, origin)


def test_labels_are_separated_by_what_no_class_has_in_its_name(tmp_path: Path) -> None:
    assert written(tmp_path, "dog", "cat").settings(tmp_path)["separator"] == "|"
    assert written(tmp_path, "dog|cat", "a; b").settings(tmp_path)["separator"] == "#"
    assert "separator" not in written(tmp_path, "dog", task="single-label").settings(tmp_path)
    with pytest.raises(RunError, match="nothing can stand between them"):
        written(tmp_path, "|;", "#~", "^").settings(tmp_path)


def test_a_split_of_another_name_is_read_as_such(tmp_path: Path) -> None:
    assert "splits" not in written(tmp_path, "dog", split="val").settings(tmp_path)
    assert written(tmp_path, "dog", split="fold-3").settings(tmp_path)["splits"] == ["fold-3"]
    for split, told in (("test", False), ("val", True), ("fold-3", True)):
        written(tmp_path, "dog", split=split).write_rest(tmp_path, {})
        assert (f"split: {split}" in (tmp_path / "data.yaml").read_text()) == told


def test_what_is_not_read_back_as_it_was_written_is_refused(tmp_path: Path) -> None:
    sound = {"audio": torch.linspace(-0.5, 0.5, 4000)[None]}
    files = Writer(FORM, Coding.of("pcm16", SOUND), Coding.of("ffv1", PICTURES)).write(sound, tmp_path, "one")
    row = Row("one", "one", ["dog"], "one", files, "clean")
    made = written(tmp_path, "dog", "cat", task="single-label")
    made.rows.append(row)
    made.write_manifest()
    kept = Batch.stack([Clip("one", FORM.kept(sound, Coding.of("pcm16", SOUND)), torch.tensor(0))])
    right = {"one": {"audio": int(checksums(kept)["audio"][0])}}
    registry = Registry.discover()
    assert torch.equal(SavedClips(made, registry, right).read([row]).inputs["audio"], kept.inputs["audio"])
    wrong = {"one": {"audio": right["one"]["audio"] ^ 1}}
    with pytest.raises(RunError, match=r"one\.wav: its audio is not read back as it was written"):
        SavedClips(made, registry, wrong).read([row])


def test_a_clip_that_lacks_a_modality_is_refused_by_name() -> None:
    inputs = {"audio": torch.zeros(2, 1, 8), "video": torch.zeros(2, 3, 1, 2, 2)}
    inputs["video"][1] = torch.nan
    nobody: Any = None
    with pytest.raises(RunError, match="clip 'b' cannot be exported, for it has no video; name others with --ids"):
        exporting._Exporting._row(nobody, Batch(inputs, torch.zeros(2), ("a", "b")), 1, ("clean",))


def test_what_came_out_otherwise_than_before_is_counted() -> None:
    job: Any = SimpleNamespace(ids=["a", "b", "c"])
    before = [{"success": True}, {"success": False}, {"success": True}]
    for known, count in (({"c": False, "b": False, "a": True}, 1), (None, None)):
        attack: Any = SimpleNamespace(success=known)
        assert exporting._otherwise(job, attack, before) == {"otherwise_than_in_run": count}
