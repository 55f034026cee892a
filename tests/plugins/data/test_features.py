"""`features`: what is given is what lies in the files, whatever kind they are of, clip by clip, in every process."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.features.dataset import Features
from avrobust_data.features.hdf5 import OpenFiles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from avrobust_core import AvrobustWarning, DataError
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped

STORAGES = ("hdf5", "hdf5-gzip", "npy", "npz")
PATHS = {"hdf5": "features.h5", "hdf5-gzip": "features.h5", "npy": "features", "npz": "features.npz"}
SPLITS = {"train": "valid", "test": "eval"}


@pytest.fixture
def opened(tmp_path, store, reference_layout):
    """Writes arrays and opens them: by default those of the reference's layout, as HDF5."""

    def opened(storage="hdf5", changes=None, **fields) -> Features:
        found = {name: array for name, array in (reference_layout | (changes or {})).items() if array is not None}
        store(tmp_path / PATHS[storage], found, storage)
        fields = {"splits": SPLITS, "group": "{split}/data", **fields}
        return Features(FeaturesConfig(path=str(tmp_path / PATHS[storage]), **fields))

    return opened


@pytest.mark.parametrize("storage", STORAGES)
def test_clips_are_the_rows_of_the_arrays(opened, reference_layout, storage) -> None:
    data = opened(storage)
    assert data.splits == ("train", "test")
    assert data.ids("test") == [f"test/{i}" for i in range(5)]
    assert data.task == "multi-label"
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.groups("test") is None
    assert data.media["audio"].shape == (1, 8, 32)  # with an axis of channels, as encoders of spectrograms expect
    assert data.media["video"].shape == (3, 6)
    assert [(spec.kind, spec.time_axis, spec.bounds) for spec in data.media.values()] == [
        ("audio", 1, None),
        ("video", 0, None),
    ]
    for split, name in SPLITS.items():
        for index in (len(data.ids(split)) - 1, 0, 2):
            clip = data.read(split, index)
            assert clip.id == f"{split}/{index}"
            for modality, array in (("audio", "feat_a"), ("video", "feat_v")):
                expected = torch.from_numpy(reference_layout[f"{name}/data/{array}"][index])
                assert clip.inputs[modality].dtype == torch.float32
                assert torch.equal(clip.inputs[modality], expected.reshape(data.media[modality].shape))
            assert torch.equal(clip.target, torch.from_numpy(reference_layout[f"{name}/data/labels"][index]))
    with pytest.raises(IndexError, match="0 to 4"):
        data.read("test", 5)
    with pytest.raises(IndexError, match="0 to 4"):
        data.read("test", -1)
    with pytest.raises(DataError, match="no split 'val', only train, test"):
        data.ids("val")


def test_the_usual_splits_are_taken_as_far_as_they_are_there(opened, tmp_path, store, reference_layout) -> None:
    assert opened(splits=None, group=None).splits == ("val", "test")
    store(tmp_path / "folder", {name.replace("/data", ""): x for name, x in reference_layout.items()}, "npy")
    assert Features(FeaturesConfig(path=str(tmp_path / "folder"))).splits == ("val", "test")
    store(tmp_path / "eval.npz", {"labels": np.eye(3), "feat_a": np.ones((3, 2, 2)), "feat_v": np.ones((3, 2))}, "npz")
    assert Features(FeaturesConfig(path=str(tmp_path / "{split}.npz"))).splits == ("test",)


def test_a_file_for_each_split_or_for_each_piece_of_one(tmp_path, store, reference_layout) -> None:
    train = {name.removeprefix("valid/data/"): x for name, x in reference_layout.items() if name.startswith("valid")}
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 4)), ("c", slice(4, 7))):
        store(tmp_path / f"{name}.h5", {array: x[rows] for array, x in train.items()}, "hdf5")
    store(tmp_path / "eval.h5", {name: x[:2] for name, x in train.items()}, "hdf5")
    splits = {"train": ["a", "b", "c"], "test": "eval"}
    data = Features(FeaturesConfig(path=str(tmp_path / "{split}.h5"), splits=splits, group=""))
    assert data.ids("train") == [f"train/{i}" for i in range(7)]
    for i in range(7):
        assert torch.equal(data.read("train", i).inputs["video"], torch.from_numpy(train["feat_v"][i]))
        assert torch.equal(data.read("train", i).target, torch.from_numpy(train["labels"][i]))
    with pytest.raises(DataError, match=r"b\.h5:labels would be labels of split 'train' and of 'test', too"):
        Features(FeaturesConfig(path=str(tmp_path / "{split}.h5"), splits=splits | {"test": "b"}, group=""))
    with pytest.raises(DataError, match=r"a\.h5:labels would be labels of split 'train' and of 'train', too"):
        Features(FeaturesConfig(path=str(tmp_path / "{split}.h5"), splits=splits | {"train": ["a", "a"]}, group=""))


def test_splits_that_share_features_are_refused(opened) -> None:
    shared = {"audio": {"array": "/eval/data/feat_a"}}
    with pytest.raises(DataError, match=r"feat_a would be audio of split 'train' and of 'test'"):
        opened(changes={"valid/data/labels": np.eye(5)}, modalities=shared)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "uint8", "int16"])
def test_whatever_the_numbers_are_stored_as_float32_is_given(opened, reference_layout, storage, dtype) -> None:
    stored = np.abs(reference_layout["eval/data/feat_v"] * 50).astype(dtype)
    data = opened(storage, {"eval/data/feat_v": stored})
    given = data.read("test", 3).inputs["video"]
    assert given.dtype == torch.float32
    assert torch.equal(given, torch.from_numpy(stored[3].astype(np.float32)))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_labels_may_be_stored_as_any_number(opened, reference_layout, storage, dtype, task) -> None:
    labels = {name: reference_layout[name] for name in _labels(reference_layout)}
    if task == "single-label":
        labels = {name: np.arange(len(x)) % 2 for name, x in labels.items()}
    data = opened(storage, {name: x.astype(dtype) for name, x in labels.items()})
    assert data.task == task
    assert len(data.classes) == (2 if task == "single-label" else 5)
    expected = torch.from_numpy(labels["eval/data/labels"])
    assert all(torch.equal(data.read("test", i).target, expected[i]) for i in range(5))


def _labels(layout):
    return [name for name in layout if name.endswith("labels")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=arrays.arrays(
        st.sampled_from(["<f4", ">f8", "<f2", "u1", "<i4"]),
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements={"min_value": 0, "max_value": 100},
    ),
    storage=st.sampled_from(STORAGES),
    data=st.data(),
)
def test_any_array_comes_back_row_by_row(tmp_path_factory, store, values, storage, data) -> None:
    folder, n = tmp_path_factory.mktemp("any"), len(values)
    labels = data.draw(arrays.arrays("u1", (n, 3), elements={"min_value": 0, "max_value": 1}))
    store(folder / PATHS[storage], {"x/v": values, "x/l": labels}, storage)
    fields = {"path": str(folder / PATHS[storage]), "group": "x", "splits": {"test": "x"}, "labels": "l"}
    config = FeaturesConfig(**fields, modalities={"other": {"array": "v", "kind": "numbers"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avrobust_data.features.labels._BLOCK", data.draw(st.integers(1, 10)))
        patch.setattr("avrobust_data.features.dataset._warn", lambda _: None)  # clips without a label are drawn, too
        found = Features(config)
    for i in range(n):
        assert np.array_equal(found.read("test", i).inputs["other"].numpy(), values[i].astype(np.float32))
        assert np.array_equal(found.read("test", i).target.numpy(), labels[i])


@pytest.mark.parametrize("storage", STORAGES)
def test_ids_of_their_own(opened, storage) -> None:
    names = {
        "valid/data/names": np.array([f"v{i}" for i in range(7)]).astype("S4"),
        "eval/data/names": np.array([f" é{i}".encode() for i in range(5)]),
    }
    data = opened(storage, names, names="names")
    assert data.ids("test") == ["é0", "é1", "é2", "é3", "é4"]
    assert data.read("train", 6).id == "v6"


def test_ids_as_text_as_numbers_and_from_the_top(opened, tmp_path, reference_layout) -> None:
    text = np.array([f"clip {i}" for i in range(5)], dtype=object)
    data = opened(changes={"eval/names": text}, names="/{split}/names", splits={"test": "eval"})
    assert data.ids("test") == list(text)
    (tmp_path / "features" / "eval" / "data").mkdir(parents=True)
    (tmp_path / "features" / "eval" / "data" / "names.txt").write_text("a\nb\nc\n\nd\ne\n")
    data = opened("npy", names="names", splits={"test": "eval"})
    assert data.ids("test") == ["a", "b", "c", "d", "e"]
    numbers = {"eval/data/numbers": np.arange(10, 15)}
    assert opened("npz", numbers, names="numbers", splits={"test": "eval"}).ids("test")[0] == "10"


def test_class_names_and_their_order(opened, tmp_path) -> None:
    official = tmp_path / "class_labels_indices.csv"
    rows = ['2,/m/c,"Male speech, man speaking"', "0,/m/a,Speech", "1,/m/b,Dog", "3,/m/d,Cat", '4,/t/e,"Rain, heavy"']
    official.write_text("index,mid,display_name\n" + "\n".join(rows) + "\n")
    named = ("Speech", "Dog", "Male speech, man speaking", "Cat", "Rain, heavy")
    assert opened(class_list=official).classes == named
    (tmp_path / "names.txt").write_text("\ufeff" + "\n".join(named) + "\n")
    assert opened(class_list=tmp_path / "names.txt").classes == named
    assert opened(classes=named).classes == named


def test_a_list_of_ids_restricts_the_set_and_what_is_missing_is_told(opened, tmp_path, reference_layout) -> None:
    published = tmp_path / "ids.txt"
    published.write_text("# as published\ntest/3\ntrain/6\n\ntest/0\ntest/9\n")
    with pytest.warns(AvrobustWarning, match=r"ids\.txt: 1 of its 4 ids are not in the data: test/9"):
        data = opened(ids=published)
    assert data.provenance() == {
        "summary": "features: 3 of the 4 ids listed in ids.txt found",
        "listed": 4,
        "found": 3,
        "missing": 1,
    }
    assert data.ids("train") == ["train/6"]
    assert data.ids("test") == ["test/0", "test/3"]
    clip = data.read("test", 1)
    assert clip.id == "test/3"
    assert torch.equal(clip.inputs["video"], torch.from_numpy(reference_layout["eval/data/feat_v"][3]))
    assert torch.equal(clip.target, torch.from_numpy(reference_layout["eval/data/labels"][3]))
    published.write_text("b\ne\n")
    names = {"valid/data/n": np.array(["x"] * 7), "eval/data/n": np.array(list("abcde"))}
    with pytest.warns(AvrobustWarning, match="names no clip of split train, which is left out"):
        data = opened("npz", names, names="n", ids=published)
    assert data.splits == ("test",)
    assert data.ids("test") == ["b", "e"]
    assert data.read("test", 1).id == "e"
    published.write_text("7\n")
    with pytest.raises(DataError, match=r"names none of the clips of .*, whose ids are like 'train/0'"):
        opened(ids=published)


def test_labels_are_known_without_reading_features(opened, reference_layout, tmp_path) -> None:
    data = opened(modalities={"video": {"array": "feat_v"}})
    assert np.array_equal(data.label_matrix("train").toarray(), reference_layout["valid/data/labels"])
    (tmp_path / "ids.txt").write_text("test/4\ntest/1\n")
    with pytest.warns(AvrobustWarning, match="names no clip of split train"):
        data = opened(ids=tmp_path / "ids.txt")
    assert np.array_equal(data.label_matrix("test").toarray(), reference_layout["eval/data/labels"][[1, 4]])
    numbers = {"valid/data/labels": np.array([3, 0, 0, 1, 0, 0, 3]), "eval/data/labels": np.array([0, 0, 1, 0, 1])}
    data = opened("npz", numbers)
    assert data.label_matrix("test").toarray().tolist() == np.eye(4)[[0, 0, 1, 0, 1]].tolist()


def test_clips_without_a_label_are_told(opened, reference_layout) -> None:
    labels = reference_layout["eval/data/labels"].copy()
    labels[[1, 4]] = 0
    with pytest.warns(AvrobustWarning, match=r"2 of the 5 clips of split 'test' have no label: test/1, test/4"):
        data = opened(changes={"eval/data/labels": labels})
    assert not data.read("test", 4).target.any()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_copy_reads_the_same_and_what_is_pickled_is_small(opened, storage) -> None:
    data = opened(storage)
    data.read("test", 0)
    pickled = pickle.dumps(data)
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)
    assert torch.equal(copy.read("train", 3).inputs["audio"], data.read("train", 3).inputs["audio"])
    assert copy.fingerprint() == data.fingerprint()


@pytest.mark.parametrize("storage", ["hdf5-gzip", "npy"])
def test_processes_that_are_forked_while_files_are_open_read_each_clip_once(opened, storage) -> None:
    data = opened(storage)
    expected = {data.read("train", i).id: data.read("train", i).inputs["audio"] for i in range(7)}  # opens the file
    skipped = Skipped(data)
    seen = {}
    batches = [[0, 5], [1, 6], [2, 3], [4]]
    with Loader(data, workers=2) as loader:
        for batch in loader.batches("train", batches, skipped):
            assert batch is not None
            seen |= {clip: x.clone() for clip, x in zip(batch.ids, batch.inputs["audio"], strict=True)}
    assert seen.keys() == expected.keys()
    assert all(torch.equal(seen[clip], expected[clip]) for clip in seen)
    assert not skipped.by_split
    assert torch.equal(data.read("train", 2).inputs["audio"], expected["train/2"])  # still, after they have ended


def test_a_split_of_more_files_than_are_kept_open(tmp_path, store, monkeypatch) -> None:
    monkeypatch.setattr("avrobust_data.features.hdf5._MOST_OPEN", 2)
    names = list("abcd")
    for i, name in enumerate(names):
        store(tmp_path / f"{name}.h5", {"labels": np.array([0, 1]), "feat_v": np.full((2, 3), float(i))}, "hdf5")
    modalities = {"video": {"array": "feat_v"}}
    data = Features(
        FeaturesConfig(path=str(tmp_path / "{split}.h5"), group="", splits={"test": names}, modalities=modalities)
    )
    for index in (0, 7, 2, 4, 1, 6, 3, 5, 0):
        assert data.read("test", index).inputs["video"].tolist() == [index // 2] * 3
    opened = data._splits["test"].arrays["video"].parts[0]._files._open
    assert len(opened) == 2


def test_a_forked_process_opens_files_anew(tmp_path, store) -> None:
    store(tmp_path / "x.h5", {"x": np.arange(3)}, "hdf5")
    files = OpenFiles()
    handle = files.file(tmp_path / "x.h5")
    child = os.fork()
    if not child:
        anew = files.file(tmp_path / "x.h5") is not handle and files.dataset(tmp_path / "x.h5", "x")[2] == 2
        os._exit(0 if anew else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert files.file(tmp_path / "x.h5") is handle


@pytest.mark.slow
def test_a_process_that_is_spawned_reads_the_same(opened) -> None:
    data = opened("hdf5-gzip")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        clip = pool.apply(data.read, ("test", 2))
    assert torch.equal(clip.inputs["audio"], data.read("test", 2).inputs["audio"])


def test_the_fingerprint_is_of_the_content_not_of_the_place(opened, tmp_path, reference_layout) -> None:
    data = opened("npy")
    first = data.fingerprint()
    (tmp_path / "features").rename(tmp_path / "elsewhere")
    fields = {"splits": SPLITS, "group": "{split}/data"}
    moved = FeaturesConfig(path=str(tmp_path / "elsewhere"), **fields)
    assert Features(moved).fingerprint() == first
    labels = {name: reference_layout[name].astype(bool) for name in _labels(reference_layout)}
    assert opened("npy", labels).fingerprint() == first  # the same labels, otherwise stored
    other = {}
    values = reference_layout["eval/data/feat_v"].copy()
    values[2, 1, 3] += 1
    other["features"] = opened("npy", {"eval/data/feat_v": values}).fingerprint()
    labels = reference_layout["valid/data/labels"].copy()
    labels[0, 0] = 1 - labels[0, 0]
    labels[0, 1] = 1
    other["labels"] = opened("npy", {"valid/data/labels": labels}).fingerprint()
    names = {"valid/data/n": np.array(list("abcdefg")), "eval/data/n": np.array(list("vwxyz"))}
    other["ids"] = opened("npy", names, names="n").fingerprint()
    other["classes"] = opened("npy", classes=("a", "b", "c", "d", "e")).fingerprint()
    bounds = {"audio": {"array": "feat_a", "bounds": (-2, 2)}, "video": {"array": "feat_v"}}
    other["bounds"] = opened("npy", modalities=bounds).fingerprint()
    swapped = {"audio": {"array": "feat_v", "kind": "video"}, "video": {"array": "feat_v"}}
    other["arrays"] = opened("npy", modalities=swapped).fingerprint()
    assert len({first, *other.values()}) == 1 + len(other)


def test_the_fingerprint_of_a_restricted_set_is_of_its_clips(opened, tmp_path) -> None:
    (tmp_path / "ids.txt").write_text("a\nb\n")
    found = set()
    for order in ("ab---", "a-b--", "ab=--"):
        names = np.array([f"{name}{i}" if name in "-=" else name for i, name in enumerate(order)])
        changes = {"eval/data/n": names, "eval/data/labels": np.ones((5, 2))}
        fields = {"names": "n", "splits": {"test": "eval"}, "ids": tmp_path / "ids.txt"}
        found.add(opened("npy", changes, **fields).fingerprint())
    assert len(found) == 2  # ids of clips that are left out do not count


def test_another_array_of_the_same_file_is_another_set(opened, reference_layout) -> None:
    again = {name.replace("feat_v", "again"): x for name, x in reference_layout.items() if name.endswith("feat_v")}
    one = opened(changes=again, modalities={"video": {"array": "feat_v"}}).fingerprint()
    assert opened(changes=again, modalities={"video": {"array": "again"}}).fingerprint() != one


def test_opening_and_reading_two_gigabytes_reads_little(tmp_path: Path) -> None:
    clips = 26_000  # of 10 x 2048 float32: 2.1 GB, of which the disk holds nothing
    shape = (clips, 10, 2048)
    folder = tmp_path / "eval"
    folder.mkdir()
    with (folder / "feat_v.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + clips * 10 * 2048 * 4)
    np.save(folder / "labels.npy", np.arange(clips) % 7)
    config = FeaturesConfig(path=str(tmp_path), splits={"test": "eval"}, modalities={"video": {"array": "feat_v"}})
    read, held = _bytes_read_and_held()
    data = Features(config)
    assert len(data.ids("test")) == clips
    assert not data.read("test", clips - 1).inputs["video"].any()
    data.fingerprint()
    now_read, now_held = _bytes_read_and_held()
    assert 0 < now_read - read < 8 * 2**20
    assert now_held - held < 64 * 2**20


def _bytes_read_and_held() -> tuple[int, int]:
    """By this process, as the system counts them."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"path": ""}, "at least 1 character"),
        ({"path": "x", "modalities": {}}, "at least 1 item"),
        ({"path": "x", "modalities": {"depth": {"array": "d"}}}, "modalities.depth: say what kind it is"),
        ({"path": "x", "modalities": {"audio": {"array": "a", "bounds": [1, 1]}}}, "the first below the second"),
        ({"path": "x", "modalities": {"audio": {"array": "a", "bounds": [0, float("inf")]}}}, "must be finite"),
        ({"path": "x", "classes": ["a"]}, "two classes"),
        ({"path": "x", "classes": ["a", "b", "a"]}, "'a' is named twice"),
        ({"path": "x", "classes": ["a", "b"], "class_list": "c.csv"}, "keep one"),
        ({"path": "x", "splits": {"test": []}}, "at least 1 item"),
        ({"path": "x", "pickle": True}, "Extra inputs"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(fields, says) -> None:
    with pytest.raises(ValidationError, match=says):
        FeaturesConfig(**fields)
