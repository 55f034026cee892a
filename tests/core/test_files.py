import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from avrobust_core.errors import RunError
from avrobust_core.files import (
    HOLDER,
    TEMPORARY,
    InUse,
    digest,
    exclusive,
    in_turn,
    made_runs_own,
    read_json,
    remove_leftovers,
    write_atomically,
    write_json,
)


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        file.write(b"half of the new")  # type: ignore[attr-defined]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"], "no temporary file is left"


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_json(tmp_path / "ours", {})
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_killed_writer_leaves_the_old_file_and_its_leftovers_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"old": True})
    code = (
        "import os, signal, sys; from pathlib import Path; from avrobust_core.files import write_atomically\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"old": True}
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(RunError, match=r"x\.json.*delete it"):
        read_json(tmp_path / "x.json")


def test_an_identity_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": "1"})


def _hold(folder: str, ready, release) -> None:  # type: ignore[no-untyped-def]
    with exclusive(Path(folder)):
        ready.set()
        release.wait(10)


def test_a_folder_is_held_by_one_process_and_let_go_when_it_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    process.start()
    assert ready.wait(30)
    with pytest.raises(RunError, match=f"in use by process {process.pid}"), exclusive(tmp_path):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize(
    "name",
    [".env.template", ".gitlab-ci.template", "sub/.git/.x.12345678", ".result.json.12345678", "cells/.env.template"],
)
def test_leftovers_are_the_runs_own_files_and_no_others(tmp_path: Path, name: str) -> None:
    kept, leftover, elsewhere = tmp_path / name, tmp_path / "cells" / "a" / f"{TEMPORARY}x.abcd", tmp_path / "mine"
    for path in (kept, leftover, elsewhere / f"{TEMPORARY}x.abcd"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert kept.exists()
    assert (elsewhere / f"{TEMPORARY}x.abcd").exists(), "no place where a run writes"
    assert not leftover.exists()


def test_leftovers_behind_a_link_are_somebody_elses(tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    for folder in (elsewhere, run / "cells"):
        folder.mkdir(parents=True)
    (elsewhere / f"{TEMPORARY}x.abcd").write_text("x")
    (run / "cells" / "linked").symlink_to(elsewhere)
    remove_leftovers(run)
    assert (elsewhere / f"{TEMPORARY}x.abcd").exists()


@pytest.mark.parametrize("name", ["notes.txt", ".env.template", "cells", "result.json", "lock.json"])
def test_a_folder_that_holds_something_and_is_no_run_is_refused_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"not empty.*{name}"), exclusive(tmp_path):
        pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_file_in_the_place_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="no folder"), exclusive(tmp_path / "out"):
        pass


def test_the_folder_of_a_run_is_taken_again_whatever_the_user_has_put_beside_it(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        pass
    (tmp_path / "notes.txt").write_text("mine")
    with exclusive(tmp_path):
        assert (tmp_path / HOLDER).exists()


def test_a_run_of_an_earlier_version_is_taken_again(tmp_path: Path) -> None:
    for name in ("lock.json", "resolved.yaml"):
        (tmp_path / name).write_text("{}")
    with exclusive(tmp_path):
        pass


def test_a_cell_that_somebody_works_on_keeps_its_unfinished_files_and_is_waited_for_by_name(tmp_path: Path) -> None:
    cell, told = tmp_path / "cells" / "a", []
    with in_turn(cell):
        unfinished = cell / "evaluations" / f"{TEMPORARY}x.abcd"
        unfinished.parent.mkdir()
        unfinished.write_text("x")
        remove_leftovers(tmp_path)
        assert unfinished.exists()
        with pytest.raises(InUse, match=f"in use by process {os.getpid()} on "), in_turn(cell):
            pass

    def let_go(holder: str) -> None:
        told.append(holder)
        held.close()

    held = ExitStack()
    held.enter_context(in_turn(cell))
    unfinished.write_text("x")
    with in_turn(cell, let_go):
        assert not unfinished.exists(), "what a killed one left is removed by who comes next"
    assert told == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_the_folder_of_a_run_can_be_made_without_holding_it(tmp_path: Path) -> None:
    made_runs_own(tmp_path / "run")
    with exclusive(tmp_path / "run"):
        made_runs_own(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    with pytest.raises(RunError, match="no run of avrobust"):
        made_runs_own(tmp_path / "mine")
