"""Files of listed clips: found by the names that copies have, never outside of their folder."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from avrobust_data.sets.finding import find, scan
from hypothesis import given, settings
from hypothesis import strategies as st

BOTH = ("audio", "video")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def clips(*rows: tuple[str, float | None, float | None], label: str = "a dog", split: str = "train") -> pa.Table:
    video, start, stop = zip(*rows, strict=True)
    return pa.table(
        {
            "id": video,
            "video": pa.array(video, pa.string()),
            "start": pa.array(start, pa.float64()),
            "stop": pa.array(stop, pa.float64()),
            "label": [label] * len(rows),
            "split": [split] * len(rows),
        }
    )


@pytest.mark.parametrize(
    ("name", "timed"),
    [
        ("--x_y.mp4", False),
        ("Y--x_y.webm", False),
        ("train/a dog/--x_y_000030_000040.mp4", True),
        ("--x_y_30_40.MKV", True),
        ("--x_y_30000_40000.mp4", True),
        ("--x_y_030000_040000.mp4", True),
        ("--x_y_30.0_40.0.mp4", True),
        ("Y--x_y_30.000_40.000.mp4", True),
        ("deep/er/--x_y_000030.mp4", True),
        ("--x_y_30.mp4", True),
        ("--x_y_30000.mp4", True),
        ("--x_y-30-40.mp4", True),
        ("--x_y000030.mp4", True),
        ("Y--x_y-000030.mp4", True),
        ("v_--x_y.mp4", False),
        ("videos/video_--x_y_000030_000040.mp4", True),
    ],
)
def test_the_usual_names_are_found(tmp_path, name, timed) -> None:
    touch(tmp_path, name, "--x_y_31.mp4", "--x_.mp4", "x_y.mp4", "--x_y.json", "--x_y.mp4.part", "Y--x_yz.mp4")
    found = find(scan(tmp_path, BOTH), clips(("--x_y", 30, 40), ("none", 0, 10)))
    assert found.paths.to_pylist() == [name, None]
    assert found.timed.tolist() == [timed, False]


@settings(max_examples=60)
@given(
    videos=st.lists(st.text("ab_-Y0", min_size=11, max_size=11), min_size=1, max_size=6, unique=True),
    starts=st.lists(st.integers(0, 900), min_size=6, max_size=6),
    form=st.sampled_from(
        ["{0}_{1}_{2}", "{0}_{1:06d}_{2:06d}", "Y{0}_{1}", "{0}_{3}_{4}", "{0}-{1}-{2}", "{0}{1:06d}", "v_{0}", "Y{0}"]
    ),
)
def test_each_clip_has_its_own_file_in_every_way_of_naming(tmp_path_factory, videos, starts, form) -> None:
    root = tmp_path_factory.mktemp("media")
    rows = [(video, float(start), start + 10.0) for video, start in zip(videos, starts, strict=False)]
    names = [form.format(video, *map(int, (a, b, 1000 * a, 1000 * b))) + ".mp4" for video, a, b in rows]
    touch(root, *names[1:])  # the first one is missing
    expected = [None, *names[1:]] if names[0] not in names[1:] else names
    assert find(scan(root, BOTH), clips(*rows)).paths.to_pylist() == expected


@pytest.mark.parametrize("video", ["0000000000_", "000000000_-"])
def test_a_video_whose_name_ends_like_a_separator_may_have_nothing_before_its_times(tmp_path, video) -> None:
    touch(tmp_path, f"{video}000030.mp4")
    found = find(scan(tmp_path, BOTH), clips(("00000000000", 30, 40), (video, 30, 40)))
    assert found.paths.to_pylist() == [None, f"{video}000030.mp4"]
    assert found.timed.tolist() == [False, True]


def test_a_way_of_naming_that_few_files_have_is_found_too(tmp_path) -> None:
    rows = [(f"video_{i:05d}", 10.0, 20.0) for i in range(1500)]
    names = [f"video_{i:05d}_000010_000020.mp4" for i in range(1500)]
    names[777] = "Yvideo_00777_10.000.mp4"
    touch(tmp_path, *names)
    found = find(scan(tmp_path, BOTH), clips(*rows))
    assert found.paths.to_pylist() == names
    assert found.timed.all()


def test_half_seconds_are_found(tmp_path) -> None:
    touch(tmp_path, "x_500_10500.mp4", "y_1.5_2.5.mp4")
    assert find(scan(tmp_path, BOTH), clips(("x", 0.5, 10.5), ("y", 1.5, 2.5))).paths.null_count == 0


def test_one_whole_video_serves_all_its_clips(tmp_path) -> None:
    found = find(scan(touch(tmp_path, "x.mp4"), BOTH), clips(("x", 0, 10), ("x", 30, 40)))
    assert found.paths.to_pylist() == ["x.mp4", "x.mp4"]
    assert found.several == ()


def test_files_that_can_hold_what_is_asked_for_are_taken(tmp_path) -> None:
    touch(tmp_path, "x.wav", "x.mp4", "x.jpg", "y.flac", "z.webm")
    listed = clips(("x", 0, 10), ("y", 0, 10), ("z", 0, 10))
    assert find(scan(tmp_path, BOTH), listed).paths.to_pylist() == ["x.mp4", None, "z.webm"]
    assert find(scan(tmp_path, ("audio",)), listed).paths.to_pylist() == ["x.wav", "y.flac", "z.webm"]


def test_several_files_of_a_clip_are_told_and_the_first_is_taken(tmp_path) -> None:
    found = find(scan(touch(tmp_path, "b/x.mp4", "a/x.mp4", "y.mp4"), BOTH), clips(("x", 0, 10), ("y", 0, 10)))
    assert found.paths.to_pylist() == ["a/x.mp4", "y.mp4"]
    assert found.several == ("a/x.mp4 and b/x.mp4",)


def test_a_template_says_where_files_lie(tmp_path) -> None:
    touch(tmp_path, "train/a dog/v_x@000030.avi", "v_x@000030.avi", "x_000030.mp4")
    folder, listed = scan(tmp_path, BOTH), clips(("x", 30, 40))
    assert find(folder, listed, "{split}/{label}/v_{id}@{start:06d}.avi").paths.to_pylist() == [
        "train/a dog/v_x@000030.avi"
    ]
    found = find(folder, listed, "v_{id}@{start:06d}.*")
    assert found.paths.to_pylist() == ["v_x@000030.avi"]
    assert found.timed.all()
    assert find(folder, listed, "{id}.*").paths.to_pylist() == [None]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..", "", "a\nb", "%s", "x\udc80"])
def test_no_name_in_a_list_leads_out_of_the_folder(tmp_path, name) -> None:
    touch(tmp_path, "outside.mp4", "media/a/inside.mp4")
    listed = clips(("inside", 0, 10), *([] if "\udc80" in name else [(name, 0, 10)]))
    if "\udc80" in name:
        touch(tmp_path, f"media/{name}.mp4")  # a name that is no text: passed over
    for template in (None, "{id}.mp4", "a/{id}.*", "../{id}.*"):
        paths = find(scan(tmp_path / "media", BOTH), listed, template).paths.to_pylist()
        assert set(paths) <= {None, "a/inside.mp4"}


def test_links_out_of_the_folder_pipes_and_loops_are_not_followed(tmp_path) -> None:
    touch(tmp_path, "outside/secret.mp4", "media/real/x.mp4", "media-other/y.mp4")
    media = tmp_path / "media"
    os.mkfifo(media / "pipe.mp4")
    (media / "folder.mp4").mkdir()
    (media / "loop").symlink_to(media)
    (media / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    (media / "out").symlink_to(tmp_path / "outside")
    (media / "sly.mp4").symlink_to(tmp_path / "media-other" / "y.mp4")
    (media / "alias.mp4").symlink_to(media / "real" / "x.mp4")
    (media / ".hidden.mp4").write_bytes(b"")
    folder = scan(media, BOTH)
    assert sorted(folder.paths.to_pylist()) == ["alias.mp4", "real/x.mp4"]
    assert folder.refused == ("loop", "nowhere.mp4", "out", "sly.mp4")
