"""Published data sets in their official layouts: clips, labels, order and what is missing, with real media."""

import csv
import io
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avrobust_data.sets import configs
from avrobust_data.sets.audioset import make_audioset
from avrobust_data.sets.ave import CLASSES as AVE_CLASSES
from avrobust_data.sets.ave import make_ave
from avrobust_data.sets.kinetics import CLASSES, KS_27, RENAMED, make_kinetics_sounds
from avrobust_data.sets.vggsound import make_vggsound

from avrobust_core import AvrobustWarning, DataError

from .conftest import sine, solid, write_media

pytestmark = pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")

SMALL = {"sample_rate": 8000, "frames": 2, "size": 16, "seconds": 0.5}
MIDS = {"/m/09x0r": "Speech", "/t/dd00088": "Gush", "/m/0bt9lr": "Dog, hound", "/m/04rlf": "Music"}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of sound and two red pictures."""
    return write_media(
        tmp_path_factory.mktemp("clip") / "clip.mp4",
        sound=sine(440, 0.5, 8000, 0.5),
        pictures=solid((200, 30, 40), 2, 16, 16),
        fps=4,
    )


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds, a picture each: black and silent, but white and loud from 20 to 30 s."""
    pictures = solid((0, 0, 0), 40, 16, 16)
    pictures[20:30] = 255
    sound = sine(440, 0.5, 8000, 40)
    sound[:, : 20 * 8000] = 0
    sound[:, 30 * 8000 :] = 0
    return write_media(tmp_path_factory.mktemp("long") / "long.mp4", sound=sound, rate=8000, pictures=pictures, fps=1)


@pytest.fixture
def put(tmp_path: Path, clip: Path) -> Callable[..., Path]:
    """Return a function that puts copies of the clip below the folder "media"."""

    def put(*names: str, source: Path = clip) -> Path:
        for name in names:
            target = tmp_path / "media" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        return tmp_path / "media"

    return put


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def quoted(*cells: object) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


@pytest.fixture
def audioset(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that writes segments (id, start, end, labels) as AudioSet does, and makes the data set."""

    def make(lists: dict[str, list[tuple[Any, ...]]], **options: Any) -> Any:
        files: dict[str, list[Path]] = {}
        for name, rows in lists.items():
            lines = [f'{i}, {start:.3f}, {end:.3f}, "{",".join(labels)}"' for i, start, end, labels in rows]
            head = [
                "# Segments csv created Sun Mar  5 10:54:31 2017",
                f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels=4, num_positive_labels=9",
                "# YTID, start_seconds, end_seconds, positive_labels",
            ]
            split = "test" if name.startswith("eval") else "train"
            files.setdefault(split, []).append(write(tmp_path / f"{name}_segments.csv", *head, *lines))
        # The file's own order is not that of the index.
        names = list(enumerate(MIDS.items()))
        lines = [quoted(i, mid, name) for i, (mid, name) in reversed(names)]
        classes = write(tmp_path / "class_labels_indices.csv", "index,mid,display_name", *lines)
        config = configs.AudioSetConfig(lists=files, class_list=classes, media=tmp_path / "media", **SMALL | options)
        return make_audioset(config)

    return make


def test_audioset_reads_the_official_lists(audioset, put) -> None:
    media = put("bal/Y--PJHxphWEs.mp4", "unbal/-0abcdefghi.mp4", "eval/Yeval_clip01.mp4", "other.mp4")
    dataset = audioset(
        {
            "balanced_train": [("--PJHxphWEs", 30, 40, ["/m/0bt9lr", "/m/09x0r"])],
            "unbalanced_train": [("-0abcdefghi", 0, 10, ["/m/04rlf"])],
            "eval": [("eval_clip01", 0, 7.5, ["/t/dd00088"])],
        }
    )
    assert dataset.root == media
    assert dataset.classes == ("Speech", "Gush", "Dog, hound", "Music")
    assert dataset.task == "multi-label"
    assert dataset.splits == ("train", "test")
    assert list(dataset.ids("train")) == ["--PJHxphWEs", "-0abcdefghi"]
    read = dataset.read("train", 0)
    assert read.target.tolist() == [1, 0, 1, 0]
    assert read.inputs["audio"].abs().max() > 0.3
    assert read.inputs["video"][0].mean() > 0.6
    assert dataset.label_matrix("train").toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    said = dataset.provenance()
    assert said["listed"] == said["found"] == {"train": 2, "test": 1}
    assert said["missing"] == {"train": 0, "test": 0}
    assert said["published"] == {"train": 22_160 + 2_041_789, "test": 20_371}
    assert said["class_order"] == "the index column of class_labels_indices.csv"
    assert said["summary"] == (
        "audioset: train: 2 found (2 listed, 2063949 published); test: 1 found (1 listed, 20371 published)"
    )
    assert json.loads(json.dumps(said)) == said
    assert dataset.groups("train") is None  # a video for each clip
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint() == dataset.fingerprint()
    assert copy.provenance() == said


def test_audioset_without_official_names_claims_no_published_counts(audioset, put) -> None:
    put("aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mp4")
    dataset = audioset({"mine": [("aaaaaaaaaaa", 0, 10, ["/m/04rlf"])], "eval": [("bbbbbbbbbbb", 0, 10, ["/m/04rlf"])]})
    assert dataset.provenance()["published"] == {"train": None, "test": 20_371}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("aaaaaaaaaaa", 0, 10, ["/m/04rlf", "/m/none"]), r"csv:5: the label '/m/none' is not in .*indices.csv"),
        (("aaaaaaaaaaa", 0, 10, [""]), r"csv:5: the label '' is not in"),
        (("aaaaaaaaaaa", 10, 10, ["/m/04rlf"]), r"csv:5: the segment ends before it begins"),
        (("", 0, 10, ["/m/04rlf"]), r"csv:5: the YTID is empty"),
        (("first_clip_", 0, 10, ["/m/04rlf"]), r"csv:5: the clip 'first_clip_' is that of .*csv:4; keep one"),
    ],
)
def test_a_faulty_segment_is_named_with_its_line(audioset, put, row, what) -> None:
    put("first_clip_.mp4")
    with pytest.raises(DataError, match=what):
        audioset({"balanced_train": [("first_clip_", 0, 10, ["/m/04rlf"]), row]})


def test_a_segment_that_is_learned_and_tested_is_refused(audioset, put) -> None:
    put("aaaaaaaaaaa.mp4")
    row = ("aaaaaaaaaaa", 0, 10, ["/m/04rlf"])
    with pytest.raises(DataError, match=r"eval_segments.csv:4: .* of split 'train': what is tested would be learned"):
        audioset({"balanced_train": [row], "eval": [row]})


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["0,/m/a,A", "2,/m/b,B"], r"csv:3: the index '2' is not one of 0 to 1, each given once"),
        (["0,/m/a,A", "0,/m/b,B"], r"csv:3: the index '0' is not one of 0 to 1, each given once"),
        (["0,/m/a,A", "1,/m/a,B"], r"csv:3: the mid '/m/a' is empty or was given before"),
        (["0,/m/a,A", "1,/m/b,A"], r"csv:3: the display_name 'A' is empty or was given before"),
    ],
)
def test_a_class_list_that_gives_no_order_is_refused(tmp_path, put, rows, what) -> None:
    segments = write(tmp_path / "s.csv", 'aaaaaaaaaaa, 0, 10, "/m/a"')
    classes = write(tmp_path / "classes.csv", "index,mid,display_name", *rows)
    config = configs.AudioSetConfig(lists={"train": segments}, class_list=classes, media=put("x.mp4"))
    with pytest.raises(DataError, match=what):
        make_audioset(config)


def test_of_whole_videos_the_segment_is_read(audioset, put, long_video) -> None:
    """The files are not named by times and longer than the segments: whole videos, of which a part is the clip."""
    put("long_video1.mp4", "long_video2.mp4", source=long_video)
    rows = {
        "balanced_train": [("long_video1", 20, 30, ["/m/04rlf"])],
        "eval": [("long_video2", 0, 10, ["/m/04rlf"])],
    }
    for options in ({}, {"segments": "whole"}):
        dataset = audioset(rows, **options | {"seconds": 10.0, "frames": 10})
        inside, before = dataset.read("train", 0), dataset.read("test", 0)
        assert inside.inputs["video"].mean() > 0.9
        assert before.inputs["video"].mean() < 0.1
        loud = inside.inputs["audio"][0, 4000:-4000].reshape(-1, 1000).abs().amax(dim=1)
        assert (loud > 0.4).all()
        assert before.inputs["audio"].abs().max() < 0.01
    as_clips = audioset(rows, segments="cut", seconds=10.0, frames=10)  # what they are not
    assert as_clips.fingerprint() != dataset.fingerprint()


def test_a_file_that_states_its_times_is_the_clip_however_late_it_begins(audioset, put) -> None:
    put("aaaaaaaaaaa_30000_40000.mp4")
    dataset = audioset({"balanced_train": [("aaaaaaaaaaa", 30, 40, ["/m/04rlf"])]})
    assert dataset.read("train", 0).inputs["audio"].abs().max() > 0.3


def test_clips_and_whole_videos_mixed_under_bare_names_are_refused(audioset, put, long_video) -> None:
    put("aaaaaaaaaaa.mp4")
    put("bbbbbbbbbbb.mp4", source=long_video)
    rows = [("aaaaaaaaaaa", 30, 40, ["/m/04rlf"]), ("bbbbbbbbbbb", 20, 30, ["/m/04rlf"])]
    with pytest.raises(DataError, match=r"bbbbbbbbbbb.mp4 \(40.0 s\)\), others are not \(aaaaaaaaaaa.mp4 \(0.5 s\)\)"):
        audioset({"balanced_train": rows})
    assert len(audioset({"balanced_train": rows}, segments="whole").ids("train")) == 2


def test_missing_files_are_counted_warned_of_and_limited(audioset, put) -> None:
    names = [f"clip_{i:06d}" for i in range(10)]
    put(*(f"{name}.mp4" for name in names[2:]))
    rows = {"balanced_train": [(name, 0, 10, ["/m/04rlf"]) for name in names]}
    with pytest.warns(AvrobustWarning, match=r"2 of the 10 listed .* no file below .*: clip_000000, clip_000001"):
        dataset = audioset(rows)
    assert list(dataset.ids("train")) == names[2:]
    assert dataset.provenance()["missing"] == {"train": 2}
    with pytest.raises(DataError, match=r"more than the allowed share of 0.1: raise max_missing if"):
        audioset(rows, max_missing=0.1)
    with pytest.raises(DataError, match=r"10 of the 10 listed clips .*; say in data.with.files how files are named"):
        audioset(rows, files="v_{id}.mp4", max_missing=1)


def test_an_id_file_restricts_a_set_to_a_published_list(audioset, put, tmp_path) -> None:
    names = [f"clip_{i:06d}" for i in range(4)]
    put(*(f"{name}.mp4" for name in names))
    ids = write(tmp_path / "ids.txt", "# a list", names[3], names[1], "", "unknown")
    with pytest.warns(AvrobustWarning, match=r"1 of the 3 ids in .*ids.txt are in no list: unknown"):
        dataset = audioset({"balanced_train": [(name, 0, 10, ["/m/04rlf"]) for name in names]}, ids=ids)
    assert list(dataset.ids("train")) == [names[1], names[3]]
    assert dataset.provenance()["listed"] == {"train": 2}
    with pytest.raises(DataError, match=r"lists no clip that .*ids.txt names"):
        audioset({"balanced_train": [("other_clip_", 0, 10, ["/m/04rlf"])]}, ids=ids)


def test_classes_that_nobody_can_learn_are_told(audioset, put) -> None:
    put("aaaaaaaaaaa.mp4")
    with pytest.warns(AvrobustWarning, match=r"3 of the 4 classes have no clip in 'train', .*: 'Speech', 'Gush', 'Dog"):
        audioset({"balanced_train": [("aaaaaaaaaaa", 0, 10, ["/m/04rlf"])]})


def test_an_ordinary_copy_gives_no_warning(audioset, put) -> None:
    put("aaaaaaaaaaa.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AvrobustWarning)
        audioset({"balanced_train": [("aaaaaaaaaaa", 0, 10, list(MIDS))]})


def test_the_kinetics_sounds_lists_are_those_in_use() -> None:
    assert {name: len(classes) for name, classes in CLASSES.items()} == {
        "ks-27": 27,
        "ks-31": 31,
        "ks-32": 32,
        "ks-34": 34,
    }
    for classes in CLASSES.values():
        assert list(classes) == sorted(set(classes))
    assert set(CLASSES["ks-31"]) - set(CLASSES["ks-27"]) == {
        "blowing out candles",
        "dribbling basketball",
        "mowing lawn",
        "stomping grapes",
    }
    assert set(CLASSES["ks-32"]) - set(CLASSES["ks-31"]) == {"strumming guitar"}
    dropped = (
        "typing, blowing out, dribbling ball, mowing the lawn by pushing lawnmower, stomping, fingerpicking, patting"
    )
    assert set(CLASSES["ks-34"]) - set(CLASSES["ks-27"]) == set(dropped.split(", ")) == set(RENAMED)
    assert {label for labels in RENAMED.values() for label in labels} == set(CLASSES["ks-32"]) - set(KS_27)


@pytest.fixture
def kinetics(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that writes the lists of Kinetics-400 and makes the data set."""

    def make(train: list[tuple[Any, ...]], test: list[tuple[Any, ...]], **options: Any) -> Any:
        head = "label,youtube_id,time_start,time_end,split,is_cc"
        lists = {
            split: write(tmp_path / name, head, *(quoted(*row, part, 0) for row in rows))
            for split, name, part, rows in (
                ("train", "train.csv", "train", train),
                ("test", "validate.csv", "validate", test),
            )
        }
        config = configs.KineticsSoundsConfig(lists=lists, media=tmp_path / "media", **SMALL | options)
        return make_kinetics_sounds(config)

    return make


def test_kinetics_sounds_takes_the_clips_with_its_labels(kinetics, put) -> None:
    put(
        "train/playing accordion/AAAAAAAAAAA_000030_000040.mp4",
        "train/mowing lawn/BBBBBBBBBBB_000000_000010.mp4",
        "val/bowling/AAAAAAAAAAA_000050_000060.mp4",
    )
    train = [
        ("playing accordion", "AAAAAAAAAAA", 30, 40),
        ("passing American football (in game)", "CCCCCCCCCCC", 3, 13),
        ("mowing lawn", "BBBBBBBBBBB", 0, 10),
    ]
    dataset = kinetics(train, [("bowling", "AAAAAAAAAAA", 50, 60)])
    assert dataset.classes == CLASSES["ks-31"]
    assert list(dataset.ids("train")) == ["AAAAAAAAAAA_000030_000040", "BBBBBBBBBBB_000000_000010"]
    assert dataset.read("train", 0).target == CLASSES["ks-31"].index("playing accordion")
    assert dataset.read("test", 0).target.dtype == torch.int64
    assert dataset.groups("test") == ["AAAAAAAAAAA"]  # a video with two clips
    assert dataset.task == "single-label"
    smaller = kinetics(train, [("bowling", "AAAAAAAAAAA", 50, 60)], classes="ks-27")
    assert list(smaller.ids("train")) == ["AAAAAAAAAAA_000030_000040"]
    first = kinetics(train, [("bowling", "AAAAAAAAAAA", 50, 60)], classes="ks-34")
    assert first.classes[first.read("train", 1).target] == "mowing the lawn by pushing lawnmower"
    mine = kinetics(train, [("bowling", "AAAAAAAAAAA", 50, 60)], classes=("mowing lawn", "bowling"))
    assert mine.classes == ("mowing lawn", "bowling")
    assert [mine.read("train", 0).target, mine.read("test", 0).target] == [0, 1]
    with pytest.raises(
        DataError, match=r"has the label 'moving lawn', one of data.with.classes \(did you mean 'mowing"
    ):
        kinetics(train, [train[0]], classes=("moving lawn", "bowling"))


def test_kinetics_lists_without_labels_are_refused(tmp_path, put) -> None:
    lists = {"train": write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split", "AAAAAAAAAAA,1,11,test")}
    config = configs.KineticsSoundsConfig(lists=lists, media=put("x.mp4"))
    with pytest.raises(DataError, match=r"test.csv:1: .*it lacks label; a test list of Kinetics has no labels: t"):
        make_kinetics_sounds(config)


def test_a_kinetics_clip_listed_twice_is_named_by_its_own_lines(kinetics, put) -> None:
    put("AAAAAAAAAAA.mp4")
    other, row = ("zumba", "ZZZZZZZZZZZ", 0, 10), ("bowling", "AAAAAAAAAAA", 0, 10)
    with pytest.raises(DataError, match=r"validate.csv:4: the clip 'A{11}_000000_000010' is that of .*train.csv:3"):
        kinetics([other, row], [other, other, row])


VGG_ROWS = [
    ("---g-f_I2yQ", 1, "people marching", "test"),
    ("--0PQM4-hqg", 30, "waterfall burbling", "train"),
    ("--56QUhyDQM", 185, "bee, wasp, etc. buzzing", "train"),
    ("--5OkAjCI7g", 40, "playing timpani", "test"),
    ("--0PQM4-hqg", 50, "people marching", "train"),
]


@pytest.fixture
def vggsound(tmp_path: Path, put) -> Callable[..., Any]:
    """Return a function that makes the data set of `VGG_ROWS`."""

    def make(**options: Any) -> Any:
        put(*(f"video/{video}_{start:06d}.mp4" for video, start, _, _ in VGG_ROWS))
        rows = write(tmp_path / "vggsound.csv", *(quoted(*row) for row in VGG_ROWS))
        return make_vggsound(configs.VGGSoundConfig(clips=rows, media=tmp_path / "media", **SMALL | options))

    return make


def test_vggsound_reads_the_official_list(vggsound, tmp_path) -> None:
    with pytest.warns(AvrobustWarning, match="has 4 labels, not the 309 that are published"):
        dataset = vggsound()
    assert dataset.classes == ("bee, wasp, etc. buzzing", "people marching", "playing timpani", "waterfall burbling")
    assert list(dataset.ids("train")) == ["--0PQM4-hqg_000030", "--56QUhyDQM_000185", "--0PQM4-hqg_000050"]
    assert dataset.groups("train") == ["--0PQM4-hqg", "--56QUhyDQM", "--0PQM4-hqg"]
    assert [int(dataset.read("train", i).target) for i in range(3)] == [3, 0, 1]
    order = write(tmp_path / "classes.txt", "waterfall burbling", "people marching", "playing timpani", VGG_ROWS[2][2])
    given = vggsound(class_list=order)
    assert [int(given.read("train", i).target) for i in range(3)] == [0, 3, 1]
    write(order, "waterfall burbling", "people marching", "playing timpany", VGG_ROWS[2][2])
    with pytest.raises(DataError, match=r"csv:4: the label 'playing timpani' is no class \(did you mean 'play"):
        vggsound(class_list=order)


@pytest.mark.parametrize(
    ("tags", "first", "second"),
    [
        ("any", {"people marching", "playing timpani", "waterfall burbling"}, {"playing timpani"}),
        ("audible", {"people marching", "playing timpani"}, None),
        ("visible", {"people marching", "waterfall burbling"}, {"playing timpani"}),
        ("both", {"people marching"}, None),
    ],
)
def test_vggsounder_gives_test_clips_their_audible_and_visible_labels(vggsound, tmp_path, tags, first, second) -> None:
    rows = [
        ("---g-f_I2yQ_000001", "people marching", "AV"),
        ("---g-f_I2yQ_000001", "playing timpani", "A"),
        ("---g-f_I2yQ_000001", "waterfall burbling", "V"),
        ("---g-f_I2yQ_000001", "a class of no list", "AV"),
        ("--5OkAjCI7g_000040", "playing timpani", "V"),
        ("notlisted___000040", "playing timpani", "AV"),
    ]
    head = "video_id,label,modality,background_music,static_image,voice_over"
    file = write(tmp_path / "vggsounder.csv", head, *(quoted(*row, True, False, False) for row in rows))
    with pytest.warns(AvrobustWarning, match="none of the 4 classes are passed over: a class of no list"):
        dataset = vggsound(vggsounder=file, tags=tags)
    assert dataset.task == "multi-label"
    expected = [labels for labels in (first, second) if labels is not None]
    found = [
        {dataset.classes[k] for k in dataset.read("test", i).target.nonzero()} for i in range(len(dataset.ids("test")))
    ]
    assert found == expected
    assert dataset.read("train", 1).target.tolist() == [1, 0, 0, 0]


def test_vggsounder_is_refused_where_it_cannot_be_read(vggsound, tmp_path) -> None:
    with pytest.raises(ValueError, match="tags: audible needs vggsounder"):
        vggsound(tags="audible")
    file = write(tmp_path / "v.csv", "video_id,label,modality", "---g-f_I2yQ_000001,people marching,B")
    with pytest.raises(DataError, match=r"v.csv:2: the modality 'B' is none of A, V, AV"):
        vggsound(vggsounder=file)
    write(file, "video_id,label,modality", "other_000001,people marching,AV")
    with pytest.raises(DataError, match="labels no test clip"):
        vggsound(vggsounder=file)


@pytest.mark.parametrize("header", [True, False])
def test_ave_reads_the_official_lists(tmp_path, put, header) -> None:
    head = ["Category&VideoID&Quality&StartTime&EndTime"] if header else []
    lists = {
        "train": [
            "Church bell&RUhOCu3LNXM&good&0&10",
            "Baby cry, infant cry&--12UOziMF0&good&2&7",
            "Church bell&RUhOCu3LNXM&good&3&4",
        ],
        "val": ["Mandolin&a_bcdefghi-&good&0&10"],
        "test": ["Accordion&RUhOCu3LNXM&good&0&10"],
    }
    files = {split: write(tmp_path / f"{split}Set.txt", *head, *rows) for split, rows in lists.items()}
    media = put("RUhOCu3LNXM.mp4", "--12UOziMF0.mp4", "a_bcdefghi-.mp4")
    with pytest.warns(AvrobustWarning) as told:
        dataset = make_ave(configs.AVEConfig(lists=files, media=media, **SMALL))
    said = [str(warning.message) for warning in told]
    assert any("1 videos have several classes, and count as a clip of each: RUhOCu3LNXM" in text for text in said)
    assert any("1 videos have clips in several splits, as if what is tested was learned: RUh" in text for text in said)
    assert dataset.splits == ("train", "val", "test")
    assert list(dataset.ids("train")) == ["RUhOCu3LNXM", "--12UOziMF0"]
    assert list(dataset.ids("test")) == ["RUhOCu3LNXM#2"]
    assert len(AVE_CLASSES) == len(set(dataset.classes)) == 28
    assert [int(dataset.read("train", i).target) for i in (0, 1)] == [0, 19]
    assert int(dataset.read("test", 0).target) == 26
    assert dataset.read("val", 0).inputs["audio"].abs().max() > 0.3
    assert dataset.provenance()["published"] == {"train": 3339, "val": 402, "test": 402}


def test_an_unknown_class_of_ave_is_named_with_its_line(tmp_path, put) -> None:
    lists = {"train": write(tmp_path / "trainSet.txt", "Flute&x&good&0&1", "Flutes&y&good&0&1")}
    with pytest.raises(DataError, match=r"trainSet.txt:2: the class 'Flutes' is unknown \(did you mean 'Flute'"):
        make_ave(configs.AVEConfig(lists=lists, media=put("x.mp4"), **SMALL))


def test_the_balance_of_labels_is_that_of_the_targets(audioset, put) -> None:
    rng = np.random.default_rng(0)
    names = [f"clip_{i:06d}" for i in range(12)]
    put(*(f"{name}.mp4" for name in names[:10]))
    mids = list(MIDS)
    rows = [(name, 0, 10, rng.choice(mids, rng.integers(1, 4), replace=False).tolist()) for name in names]
    dataset = audioset({"balanced_train": rows})
    targets = torch.stack([dataset.read("train", i).target for i in range(10)]).numpy()
    assert (dataset.label_matrix("train").toarray() == targets).all()


@pytest.mark.parametrize("template", ["{name}.mp4", "clip.mp4", "{id:q}", "{id", "{id.x}", "{}_{id}"])
def test_a_template_that_cannot_name_files_is_refused(tmp_path, template) -> None:
    with pytest.raises(ValueError, match=r"what can stand in braces is id, start, end, label, split|has no \{id\}"):
        configs.AVEConfig(lists={"train": tmp_path}, media=tmp_path, files=template)
