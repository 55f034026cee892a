"""Packed clips: the same as those of the data set, whole or not there, and never silently others."""

import io
import json
import os
import pickle
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.sparse import csr_array

from avrobust_core import Clip, ClipError, DataError, Dataset, DatasetFailure, MediaSpec, PackedClips
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped
from avrobust_core.data.packed_index import SCHEMA
from avrobust_core.data.packing import pack
from avrobust_core.errors import RunError
from avrobust_core.files import TEMPORARY, write_record

Packer = Callable[..., PackedClips]


class Mixed(Dataset):
    """A third party's: several labels, groups, pictures, sound of 16 bits, features, a modality that clips may lack."""

    task = "multi-label"
    classes = ("a/b", "ä", "c")
    max_unreadable = 0.4
    media = {  # noqa: RUF012
        "pictures": MediaSpec(kind="video", shape=(3, 2, 4, 4), rate=2.0, bounds=(0, 1), time_axis=1),
        "sound.l": MediaSpec(kind="audio", shape=(1, 50), rate=50.0, bounds=(-1, 1), time_axis=1),
        "far/off": MediaSpec(kind="features", shape=(7,)),
        "depth": MediaSpec(kind="depth", shape=(2, 2), optional=True),
    }
    splits = ("test", "train", "none")

    def ids(self, split: str) -> list[str]:
        return [f"../{split} {i}\n" for i in range({"test": 5, "train": 13, "none": 0}[split])]

    def groups(self, split: str) -> list[str]:
        return [f"{split}-{i // 2}" for i in range(len(self.ids(split)))]

    def read(self, split: str, index: int) -> Clip:
        clip_id = self.ids(split)[index]
        if index == 3:
            raise ClipError(clip_id, "it is cut short")
        generator = torch.Generator().manual_seed(index)
        inputs = {
            "far/off": torch.randn(7, generator=generator),
            "pictures": torch.randint(0, 256, (3, 2, 4, 4), generator=generator).float().div_(255),
            "sound.l": torch.randint(-32768, 32768, (1, 50), generator=generator) / 32768,
            "depth": torch.full((2, 2), float("nan")) if index == 1 else torch.randn(2, 2, generator=generator),
        }
        target = torch.zeros(3)
        target[index % 3 :] = float(index != 2)
        return Clip(clip_id, inputs, target, {"sound.l": 0.625, "pictures": 0.5} if index == 4 else {})

    def fingerprint(self) -> str:
        return "mixed"


def read_all(dataset: Dataset, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    skipped, found = Skipped(dataset), {}
    batches = [[i] for i in range(len(dataset.ids(split)))]
    for batch in Loader(dataset).batches(split, batches, skipped):
        if batch is not None:
            values = {name: x.view(torch.int32).tolist() for name, x in batch.inputs.items()}
            found[batch.ids[0]] = values, batch.targets.dtype, batch.targets.tolist()
    return found, skipped.to_json()


@pytest.fixture
def packed(tmp_path: Path, blobs) -> Packer:
    def make(dataset: Dataset | None = None, name: str = "packed", **options: Any) -> PackedClips:
        pack(dataset or blobs(), tmp_path / name, **{"shard_clips": 10, **options})
        return PackedClips(tmp_path / name)

    return make


@pytest.mark.parametrize("make", [Mixed, None], ids=["mixed", "blobs"])
def test_packed_clips_are_those_of_any_data_set_bit_for_bit(make, packed: Packer, blobs) -> None:
    dataset = (make or blobs)()
    found = packed(dataset, shard_clips=7)
    assert (found.classes, found.task, dict(found.media)) == (dataset.classes, dataset.task, dict(dataset.media))
    assert found.splits == tuple(dataset.splits)
    assert found.max_unreadable == dataset.max_unreadable
    for split in dataset.splits:
        assert found.ids(split) == dataset.ids(split)
        assert found.groups(split) == dataset.groups(split)
        assert read_all(found, split) == read_all(dataset, split)


def test_clips_that_could_not_be_read_stay_so_for_the_same_reason(packed: Packer) -> None:
    found = packed(Mixed())
    with pytest.raises(ClipError, match="it is cut short"):
        found.read("test", 3)
    assert read_all(found, "test")[1] == {
        "skipped": {"test": {"../test 3\n": "it is cut short"}},
        "constant": {},
        "padded": {"test": {"../test 4\n": "50 % of pictures, 62 % of sound.l is padding"}},
    }
    with pytest.raises(IndexError):
        found.read("test", 5)
    with pytest.raises(DataError, match="no clip of the split 'val', only test, train, none"):
        found.read("val", 0)


def test_what_a_set_knows_of_labels_and_of_its_sources_is_packed(packed: Packer) -> None:
    class Known(Mixed):
        def label_matrix(self, split: str) -> csr_array:
            rows = [[0.0] * (i % 3) + [float(i != 2)] * (3 - i % 3) for i in range(len(self.ids(split)))]
            return csr_array(np.array(rows, np.float32).reshape(-1, 3))

        def provenance(self) -> dict[str, Any]:
            return {"summary": "20 clips listed, 18 found", "lists": {"a": [1, 2.5]}}

    dataset = Known()
    found = packed(dataset, shard_clips=7)
    assert found.provenance() == dataset.provenance()
    for split in dataset.splits:
        matrix = found.label_matrix(split)
        assert matrix is not None
        assert matrix.toarray().tolist() == dataset.label_matrix(split).toarray().tolist()
    with pytest.raises(ClipError):
        found.read("test", 3)
    unknown = packed(Mixed(), "unknown")
    assert unknown.label_matrix("test") is None, "nobody knows the labels of a clip that cannot be read"
    assert unknown.provenance() == {}


def test_labels_that_were_read_are_known_afterwards(packed: Packer, blobs) -> None:
    matrix = packed(blobs()).label_matrix("train")
    assert matrix is not None
    assert matrix.toarray().argmax(axis=1).tolist() == [i % 3 for i in range(48)]


def test_too_many_unreadable_clips_end_packing_and_whole_shards_are_kept(tmp_path: Path, blobs) -> None:
    dataset = blobs(corrupt=[f"train-{i}" for i in range(20, 25)], max_unreadable=0.1)
    with pytest.raises(DatasetFailure, match="5 of the 48 clips of split 'train' cannot be read"):
        pack(dataset, tmp_path, shard_clips=10)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["shard-00000.tar", "shard-00001.tar"]
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_parts_cover_all_shards_once_and_the_last_writes_the_index(tmp_path: Path, packed: Packer, blobs) -> None:
    whole = packed(shard_clips=7)
    reads: list[str] = []
    for i in (2, 3, 1):
        dataset = blobs()
        found = pack(dataset, tmp_path / "parts", part=(i, 3), shard_clips=7)
        assert found.complete == (i == 1)
        reads += dataset.reads
    assert sorted(reads) == sorted([*blobs().ids("train"), *blobs().ids("test")])
    parts = PackedClips(tmp_path / "parts")
    for name in sorted(path.name for path in whole.folder.iterdir()):
        assert (tmp_path / "parts" / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert read_all(parts, "train") == read_all(whole, "train")


def test_a_folder_of_which_parts_are_missing_is_refused(tmp_path: Path, blobs) -> None:
    pack(blobs(), tmp_path / "parts", part=(1, 2), shard_clips=7)
    with pytest.raises(DataError, match="not packed to the end"):
        PackedClips(tmp_path / "parts")
    with pytest.raises(DataError, match="holds no packed clips"):
        PackedClips(tmp_path)


def test_killed_packing_goes_on_and_reads_only_what_is_missing(tmp_path: Path, packed: Packer, blobs) -> None:
    class Deadly(blobs):  # type: ignore[misc]
        def read(self, split: str, index: int) -> Clip:
            if (split, index) == ("train", 33):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(split, index)

    child = os.fork()
    if not child:
        pack(Deadly(), tmp_path / "killed", shard_clips=10)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((tmp_path / "killed").glob(f"{TEMPORARY}*"))) == 1
    rest = blobs()
    found = pack(rest, tmp_path / "killed", shard_clips=10)
    assert (found.made, found.finished) == (4, 7)
    assert rest.reads[0] == "train-30"
    assert len(rest.reads) == 18 + 20
    assert not list((tmp_path / "killed").glob(f"{TEMPORARY}*"))
    assert PackedClips(tmp_path / "killed").fingerprint() == packed().fingerprint()
    rest.reads.clear()
    assert pack(rest, tmp_path / "killed", shard_clips=10).made == 0
    assert rest.reads == []


def test_the_fingerprint_is_of_content_and_not_of_place_or_shards(tmp_path: Path, packed: Packer, blobs) -> None:
    first = packed()
    shutil.move(first.folder, tmp_path / "elsewhere")
    assert PackedClips(tmp_path / "elsewhere").fingerprint() == first.fingerprint()
    assert packed(name="small", shard_clips=17).fingerprint() == first.fingerprint()

    class Louder(blobs):  # type: ignore[misc]
        def read(self, split: str, index: int) -> Clip:
            clip = super().read(split, index)
            if clip.id == "test-7":
                clip.inputs["left"][0, 3] += 1e-6
            return clip

    others = [packed(Louder(), "louder"), packed(blobs(corrupt=["test-7"]), "corrupt"), packed(blobs(test=19), "less")]
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_another_packing_or_other_files_in_the_folder_are_refused(tmp_path: Path, blobs) -> None:
    pack(blobs(), tmp_path / "packed", shard_clips=10)
    with pytest.raises(RunError, match="differs in its clips' content and its clips: choose another --out"):
        pack(blobs(test=19), tmp_path / "packed", shard_clips=10)
    with pytest.raises(RunError, match="differs in the clips in a shard"):
        pack(blobs(), tmp_path / "packed", shard_clips=9)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"is not empty, and nothing was packed into it .*choose a new folder"):
        pack(blobs(), tmp_path)
    with pytest.raises(RunError, match="is no folder"):
        pack(blobs(), tmp_path / "thesis.tex")


def test_a_shard_that_is_missing_or_cut_is_an_error_that_names_it(packed: Packer) -> None:
    found = packed()
    shard = found.folder / "shard-00002.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    with pytest.raises(DataError, match=r"shard-00002\.tar is of \d+ bytes, and \d+ were packed"):
        PackedClips(found.folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00002\.tar is missing"):
        PackedClips(found.folder)
    with pytest.raises(DatasetFailure, match=r"shard-00002\.tar is damaged: clip train-25 cannot be read"):
        found.read("train", 25)
    shard.write_bytes(content[:2000])
    with pytest.raises(DatasetFailure, match=r"shard-00002\.tar is damaged: it ends before clip train-25 does"):
        found.read("train", 25)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_changed_bit_ends_the_reading_however_many_clips_may_be_unreadable(
    packed: Packer, blobs, workers: int
) -> None:
    found = packed(blobs(max_unreadable=1.0))
    shard = found.folder / "shard-00001.tar"
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        content[tar.getmember("000000005.right.npy").offset_data + 128] ^= 1
    shard.write_bytes(content)
    assert found.read("train", 14).id == "train-14"
    batches = [[i] for i in range(20)]
    said = r"shard-00001\.tar is damaged: clip train-15 is not what was packed"
    with Loader(found, workers=workers) as loader, pytest.raises(DatasetFailure, match=said):
        list(loader.batches("train", batches, Skipped(found)))


def test_a_damaged_index_is_refused(packed: Packer) -> None:
    found = packed()
    rows = found.folder / "clips.parquet"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    with pytest.raises(RunError, match=r"clips\.parquet: is damaged"):
        PackedClips(found.folder)
    (found.folder / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"index\.json: cannot be read"):
        PackedClips(found.folder)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("shard", 7, "shard"),
        ("shard", -1, "shard"),
        ("offsets", [-512, 0], "offsets"),
        ("offsets", [0], "2 places for each clip"),
        ("offsets", [0, 10**12], "offsets"),
        ("encodings", [0, 4], "encodings"),
        ("labels", [3], "labels"),
        ("checksum", None, "values that must be there"),
    ],
)
def test_an_index_that_points_to_where_nothing_can_be_is_refused(
    packed: Packer, column: str, value: object, said: str
) -> None:
    folder = packed().folder
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    rows[4][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "clips.parquet")
    record = json.loads((folder / "index.json").read_text())
    for upkeep in ("files", "hash"):
        del record[upkeep]
    write_record(folder / "index.json", record, [folder / "clips.parquet"])
    with pytest.raises(DataError, match=rf"clips\.parquet: does not fit index\.json \(.*{said}"):
        PackedClips(folder)


def test_other_formats_and_fields_are_refused_by_name(packed: Packer) -> None:
    folder = packed().folder
    record = json.loads((folder / "index.json").read_text())
    del record["hash"]
    for change, said in (({"format": 9}, "is of format 9"), ({"shards": [-1]}, r"shards\.0"), ({"task": 1}, "task")):
        write_record(folder / "index.json", {**record, **change}, [folder / "clips.parquet"])
        with pytest.raises(DataError, match=said):
            PackedClips(folder)


def test_shards_are_tar_files_of_npy_members_that_others_read(packed: Packer) -> None:
    found = packed(Mixed(), shard_clips=20)
    with tarfile.open(found.folder / "shard-00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    pictures = np.load(io.BytesIO(members["000000002.pictures.npy"]), allow_pickle=False)
    assert pictures.dtype == np.uint8
    assert torch.equal(torch.from_numpy(pictures).float().div_(255), found.read("test", 2).inputs["pictures"])
    about = json.loads(members["000000001.json"])
    assert about["id"] == "../test 1\n"
    assert about["labels"] == [1, 2]
    assert about["encodings"] == ["uint8/255", "int16/32768", "float32", "float32"]
    assert all("/" not in name and ".." not in name for name in members)


def test_copies_for_other_processes_read_for_themselves(packed: Packer) -> None:
    found = packed()
    expected = read_all(found, "test")
    assert read_all(pickle.loads(pickle.dumps(found)), "test") == expected
    skipped = Skipped(found)
    batches = [[i, i + 1] for i in range(0, 20, 2)]
    with Loader(found, workers=2) as loader:
        read = list(loader.batches("test", batches, skipped))
    assert [batch and batch.ids for batch in read] == [(f"test-{i}", f"test-{i + 1}") for i in range(0, 20, 2)]


def test_more_shards_than_may_be_open_are_read(packed: Packer, monkeypatch) -> None:
    monkeypatch.setattr("avrobust_core.data.packed.OPEN_FILES", 3)
    found = packed(shard_clips=8)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for i in range(48):
        assert found.read("train", (7 * i) % 48).id == f"train-{(7 * i) % 48}"
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_neighbours_are_read_together_where_that_is_asked_for(packed: Packer, monkeypatch) -> None:
    monkeypatch.setattr("avrobust_core.data.packed.BLOCK_BYTES", 8192)  # three or four clips, a shard has ten
    found = packed(Mixed(), shard_clips=10)
    assert found.locality("train") is None
    near = PackedClips(found.folder, shuffle_mib=1)
    locality = near.locality("train")
    assert locality is not None
    assert locality.window == 128
    assert len(locality.blocks) == 13
    assert list(locality.blocks) == sorted(locality.blocks)
    assert 3 < len(set(locality.blocks)) < 9
    assert locality.blocks[9] != locality.blocks[10], "a block is of one shard"
    assert read_all(near, "train") == read_all(found, "train")
    assert near.fingerprint() != found.fingerprint(), "a fit depends on the order"
    assert near.locality("none") is not None
