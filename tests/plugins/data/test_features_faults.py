"""What is wrong with feature files is told by file, array and row; nothing in them is executed, or opens others."""

import os
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.features.dataset import Features
from avrobust_data.features.hdf5 import Hdf5Array

from avrobust_core import AvrobustError, AvrobustWarning, ClipError, DataError
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped

STORAGES = ("hdf5", "hdf5-gzip", "npy", "npz")
PATHS = {"hdf5": "features.h5", "hdf5-gzip": "features.h5", "npy": "features", "npz": "features.npz"}
ONLY_VIDEO = {"video": {"array": "feat_v"}}


@pytest.fixture
def opened(tmp_path, store, reference_layout):
    """Writes arrays and opens them; those that are None are left out."""

    def opened(storage="hdf5", changes=None, **fields) -> Features:
        found = {name: array for name, array in (reference_layout | (changes or {})).items() if array is not None}
        store(tmp_path / PATHS[storage], found, storage)
        fields = {"splits": {"train": "valid", "test": "eval"}, "group": "{split}/data", **fields}
        return Features(FeaturesConfig(path=str(tmp_path / PATHS[storage]), **fields))

    return opened


@pytest.fixture
def reference_file(tmp_path, store, reference_layout) -> Path:
    store(tmp_path / "features.h5", reference_layout, "hdf5")
    return tmp_path / "features.h5"


def reopened(file: Path, **fields) -> Features:
    return Features(FeaturesConfig(path=str(file), splits={"test": "eval"}, **fields))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"eval/data/feat_v": None},
            r"no array 'eval/data/feat_v' .*for video of split 'test'; it has .*feat_a, ",
        ),
        ({"eval/data/labels": None}, r"no array 'eval/data/labels' .*for labels of split 'test'"),
        ({"eval/data/feat_v": np.ones((4, 3, 6))}, r"split 'test': .*feat_v.* has 4 rows, but .*labels.* has 5"),
        ({"eval/data/feat_v": np.ones((5, 4, 6))}, r"feat_v.* has clips of shape \(4, 6\), and .* of \(3, 6\)"),
        ({"eval/data/feat_v": np.ones(5)}, r"feat_v.* is float64 of shape \(5,\); features are numbers"),
        ({"eval/data/feat_v": np.ones((5, 0, 6))}, r"feat_v.* of shape \(5, 0, 6\)"),
        ({"eval/data/feat_v": np.ones((5, 3, 6), complex)}, r"feat_v.* is complex128"),
        ({"eval/data/feat_v": np.ones((5, 3, 6), "S3")}, r"feat_v.* is \|S3"),
        ({"eval/data/labels": np.full((5, 5), 0.5)}, r"labels.* row 0, column 0, is 0\.5; .* are 0 or 1"),
        ({"eval/data/labels": np.diag([1, 1, 2, 1, 1])}, r"labels.* row 2, column 2, is 2"),
        ({"eval/data/labels": np.diag([1, 1, 1, np.nan, 1])}, r"labels.* row 3, column 3, is nan"),
        ({"eval/data/labels": np.eye(5)[:, :4]}, r"labels.* has 4 columns.* and .* 5 columns"),
        ({"eval/data/labels": np.arange(5)}, r"labels.* has numbers of classes, and .* 5 columns"),
        ({"eval/data/labels": np.ones((5, 1))}, r"labels.*\(5, 1\): zeros and ones need a column"),
        ({"eval/data/labels": np.ones((5, 2, 2))}, r"labels.* of shape \(5, 2, 2\); labels are"),
        ({"eval/data/labels": np.array(list("abcde"), "S1")}, r"labels.* is \|S1 of shape \(5,\); labels are"),
    ],
)
def test_arrays_that_are_missing_or_do_not_fit_are_named(opened, storage, changes, says) -> None:
    with pytest.raises(DataError, match=says):
        opened(storage, changes)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("row", "value", "says"),
    [
        (3, -1, "row 3 is -1"),
        (4, 1.5, r"row 4 is 1\.5"),
        (0, np.nan, "row 0 is nan"),
        (2, 2.0**31, "row 2 is 2147483648"),
    ],
)
def test_numbers_that_are_no_classes_are_named(opened, storage, row, value, says) -> None:
    labels = np.zeros(5)
    labels[row] = value
    with pytest.raises(DataError, match=rf"labels\S* {says}.*, which is no number of a class"):
        opened(storage, {"valid/data/labels": np.zeros(7), "eval/data/labels": labels})


def test_faults_are_named_by_their_row_in_whatever_block_they_are(opened, monkeypatch) -> None:
    monkeypatch.setattr("avrobust_data.features.labels._BLOCK", 40)  # two rows of five float32
    labels = np.eye(5, dtype=np.float32)
    labels[3, 1] = 7
    with pytest.raises(DataError, match="row 3, column 1, is 7"):
        opened(changes={"eval/data/labels": labels})


def test_faults_in_pieces_of_a_split_are_named_by_their_own_file(tmp_path, store) -> None:
    for name, labels in (("a", np.eye(3)), ("b", np.eye(3) * 2), ("c", np.eye(3))):
        store(
            tmp_path / f"{name}.npz",
            {"labels": labels, "feat_v": np.full((3, 2), 1.0 if name < "c" else np.nan)},
            "npz",
        )
    path, config = str(tmp_path / "{split}.npz"), {"group": "", "modalities": ONLY_VIDEO}
    with pytest.raises(DataError, match=r"b\.npz:labels row 0, column 0, is 2"):
        Features(FeaturesConfig(path=path, splits={"test": ["a", "b"]}, **config))
    data = Features(FeaturesConfig(path=path, splits={"test": ["a", "c"]}, **config))
    with pytest.raises(ClipError, match=r"clip 'test/4': video \(.*c\.npz:feat_v row 1\) has 2 of 2 values"):
        data.read("test", 4)


def test_labels_that_are_packed_together_are_read_together(reference_file, monkeypatch) -> None:
    monkeypatch.setattr("avrobust_data.features.labels._BLOCK", 15)  # three rows of five bytes
    with h5py.File(reference_file, "r+") as file:
        del file["eval/data/labels"]
        file.create_dataset("eval/data/labels", data=np.eye(5, dtype="u1"), chunks=(2, 5), compression="gzip")
    asked = []
    rows = Hdf5Array.rows
    monkeypatch.setattr(Hdf5Array, "rows", lambda self, *span: asked.append(span) or rows(self, *span))
    data = reopened(reference_file)
    assert asked == [(0, 4), (4, 5)]
    assert int(data.read("test", 4).target.argmax()) == 4


def test_labels_and_class_names_must_agree(opened, tmp_path) -> None:
    with pytest.raises(DataError, match=r"has 5 columns, but data\.with names 3 classes"):
        opened(classes=["a", "b", "c"])
    numbers = {"valid/data/labels": np.array([0, 1, 0, 2, 5, 1, 0]), "eval/data/labels": np.zeros(5, int)}
    with pytest.raises(DataError, match=r"valid/data/labels row 4 is 5, but there are only 3 classes"):
        opened(changes=numbers, classes=["a", "b", "c"])
    file = tmp_path / "classes.csv"
    for text, says in (
        ("a\nb\na\nc\nd\n", "names a class twice, or fewer than two"),
        ("index,mid,display_name\n0,/m/a,A\n2,/m/b,B\n", "csv:3: the index '2' is not one of 0 to 1, each given once"),
        ("index,mid,display_name\n0,/m/a,A\n0,/m/b,B\n", "csv:3: the index '0' is not one of 0 to 1"),
        ("index,mid,display_name\nx,/m/a,A\n", "csv:2: the index 'x' is not one of 0 to 0"),
        ("a\n", "names a class twice, or fewer than two"),
        ("\n# nothing\n", "fewer than two"),
        (b"\xff\xfea", "is not UTF-8"),
    ):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=says):
            opened(class_list=file)
    with pytest.raises(DataError, match=r"there is no list .*gone\.csv"):
        opened(class_list=tmp_path / "gone.csv")


def test_ids_that_cannot_be_meant_are_named(opened) -> None:
    for names, says in (
        (np.array(list("abcd"), "S1"), r"'names' has 4 rows, but .* has 5"),
        (np.array(["a", "b", " ", "d", "e"], "S1"), r"names row 2: an id has 1 to 500 characters, not 0"),
        (np.array([b"a", b"b", b"c", b"\xff", b"e"]), r"names row 3 is not UTF-8"),
        (np.ones(5), r"names is float64 of shape \(5,\); ids are"),
        (np.ones((5, 1), int), r"names is int64 of shape \(5, 1\)"),
    ):
        with pytest.raises(DataError, match=says):
            opened(changes={"eval/data/names": names}, splits={"test": "eval"}, names="names")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_clips_that_are_not_finite_are_named_skipped_and_counted(opened, reference_layout, storage, value) -> None:
    values = reference_layout["eval/data/feat_v"].astype(np.float64)
    values[3, 1, 2] = value
    data = opened(storage, {"eval/data/feat_v": values}, max_unreadable=0.2)
    with pytest.raises(
        ClipError, match=r"clip 'test/3': video \(.*feat_v.* row 3\) has 1 of 18 values that are not fin"
    ):
        data.read("test", 3)
    skipped = Skipped(data)
    (batch,) = Loader(data).batches("test", [[0, 3, 4]], skipped)
    assert batch is not None
    assert batch.ids == ("test/0", "test/4")
    assert list(skipped.by_split["test"]) == ["test/3"]


def test_clips_outside_the_bounds_are_named(opened, reference_layout) -> None:
    values = np.clip(reference_layout["eval/data/feat_v"], -0.5, 1.5)
    values[:, 0, 0] = [-0.5, 1.5, 1.51, -0.51, 0]
    bounded = {"video": {"array": "feat_v", "bounds": (-0.5, 1.5)}}
    data = opened(changes={"eval/data/feat_v": values}, modalities=bounded)
    assert data.media["video"].bounds == (-0.5, 1.5)
    for index in (0, 1, 4):
        data.read("test", index)
    with pytest.raises(ClipError, match=r"row 2\) reaches from .* to 1\.51, beyond its bounds \[-0\.5, 1\.5\]"):
        data.read("test", 2)
    with pytest.raises(ClipError, match=r"row 3\) reaches from -0\.51"):
        data.read("test", 3)


class _Executed:
    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("member", ["feat_v", "labels"])
def test_pickled_objects_are_never_loaded(tmp_path, member) -> None:
    arrays = {"feat_v": np.ones((2, 3)), "labels": np.arange(2)}
    arrays[member] = np.array([_Executed(), _Executed()], dtype=object)
    for name, array in arrays.items():
        np.save(tmp_path / name, array, allow_pickle=True)
    for path in (tmp_path, tmp_path / "all.npz"):
        if path.suffix:
            np.savez(path, **arrays)
        with pytest.raises(DataError, match=rf"{member}.* holds pickled Python objects, which are never loaded"):
            Features(FeaturesConfig(path=str(path), group="", splits={"test": "x"}, modalities=ONLY_VIDEO))
    for name in arrays:  # a bare pickle is no array
        (tmp_path / f"{name}.npy").write_bytes(pickle.dumps(_Executed()))
    with pytest.raises(DataError, match="is no array of numpy, or damaged"):
        Features(FeaturesConfig(path=str(tmp_path), group="", splits={"test": "x"}, modalities=ONLY_VIDEO))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').abort(),), }",
        "(" * 9000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 999999999999), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (5, 3), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (5, 3), }",
        "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (5, 3), }",
        "{'descr': '|V4', 'fortran_order': False, 'shape': (5, 3), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (5, 3), }",
        "\0",
    ],
)
def test_odd_headers_are_refused(tmp_path, header) -> None:
    (tmp_path / "feat_v.npy").write_bytes(
        b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(200)
    )
    np.save(tmp_path / "labels.npy", np.arange(5))
    with pytest.raises(DataError, match=r"feat_v\.npy"):
        Features(FeaturesConfig(path=str(tmp_path), group="", splits={"test": "x"}, modalities=ONLY_VIDEO))


def test_fortrans_order_and_compression_are_named_with_the_remedy(tmp_path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(4))
    np.save(tmp_path / "feat_v.npy", np.asfortranarray(np.ones((4, 3, 2))))
    config = {"group": "", "splits": {"test": "x"}, "modalities": ONLY_VIDEO}
    with pytest.raises(DataError, match=r"feat_v\.npy is stored in Fortran's order.* save np\.ascontiguousarray"):
        Features(FeaturesConfig(path=str(tmp_path), **config))
    np.savez_compressed(tmp_path / "packed.npz", labels=np.arange(4), feat_v=np.ones((4, 3, 2)))
    with pytest.raises(DataError, match=r"packed\.npz:labels is compressed or encrypted.* numpy\.savez"):
        Features(FeaturesConfig(path=str(tmp_path / "packed.npz"), **config))


@pytest.mark.parametrize("storage", STORAGES)
def test_files_that_are_cut_short_are_named(opened, tmp_path, reference_layout, storage) -> None:
    opened(storage)
    file = tmp_path / PATHS[storage]
    file = file / "eval/data/feat_v.npy" if storage == "npy" else file
    whole = file.read_bytes()
    for size in (0, 5, 60, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=file.name):
            reopened(tmp_path / PATHS[storage], group="{split}/data")


@pytest.mark.parametrize("storage", STORAGES)
def test_files_that_are_cut_while_they_are_in_use_cost_clips_not_the_process(opened, tmp_path, storage) -> None:
    data = opened(storage)
    file = tmp_path / PATHS[storage]
    file = file / "eval/data/feat_v.npy" if storage == "npy" else file
    os.truncate(file, 100)
    with pytest.raises(ClipError, match=rf"clip 'test/4': .*{file.name}"):
        data.read("test", 4)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("storage", ["hdf5-gzip", "npy", "npz"])
def test_damaged_bytes_are_an_error_or_other_numbers(opened, tmp_path, storage, seed) -> None:
    opened(storage)
    file = tmp_path / PATHS[storage]
    file = file / "eval/data/feat_v.npy" if storage == "npy" else file
    rng = np.random.default_rng(seed)
    damaged = bytearray(file.read_bytes())
    for at in rng.integers(min(len(damaged), 3000), size=20).tolist():
        damaged[at] = int(rng.integers(256))
    file.write_bytes(damaged)
    try:
        data = reopened(tmp_path / PATHS[storage], group="{split}/data")
    except AvrobustError:
        return
    for index in range(len(data.ids("test"))):
        try:
            clip = data.read("test", index)
        except ClipError:
            continue
        assert torch.isfinite(clip.inputs["video"]).all()


def test_links_that_leave_a_file_are_refused(reference_file, tmp_path, store, reference_layout) -> None:
    store(
        tmp_path / "elsewhere.h5",
        reference_layout | {f"kept/{name}": x for name, x in reference_layout.items()},
        "hdf5",
    )
    for name in ("eval/data/feat_v", "eval/data", "eval"):
        with h5py.File(reference_file, "r+") as file:
            file.move(name, "kept")
            file[name] = h5py.ExternalLink("elsewhere.h5", f"/{name}")
        with pytest.raises(DataError, match=rf"{name.split('/')[-1]}' is a link to another file, which is not opened"):
            reopened(reference_file)
        with h5py.File(reference_file, "r+") as file:
            del file[name]
            file.move("kept", name)
    with h5py.File(reference_file, "r+") as file:  # by way of a link inside the file
        file.move("eval", "kept")
        file["out"] = h5py.ExternalLink("elsewhere.h5", "/")
        file["eval"] = h5py.SoftLink("/out/eval")
    with pytest.raises(DataError, match="'out' is a link to another file"):
        reopened(reference_file)


def test_data_outside_a_file_is_refused(reference_file, tmp_path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(5 * 18 * 4))
    with h5py.File(reference_file, "r+") as file:
        del file["eval/data/feat_v"]
        external = [(str(tmp_path / "outside.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("eval/data/feat_v", (5, 3, 6), "f4", external=external)
    with pytest.raises(DataError, match="feat_v has its data in other files, which are not opened"):
        reopened(reference_file)
    with h5py.File(reference_file, "r+") as file:
        del file["eval/data/feat_v"]
        layout = h5py.VirtualLayout((5, 3, 6), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (5, 3, 6))
        file.create_virtual_dataset("eval/data/feat_v", layout)
    with pytest.raises(DataError, match="feat_v has its data in other files, which are not opened"):
        reopened(reference_file)


def test_links_inside_a_file_are_followed_but_not_in_circles(reference_file, reference_layout) -> None:
    with h5py.File(reference_file, "r+") as file:
        file.move("eval/data/feat_v", "features/of/frames")
        file["eval/data/feat_v"] = h5py.SoftLink("/features/./of/frames")
        file["eval/data/hard"] = file["features/of/frames"]
        file["eval/data/relative"] = h5py.SoftLink("hard")
        file["eval/data/a"] = h5py.SoftLink("b")
        file["eval/data/b"] = h5py.SoftLink("/eval/data/a")
        file["eval/data/dangling"] = h5py.SoftLink("/nowhere")
    expected = torch.from_numpy(reference_layout["eval/data/feat_v"][2])
    for name in ("feat_v", "hard", "relative"):
        data = reopened(reference_file, modalities={"video": {"array": name}})
        assert torch.equal(data.read("test", 2).inputs["video"], expected)
    with pytest.raises(DataError, match="its links lead in a circle"):
        reopened(reference_file, modalities={"video": {"array": "a"}})
    for name in ("dangling", "feat_v/deeper", "", ".."):
        with pytest.raises(DataError, match="has no array"):
            reopened(reference_file, modalities={"video": {"array": f"/eval/data/{name}"}})


def test_odd_datasets_are_refused(reference_file) -> None:
    with h5py.File(reference_file, "r+") as file:
        data = file["eval/data"]
        data["empty"] = h5py.Empty("f4")
        data["scalar"] = 3.0
        data.create_dataset("unwritten", (5, 3, 6), "f4")
        data.create_dataset("references", (5, 3), h5py.ref_dtype)
        data["references"][0] = file.ref
        data.create_dataset("lists", (5, 3), h5py.vlen_dtype(np.float32))
        data["lists"][0, 0] = [1, 2]
        data["records"] = np.zeros((5, 3), [("a", "f4")])
        data["type"] = np.dtype("f4")
        data.create_dataset("bomb", (5, 2**12, 2**18), "f4", chunks=(1, 2**12, 2**6), compression="gzip")
        data["bomb"][0, 0, 0] = 1
    for name, says in {
        "empty": "is a single value, not one row",
        "scalar": "is a single value, not one row",
        "unwritten": "was made, but never written",
        "references": r"references is object",
        "lists": r"lists is object",
        "records": r"records is \[\('a'",
        "type": "has no array",
        "bomb": r"to read one clip takes 4,096 MiB",
    }.items():
        with pytest.raises(DataError, match=says):
            reopened(reference_file, modalities={"video": {"array": name}})


def test_pieces_that_hold_many_clips_are_told(reference_file) -> None:
    with h5py.File(reference_file, "r+") as file:
        settings = {"compression": "gzip", "compression_opts": 1, "chunks": (4096, 3, 512)}
        file.create_dataset("eval/data/slow", data=np.ones((5, 3, 512), "f4"), maxshape=(None, 3, 512), **settings)
    with pytest.warns(AvrobustWarning, match=r"slow: to read a clip of 0\.0059 MiB unpacks 24 MiB"):
        reopened(reference_file, modalities={"video": {"array": "slow"}})


def test_a_filter_that_is_not_installed_is_named(reference_file) -> None:
    with h5py.File(reference_file, "r+") as file:
        del file["eval/data/feat_v"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((1, 3, 6))
        settings.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())  # blosc
        space = h5py.h5s.create_simple((5, 3, 6))
        made = h5py.h5d.create(file["eval/data"].id, b"feat_v", h5py.h5t.IEEE_F32LE, space, settings)
        h5py.Dataset(made)[:] = 1
    with pytest.raises(DataError, match=r"feat_v is packed by the filter 32001 .*, which is not installed"):
        reopened(reference_file)


def test_what_is_no_file_of_features_is_told(tmp_path, store, reference_layout) -> None:
    with pytest.raises(DataError, match=r"there is no file or folder .*gone\.h5; set data\.with\.path"):
        reopened(tmp_path / "gone.h5")
    with pytest.raises(DataError, match=r"there is no file or folder .*gone\.h5; set data\.with\.path"):
        Features(FeaturesConfig(path=str(tmp_path / "gone.h5")))
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(DataError, match=r"pipe\.h5"):
        reopened(tmp_path / "pipe.h5")
    (tmp_path / "text.h5").write_text("no features")
    with pytest.raises(DataError, match=r"text\.h5 is no HDF5 file, or damaged"):
        reopened(tmp_path / "text.h5")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(DataError, match=r"one\.npy is a single array; set data\.with\.path to the folder"):
        reopened(tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("eval/labels.npy", "text")
    with pytest.raises(DataError, match=r"text\.npz:eval/labels is no array of numpy"):
        reopened(tmp_path / "text.npz", group="eval")
    store(tmp_path / "other.h5", {"eval/x": np.ones(3)}, "hdf5")
    with pytest.raises(
        DataError, match=r"no array 'eval/data/labels' for the labels of any split called train, valid, e"
    ):
        Features(FeaturesConfig(path=str(tmp_path / "other.h5")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it has no array at all"):
        reopened(tmp_path / "empty")


def test_a_name_that_is_mistyped_is_told_with_the_nearest(reference_file) -> None:
    with pytest.raises(DataError, match=r"'eval/data/lables' \(did you mean 'eval/data/labels'\?\)"):
        reopened(reference_file, labels="lables")


def test_without_h5py_the_error_says_how_to_get_it(reference_file, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(AvrobustError, match=r"features needs h5py: pip install 'avrobust\[features\]'"):
        reopened(reference_file)
