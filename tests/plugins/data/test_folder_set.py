"""Media in folders named as their classes."""

import shutil
from pathlib import Path

import pytest
from avrobust_data.sets.configs import FolderConfig
from avrobust_data.sets.folder import make_folder

from avrobust_core import AvrobustWarning, DataError

SMALL = {"sample_rate": 8000, "frames": 2, "size": 16, "seconds": 0.5}


@pytest.fixture
def put(tmp_path: Path):
    def put(*names: str) -> Path:
        for name in names:
            (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "media" / name).write_bytes(b"")
        return tmp_path / "media"

    return put


def test_splits_and_classes_are_folders(put, ordinary) -> None:
    media = put("train/10/a.mp4", "train/2/b.mp4", "train/2/deep/er/c.mkv", "test/2/d.mp4", "train/2/notes.txt")
    shutil.copy(ordinary, media / "test/2/d.mp4")
    dataset = make_folder(FolderConfig(media=media, **SMALL))
    assert dataset.classes == ("2", "10")  # by number
    assert dataset.splits == ("train", "test")
    assert list(dataset.ids("train")) == ["train/10/a.mp4", "train/2/b.mp4", "train/2/deep/er/c.mkv"]
    read = dataset.read("test", 0)
    assert int(read.target) == 0
    assert read.inputs["video"][0].mean() > 0.6
    assert make_folder(FolderConfig(media=media, classes=("10", "2"), **SMALL)).classes == ("10", "2")


def test_lists_say_what_the_splits_are(put, tmp_path) -> None:
    media = put("Bow/v_1.avi", "Bow/v_2.avi", "Run/v_1.avi", "Run/v_2.avi", "Run/unused.avi")
    (tmp_path / "train.txt").write_text("Bow/v_1.avi 1\n./Run/v_2.avi 2\n")
    (tmp_path / "test.txt").write_text("Bow/v_2\nRun/v_1\n")
    lists = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    dataset = make_folder(FolderConfig(media=media, lists=lists))
    assert list(dataset.ids("train")) == ["Bow/v_1.avi", "Run/v_2.avi"]
    assert list(dataset.ids("test")) == ["Bow/v_2.avi", "Run/v_1.avi"]
    (tmp_path / "test.txt").write_text("Bow/v_2\nRun/v_1\nRun/../../outside\nRun/gone.avi 2\n")
    with pytest.raises(DataError, match=r"2 of the 6 listed clips have no file .*: Run/../../outside, Run/gone.avi 2"):
        make_folder(FolderConfig(media=media, lists=lists))
    with pytest.warns(AvrobustWarning, match="they are left out"):
        make_folder(FolderConfig(media=media, lists=lists, max_missing=0.5))
    (tmp_path / "test.txt").write_text("Bow/v_1.avi\n")
    with pytest.raises(DataError, match=r"test.txt: 'Bow/v_1.avi' is in split 'train', too"):
        make_folder(FolderConfig(media=media, lists=lists))


def test_shares_draw_splits_that_stay_when_files_come(put) -> None:
    names = [f"{label}/{i}.mp4" for label in "ab" for i in range(200)]
    config = FolderConfig(media=put(*names[:-100]), shares={"train": 0.75, "test": 0.25})
    before = {split: set(make_folder(config).ids(split)) for split in ("train", "test")}
    assert 40 < len(before["test"]) < 110
    put(*names)
    after = make_folder(config)
    assert before["train"] <= set(after.ids("train"))
    assert before["test"] <= set(after.ids("test"))


@pytest.mark.parametrize(
    ("names", "options", "what"),
    [
        ((), {}, "has no media file below it that can hold audio and video"),
        (("train/a.mp4",), {}, r"do not lie in SPLIT/CLASS/FILE .*: train/a.mp4"),
        (("a.mp4",), {"shares": {"train": 1}}, r"do not lie in CLASS/FILE: a.mp4"),
        (("train/a/1.mp4",), {}, "all files are of the class 'a'"),
        (("train/a/1.mp4", "train/dogs/1.mp4"), {"classes": ("a", "dog")}, r"name: dogs \(did you mean 'dog'"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused(put, names, options, what) -> None:
    media = put("readme.txt", *names)
    with pytest.raises(DataError, match=what):
        make_folder(FolderConfig(media=media, **options))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"lists": {"train": "x"}, "shares": {"train": 1}}, "keep one"),
        ({"shares": {"train": 0.5, "test": 0.4}}, "add up to 0.9"),
        ({"classes": ("a",)}, "two classes"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(tmp_path, options, what) -> None:
    with pytest.raises(ValueError, match=what):
        FolderConfig(media=tmp_path, **options)
