"""Which paths name one file: the same answer from a folder's listing and from a look at each file."""

import itertools
import os
from pathlib import Path

import pyarrow as pa
import pytest
from avrobust_data import same_files
from avrobust_data.same_files import LISTED, files_of

KINDS = [
    "a/0.mp4",
    "./a/1.mp4",
    "a/../a/2.mp4",
    "gone/../a/3.mp4",
    "b/4.mp4",
    "hard/5.mp4",
    "link/6.mp4",
    "{root}/a/7.mp4",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files a/0.mp4 and on; the same in b, a link to that folder; links of both kinds to each file."""
    for name in ("a", "hard", "link"):
        (tmp_path / name).mkdir()
    (tmp_path / "b").symlink_to("a")
    for i in range(LISTED):
        (tmp_path / "a" / f"{i}.mp4").write_bytes(b"")
        os.link(tmp_path / "a" / f"{i}.mp4", tmp_path / "hard" / f"{i}.mp4")
        (tmp_path / "link" / f"{i}.mp4").symlink_to(f"../a/{i}.mp4")
    return tmp_path


@pytest.mark.parametrize("listed", [True, False])
def test_a_file_is_the_same_by_whatever_path(tree, monkeypatch, listed) -> None:
    looked = []
    state = same_files._state
    monkeypatch.setattr(same_files, "_state", lambda path: (looked.append(path), state(path))[1])
    if not listed:
        monkeypatch.setattr(same_files, "LISTED", 10**9)
    plain = [f"a/{i}.mp4" for i in range(LISTED)]
    paths = plain + [kind.format(root=tree) for kind in KINDS] + ["a/gone.mp4", "./a/gone.mp4", "gone/0.mp4", "a/0.mp4"]
    codes = files_of(pa.array(paths), tree)
    assert len(set(codes[:LISTED])) == LISTED
    assert list(codes[LISTED : LISTED + len(KINDS)]) == list(codes[: len(KINDS)])
    gone, again, other, first = codes[LISTED + len(KINDS) :]
    assert gone == again
    assert gone not in codes[:LISTED]
    assert other not in [*codes[:LISTED], gone]
    assert first == codes[0]
    assert (len(looked) > LISTED) != listed  # a folder's listing saves the looks


def test_numbers_of_a_listing_that_the_files_do_not_have_are_not_believed(tree, monkeypatch) -> None:
    class Entry:
        def __init__(self, entry: os.DirEntry) -> None:
            self.name, self.is_symlink = entry.name, entry.is_symlink

        def inode(self) -> int:
            return next(numbers)  # as some file systems do that are laid over others

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *error) -> None: ...

    numbers, scan = itertools.count(1), os.scandir
    monkeypatch.setattr(same_files.os, "scandir", lambda folder: Entries(map(Entry, scan(folder))))
    paths = [f"{folder}/{i}.mp4" for folder in ("a", "hard") for i in range(LISTED)]
    codes = files_of(pa.array(paths), tree)
    assert len(set(codes)) == LISTED
    assert list(codes[:LISTED]) == list(codes[LISTED:])
