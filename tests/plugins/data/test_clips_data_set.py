"""`clips`: a manifest of files as a data set; unreadable ones are ClipErrors that name them."""

import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig
from pydantic import ValidationError

from avrobust_core import AvrobustWarning, ClipError, DataError


def noisy(path: Path, media, seed: int) -> None:
    rng = np.random.default_rng(seed)
    media(
        path,
        sound=rng.uniform(-0.5, 0.5, (1, 8000)).astype(np.float32),
        pictures=rng.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, media) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for i in range(4):
        noisy(root / f"{i}.mp4", media, i)
    (root / "broken.mp4").write_bytes((root / "0.mp4").read_bytes()[:1500])
    (root / "manifest.csv").write_text(
        "path,label,split\n0.mp4,cat,train\n1.mp4,dog,train\nbroken.mp4,dog,train\ngone.mp4,cat,test\n2.mp4,cat,test\n"
    )
    return root


def settings(folder: Path, **changes) -> ClipsConfig:
    return ClipsConfig(**{"manifest": folder / "manifest.csv", "seconds": 0.5, "frames": 4, "size": 16, **changes})


def test_clips_are_what_the_data_set_says_of_them(folder) -> None:
    data = make_clips(settings(folder))
    assert data.splits == ("train", "test")
    assert data.ids("train") == ["0.mp4", "1.mp4", "broken.mp4"]
    assert data.classes == ("cat", "dog")
    assert data.task == "single-label"
    assert data.max_unreadable == 0.05
    assert data.media["video"].rate == 8
    clip = data.read("train", 1)
    assert clip.id == "1.mp4"
    assert clip.target.dtype == torch.int64
    assert clip.target == 1
    for modality, spec in data.media.items():
        assert clip.inputs[modality].shape == spec.shape
        assert clip.inputs[modality].dtype == torch.float32
        assert spec.bounds[0] <= clip.inputs[modality].min() <= clip.inputs[modality].max() <= spec.bounds[1]
    assert clip.inputs["video"].std() > 0.05


def test_an_unreadable_file_is_a_clip_error_that_names_it(folder) -> None:
    data = make_clips(settings(folder))
    for split, index, name, reason in (("train", 2, "broken.mp4", "."), ("test", 0, "gone.mp4", "no such file")):
        with pytest.raises(ClipError, match=reason) as caught:
            data.read(split, index)
        assert caught.value.clip_id == name
        assert str(folder / name) in caught.value.reason


def test_the_cache_changes_no_bit(folder) -> None:
    kept, fresh = make_clips(settings(folder)), make_clips(settings(folder, cache_mib=0))
    for _ in range(2):
        for modality, x in fresh.read("train", 0).inputs.items():
            again = kept.read("train", 0).inputs[modality]
            assert torch.equal(x, again)
            again.fill_(0.5)  # a reader may do what it likes with its copy
    assert len(kept._cache) == 1
    assert len(fresh._cache) == 0


def test_the_cache_saves_the_decoding(folder, monkeypatch) -> None:
    data = make_clips(settings(folder))
    wanted = data.read("train", 0).inputs
    monkeypatch.setattr("avrobust_data.media_clips.decode_clip", lambda *window: pytest.fail("decoded again"))
    assert all(torch.equal(x, wanted[m]) for m, x in data.read("train", 0).inputs.items())


def test_several_labels_become_a_multi_hot_target(folder) -> None:
    manifest = folder / "several.csv"
    manifest.write_text("path,labels,split\n0.mp4,dog;cat,train\n1.mp4,cow,train\n2.mp4,cat,test\n")
    data = make_clips(settings(folder, manifest=manifest, separator=";"))
    assert data.task == "multi-label"
    assert data.classes == ("cat", "cow", "dog")
    target = data.read("train", 0).target
    assert target.dtype == torch.float32
    assert target.tolist() == [1, 0, 1]


def test_one_modality_may_be_left_out(folder, media) -> None:
    media(folder / "heard.wav", sound=np.full((1, 8000), 0.25, np.float32), audio_codec="pcm_f32le")
    manifest = folder / "heard.csv"
    manifest.write_text("path,label,split\nheard.wav,a,train\nheard.wav,b,test\n")
    with pytest.raises(DataError, match="is that of line 2"):
        make_clips(settings(folder, manifest=manifest))
    manifest.write_text("id,path,label,split\n1,heard.wav,a,train\n2,0.mp4,b,test\n")
    data = make_clips(settings(folder, manifest=manifest, modalities=["audio"]))
    assert data.media.keys() == {"audio"}
    heard = data.read("train", 0)
    assert heard.inputs.keys() == {"audio"}
    assert torch.allclose(heard.inputs["audio"], torch.tensor(0.25))
    assert make_clips(settings(folder, modalities=["video"])).read("train", 0).inputs.keys() == {"video"}


def test_paths_are_relative_to_the_manifest_or_to_the_given_root(folder, tmp_path) -> None:
    elsewhere = tmp_path / "list.csv"
    shutil.copy(folder / "manifest.csv", elsewhere)
    with pytest.raises(ClipError):
        make_clips(settings(folder, manifest=elsewhere)).read("train", 0)
    make_clips(settings(folder, manifest=elsewhere, root=folder)).read("train", 0)
    with pytest.raises(DataError, match="not a folder"):
        make_clips(settings(folder, root=folder / "nowhere"))


def test_the_fingerprint_follows_content_and_decoding_not_place_or_cache(folder, tmp_path) -> None:
    plain = make_clips(settings(folder)).fingerprint()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert make_clips(settings(copy)).fingerprint() == plain
    assert make_clips(settings(copy, cache_mib=0, max_unreadable=0.5)).fingerprint() == plain
    assert make_clips(settings(copy, manifest=copy / "manifest.csv", root=copy.parent / "copy")).fingerprint() == plain
    text = (copy / "manifest.csv").read_text()
    (copy / "manifest.csv").write_text(text.replace("0.mp4", f"{copy / '0.mp4'}"))
    absolute = make_clips(settings(copy))
    assert absolute._place(absolute._split("train")[0].path) == "0.mp4"
    (copy / "manifest.csv").write_text(text)
    prints = {plain}
    for change in ({"frames": 8}, {"size": 8}, {"seconds": 1.0}, {"window": "start"}, {"resize": "stretch"}):
        prints.add(make_clips(settings(copy, **change)).fingerprint())
    (copy / "manifest.csv").write_text(text.replace("0.mp4,cat", "0.mp4,dog"))
    prints.add(make_clips(settings(copy)).fingerprint())
    (copy / "manifest.csv").write_text(text)
    shutil.copy(copy / "2.mp4", copy / "1.mp4")
    with pytest.warns(AvrobustWarning, match="1 files are copies of one in another split"):
        prints.add(make_clips(settings(copy)).fingerprint())
    (copy / "1.mp4").unlink()
    prints.add(make_clips(settings(copy)).fingerprint())
    assert len(prints) == 9


def test_a_file_replaced_by_another_of_its_size_is_noticed(tmp_path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.pcm").write_bytes(bytes([value]) * 32000)
    (tmp_path / "manifest.csv").write_text("path,label,split\na.pcm,x,train\nb.pcm,y,train\n")
    prints = [make_clips(settings(tmp_path)).fingerprint() for _ in range(2)]
    times = (tmp_path / "a.pcm").stat()
    (tmp_path / "a.pcm").write_bytes(bytes([3]) * 32000)
    os.utime(tmp_path / "a.pcm", ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    prints.append(make_clips(settings(tmp_path)).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_of_a_set_of_many_files_some_contents_are_hashed_and_all_sizes(tmp_path) -> None:
    names = [f"{i}.pcm" for i in range(6)]
    (tmp_path / "manifest.csv").write_text("".join(["path,label,split\n", *(f"{n},{n[0]},train\n" for n in names)]))

    def fingerprint(files: int, **changed: bytes) -> str:
        for name in names:
            (tmp_path / name).write_bytes(changed.get(f"n{name[0]}", name.encode()))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = make_clips(settings(tmp_path, hashed_files=files)).fingerprint()
        told = [str(warning.message) for warning in caught if "data.with.hashed_files" in str(warning.message)]
        assert len(told) == (files < 6)
        assert all("the contents of one in 3 of the 6 files are hashed" in message for message in told)
        return found

    assert fingerprint(6) == fingerprint(100_000)
    some = fingerprint(2)
    assert fingerprint(2) == some != fingerprint(6)
    assert fingerprint(2, n3=b"x.pcm") != some  # 0 and 3 are hashed
    assert fingerprint(2, n4=b"x.pcm") == some
    assert fingerprint(2, n4=b"longer.pcm") != some


def test_a_segment_is_read_from_its_place_in_the_file(tmp_path, media) -> None:
    loud = np.concatenate([np.zeros((1, 8000)), np.full((1, 8000), 0.5)], axis=1).astype(np.float32)
    media(tmp_path / "a.wav", sound=loud, audio_codec="pcm_f32le")
    (tmp_path / "manifest.csv").write_text(
        "id,path,start,stop,label,split\n1,a.wav,0,0.5,x,train\n2,a.wav,0.5,1,y,train\n"
    )
    data = make_clips(settings(tmp_path, modalities=["audio"]))
    peaks = [float(data.read("train", index).inputs["audio"].abs().mean()) for index in (0, 1)]
    assert peaks[0] < 0.02
    assert peaks[1] > 0.48
    times = data.fingerprint()
    (tmp_path / "manifest.csv").write_text(
        "id,path,start,stop,label,split\n1,a.wav,0,0.5,x,train\n2,a.wav,0.5,0.9,y,train\n"
    )
    assert make_clips(settings(tmp_path, modalities=["audio"])).fingerprint() != times


def test_ids_are_a_sequence_that_another_process_gets_as_it_is(folder) -> None:
    ids = make_clips(settings(folder)).ids("train")
    assert list(ids) == [ids[i] for i in range(3)] == ids[:] == ["0.mp4", "1.mp4", "broken.mp4"]
    assert ids[-1] == "broken.mp4"
    assert ids[1:] == ["1.mp4", "broken.mp4"]
    assert "1.mp4" in ids
    assert ids != ["0.mp4", "1.mp4"]
    assert pickle.loads(pickle.dumps(ids)) == ids
    with pytest.raises(IndexError):
        ids[3]


def test_groups_are_those_of_the_manifest(folder) -> None:
    manifest = folder / "groups.csv"
    manifest.write_text("path,label,split,group\n0.mp4,a,train,ann\n1.mp4,b,train,bob\n2.mp4,a,test,ann\n")
    data = make_clips(settings(folder, manifest=manifest))
    assert data.groups("train") == ["ann", "bob"]
    assert data.groups("test") == ["ann"]
    assert make_clips(settings(folder)).groups("train") is None


def test_numbered_classes_are_the_targets(folder) -> None:
    manifest = folder / "numbers.csv"
    rows = "".join(f"{i},{i % 3}.mp4,{i % 3 * 5},train\n" for i in range(3))
    manifest.write_text(f"id,path,label,split\n{rows}")
    data = make_clips(settings(folder, manifest=manifest))
    assert data.classes == ("0", "5", "10")
    assert [int(data.read("train", i).target) for i in range(3)] == [0, 1, 2]


def test_a_copy_for_another_process_is_small_and_gives_the_same_clips(folder) -> None:
    data = make_clips(settings(folder))
    before = data.read("train", 0)
    packed = pickle.dumps(data)
    assert len(packed) < 10_000
    after = pickle.loads(packed).read("train", 0)
    assert all(torch.equal(x, after.inputs[m]) for m, x in before.inputs.items())


def test_wrong_requests_are_errors_that_say_so(folder) -> None:
    data = make_clips(settings(folder))
    with pytest.raises(DataError, match="no clip of the split 'val', only train, test"):
        data.ids("val")
    with pytest.raises(IndexError, match="0 to 2"):
        data.read("train", -1)
    for wrong in ({"classes": ("a", "a")}, {"classes": ("a",)}, {"splits": ("", "b")}, {"modalities": ()}):
        with pytest.raises(ValidationError):
            settings(folder, **wrong)
    with pytest.raises(ValidationError, match="extra"):
        settings(folder, fps=25)


def test_a_manifest_of_a_test_split_alone_will_do(folder) -> None:
    manifest = folder / "test.csv"
    manifest.write_text("path,label,split\n0.mp4,a,test\n1.mp4,b,test\n")
    assert make_clips(settings(folder, manifest=manifest)).splits == ("test",)


def test_all_real_clips_decode_in_bounds(real_clips) -> None:
    data = make_clips(ClipsConfig(manifest=real_clips, cache_mib=0))
    assert {split: len(data.ids(split)) for split in data.splits} == {"train": 800, "test": 200}
    assert len(data.classes) == 10
    loudness, sharpness = [], []
    for split in data.splits:
        for index in range(len(data.ids(split))):
            clip = data.read(split, index)
            sound, picture = clip.inputs["audio"], clip.inputs["video"]
            assert sound.shape == (1, 16000)
            assert picture.shape == (3, 16, 64, 64)
            assert sound.abs().max() <= 1
            assert 0 <= picture.min() <= picture.max() <= 1
            loudness.append(sound.std())
            sharpness.append((picture[:, 1:] - picture[:, :-1]).abs().mean())
    assert min(loudness) > 0.01
    assert min(sharpness) > 0.001
