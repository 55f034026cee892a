"""The watch over the processes of a run: whichever dies, however it does, all end soon, and one sentence names it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROCESS = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from avrobust_core.ranks import Ranks
from avrobust_core.study import watch

watch.SETTLE_SECONDS, watch.GRACE_SECONDS, watch.TIDY_SECONDS = 0.3, 0.5, 0.3
folder, launcher, acts, rank = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
world = len(acts)
ranks = Ranks(rank, world, rank, world, 0, "nowhere", 0, launcher)
if rank and acts[rank] == "early":
    sys.exit(7)
if rank:
    while not (folder / "invitation").exists():
        time.sleep(0.01)
    mine = watch.Member(ranks, (folder / "invitation").read_text())
else:
    children = {}
    if launcher == "avrobust":
        children = {k: subprocess.Popen([sys.executable, *sys.argv[:-1], str(k)]) for k in range(1, world)}
    mine = watch.Hub(ranks, children)
    (folder / "new").write_text(mine.invitation)
    (folder / "new").rename(folder / "invitation")
    mine.welcome(30)
(folder / f"pid-{rank}").write_text(str(os.getpid()))
act = acts[rank]
while len(list(folder.glob("pid-*"))) < world:
    time.sleep(0.01)
if act == "fork" and not os.fork():
    time.sleep(60)  # it holds what its parent held open, as a process that reads clips does
if act in ("die", "fork"):
    os.kill(os.getpid(), signal.SIGKILL)
if act == "exit":
    os._exit(7)
if act == "fail":
    error = ValueError("out of luck")
    mine.leave(error)
    sys.exit(f"own words: {error}")
if act == "wait":
    time.sleep(60)  # in a collective, say
mine.leave(None)
"""


def _run(folder: Path, launcher: str, *acts: str) -> tuple[list[int], str, dict[int, int]]:
    """Run processes that do this; their exit statuses, all that they say, and their ids."""
    told = [sys.executable, str(folder / "process.py"), str(folder), launcher, json.dumps(acts)]
    (folder / "process.py").write_text(PROCESS)
    with (folder / "said").open("w") as said:
        started = range(1 if launcher == "avrobust" else len(acts))
        processes = [subprocess.Popen([*told, str(rank)], stderr=said) for rank in started]
        statuses = [process.wait(timeout=50) for process in processes]
    pids = {int(path.name[4:]): int(path.read_text()) for path in folder.glob("pid-*")}
    return statuses, (folder / "said").read_text(), pids


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("act", "how"),
    [("die", "was killed by SIGKILL"), ("fork", "was killed by SIGKILL"), ("exit", "ended with exit status 7")],
)
def test_a_process_that_dies_is_named_with_its_end(act: str, how: str, tmp_path: Path) -> None:
    statuses, said, pids = _run(tmp_path, "avrobust", "wait", "wait", act)
    assert statuses == [4]
    assert said.count("avrobust: error: ") == 1
    host = os.uname().nodename
    assert said.startswith(
        f"avrobust: error: process 3 of 3 (rank 2, pid {pids[2]} on {host}) {how}; so all of them end"
    )
    assert _gone(pids[1])


def test_of_a_process_that_another_has_started_that_one_knows_how_it_ended(tmp_path: Path) -> None:
    statuses, said, pids = _run(tmp_path, "torchrun", "wait", "die", "wait")
    assert statuses[:2] == [4, -signal.SIGKILL]
    assert statuses[2]
    assert said.count("avrobust: error: ") == 1
    assert f"process 2 of 3 (rank 1, pid {pids[1]} on " in said
    assert "ended without a word, as a process that is killed does (torchrun's own message says by what)" in said


@pytest.mark.parametrize("launcher", ["avrobust", "srun"])
def test_where_rank_0_dies_the_next_one_says_so(launcher: str, tmp_path: Path) -> None:
    statuses, said, pids = _run(tmp_path, launcher, "die", "wait", "wait")
    assert statuses[0] == -signal.SIGKILL
    assert all(_gone(pid) for pid in pids.values())
    said = (tmp_path / "said").read_text()  # now that the others are gone, too
    assert said.count("avrobust: error: ") == 1
    assert f"process 1 of 3 (rank 0, pid {pids[0]} on " in said


def test_what_fails_in_one_process_is_told_by_rank_0(tmp_path: Path) -> None:
    statuses, said, pids = _run(tmp_path, "avrobust", "wait", "fail", "wait")
    assert statuses == [1]
    assert said.startswith("avrobust: error: process 2 of 3 (rank 1, pid ")
    assert "failed: ValueError: out of luck. The others wait for it, so all of them end" in said
    assert said.count("out of luck") == 1
    assert _gone(pids[2])


def test_what_fails_everywhere_is_told_once_in_rank_0s_own_words(tmp_path: Path) -> None:
    statuses, said, _ = _run(tmp_path, "avrobust", "fail", "fail", "fail")
    assert statuses == [1]
    assert said == "own words: out of luck\n"


def test_processes_that_end_by_themselves_say_nothing(tmp_path: Path) -> None:
    statuses, said, _ = _run(tmp_path, "torchrun", "done", "done", "done")
    assert statuses == [0, 0, 0]
    assert said == ""


def test_a_process_that_ends_before_it_joins_is_named(tmp_path: Path) -> None:
    statuses, said, _ = _run(tmp_path, "avrobust", "wait", "wait", "early")
    assert statuses == [1]
    assert "RunError: process 3 of 3 (rank 2, pid " in said
    assert "ended with exit status 7 before it had joined the others: its own message says why" in said
