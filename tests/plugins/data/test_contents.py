"""Digests of files: they follow the content, and a file that stays as it is is read once."""

import os
import time

import pytest
from avrobust_data import contents
from avrobust_data.contents import BLOCK, BLOCKS, default_store, digests


@pytest.fixture
def looked_into(monkeypatch) -> list[str]:
    """The files that were read."""
    names: list[str] = []
    read = contents._look_into
    monkeypatch.setattr(contents, "_look_into", lambda name: (names.append(name), read(name))[1])
    return names


def settled(monkeypatch) -> None:
    """As if all files had last changed a minute ago."""
    now = time.time_ns()
    monkeypatch.setattr("avrobust_data.contents.time.time_ns", lambda: now + 60 * 10**9)


def test_a_file_that_stays_as_it_is_is_read_once(tmp_path, monkeypatch, looked_into) -> None:
    names = [str(tmp_path / name) for name in ("a", "b")]
    for name in names:
        with open(name, "w") as file:
            file.write(name)
    settled(monkeypatch)
    store = tmp_path / "store" / "contents.parquet"
    first = digests(names, store)
    assert first[0] != first[1]
    assert digests(names, store) == first
    assert looked_into == names
    with open(names[1], "w") as file:
        file.write(names[0])
    assert digests(names, store)[1] != first[1]
    assert looked_into == [*names, names[1]]


def test_a_file_that_has_just_changed_is_read_again(tmp_path, looked_into) -> None:
    (tmp_path / "a").write_text("x")
    for _ in range(2):  # it may change once more within one tick of the clock
        digests([str(tmp_path / "a")], tmp_path / "store.parquet")
    assert len(looked_into) == 2


def test_a_store_that_is_damaged_or_cannot_be_written_costs_time_only(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").write_text("x")
    settled(monkeypatch)
    wanted = digests([str(tmp_path / "a")], None)
    store = tmp_path / "store.parquet"
    store.write_bytes(b"PAR1 damaged")
    assert digests([str(tmp_path / "a")], store) == wanted
    assert digests([str(tmp_path / "a")], store) == wanted
    assert digests([str(tmp_path / "a")], tmp_path / "a" / "store.parquet") == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "store.parquet"]


def test_long_files_are_looked_at_in_blocks_from_end_to_end(tmp_path) -> None:
    size = 3 * BLOCK * BLOCKS + 1
    path = tmp_path / "long"
    found = set()
    for place in (None, 0, size // 2, size - 1, BLOCK - 1):
        data = bytearray(size)
        if place is not None:
            data[place] = 1
        path.write_bytes(data)
        found |= set(digests([str(path)], None))
    assert len(found) >= 4  # the middle may lie between two blocks: README says so
    path.write_bytes(bytes(size + 1))
    assert not found & set(digests([str(path)], None))


def test_what_is_no_file_has_no_digest(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert digests([str(tmp_path / "pipe"), str(tmp_path), str(tmp_path / "gone"), "nul\0"], None) == [""] * 4


def test_the_store_lies_in_the_users_folder_for_caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = default_store("one"), default_store("other")
    assert one is not None
    assert other is not None
    assert one.parent == tmp_path / "avrobust"
    assert one != other
