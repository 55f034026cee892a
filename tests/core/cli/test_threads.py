"""Threads of the command: the policy that it settles, what it leaves alone, and that the library at work has it."""

import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from avrobust_core.cli import threads
from avrobust_core.cli.threads import quota, settle_threads, waiting


@pytest.fixture
def before_torch(monkeypatch):
    """A process that has not loaded torch yet."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def cgroup(root, path, **files):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return root


def test_threads_sleep_while_they_wait_unless_the_user_says_how_they_wait(before_torch, monkeypatch):
    monkeypatch.setattr(threads, "quota", lambda: None)
    environment: dict[str, str] = {}
    settle_threads(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4000"}
    assert "sleep" in waiting(environment)
    for said in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}):
        environment = dict(said)
        settle_threads(environment)
        assert environment == said
        assert next(f"{name}={value}" for name, value in said.items()) in waiting(environment)
    left = {"AVROBUST_LEAVE_THREADS": "1"}
    settle_threads(left)
    assert left == {"AVROBUST_LEAVE_THREADS": "1"}
    assert "spin" in waiting(left)


def test_where_torch_is_loaded_it_is_too_late_and_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    environment: dict[str, str] = {}
    settle_threads(environment)
    assert environment == {}


def test_a_quota_below_the_processors_decides_the_number_of_threads_unless_the_user_does(before_torch, monkeypatch):
    monkeypatch.setattr(threads, "affinity", lambda: 64)
    for given, number in ((2.5, "2"), (0.5, "1")):
        monkeypatch.setattr(threads, "quota", lambda given=given: given)
        environment: dict[str, str] = {}
        settle_threads(environment)
        assert environment["OMP_NUM_THREADS"] == number
    for given in (64.0, None):
        monkeypatch.setattr(threads, "quota", lambda given=given: given)
        environment = {}
        settle_threads(environment)
        assert "OMP_NUM_THREADS" not in environment
    monkeypatch.setattr(threads, "quota", lambda: 2.0)
    for said in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment = {said: "8"}
        settle_threads(environment)
        assert environment == {said: "8", **threads.SETTLED}


def test_the_smallest_quota_of_a_process_and_of_the_groups_around_it_holds(tmp_path):
    second = cgroup(tmp_path / "second", "a/b", cpu__max="400000 100000\n")
    cgroup(second, "a", cpu__max="150000 100000\n")
    cgroup(second, ".", cpu__max="max 100000\n")
    first = cgroup(tmp_path / "first", "cpu,cpuacct/a", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    cgroup(first, "cpu,cpuacct", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert quota(second, own) == 1.5
    own.write_text("0::/\n")
    assert quota(second, own) is None
    own.write_text("4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n")
    assert quota(first, own) == 3.0
    assert quota(first, tmp_path / "no such file") is None


def test_the_library_whose_threads_compute_has_been_told():
    library = next(Path(util.find_spec("torch").origin).parent.glob("lib/libgomp*.so*"), None)
    if library is None:
        pytest.skip("this torch brings no OpenMP of GNU's, which says what it was told")
    program = f"import ctypes; from avrobust_core.cli import main; main(['plugins']); ctypes.CDLL({str(library)!r})"
    ours = {*threads.WAITING, *threads.NUMBER, threads.LEFT_ALONE}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    asked = {"env": clean | {"OMP_DISPLAY_ENV": "VERBOSE"}, "capture_output": True, "text": True, "timeout": 60}
    said = subprocess.run([sys.executable, "-c", program], check=True, **asked).stderr
    shown = dict(re.findall(r"(\w+) = '(\d+|\w+)'", said))
    assert shown["OMP_WAIT_POLICY"] == "PASSIVE"
    assert shown["GOMP_SPINCOUNT"] == "4000"
    assert 1 <= int(shown["OMP_NUM_THREADS"]) <= threads.affinity()
