"""Cells in jobs, for real: the results of one process, and nothing lost whatever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from avrobust_core.cli import main

pytestmark = pytest.mark.usefixtures("ordinary_signals")

LOCAL = ("--set", "engine.cells={where: local, at_once: 2}")
SLURM = ("--set", "engine.cells={where: slurm, hours: 1, cpus: 1}")

REDUCED = (
    *(
        "--set",
        "training.standard.epochs=1",
        "--set",
        "attacks={fgsm: {use: fgsm, threats: [both]}}",
        "--set",
        "audit=off",
    ),
    *("--set", "compare=[{models: [concat, audio-only]}]", "--set", "correlate=[fgsm/both]"),
    *("--set", "data.with.train=16", "--set", "data.with.test=8", "--set", "evaluation.resamples=100", "--no-report"),
)
RECORDS = 4
"""Evaluations of its two cells: clean, and attacked."""

HELD = '''\
import os
import time

from avrobust_core import Component, Config, Measurement, Metric, hookimpl


class Settings(Config):
    """None."""


class Held(Metric):
    """Waits as long as a file is there."""

    under_attack = False

    def measure(self, subject):
        while os.path.exists(os.environ["HELD"]):
            time.sleep(0.05)
        return Measurement({})


@hookimpl
def avrobust_metrics():
    yield Component(name="held", summary="Waits.", config=Settings, build=lambda config: Held())
'''


class Study:
    """The tiny study, whose cells hold still once they are fitted and attacked, as long as `hold` is there.

    Args:
        folder: for what belongs to it.
        spec: its file.
    """

    def __init__(self, folder: Path, spec: Path) -> None:
        self.folder = folder
        self.spec = spec
        self.hold = folder / "hold"
        info = folder / "held-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: held\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[avrobust_v1]\nheld = held_plugin\n")
        (folder / "held_plugin.py").write_text(HELD)
        paths = (str(folder), *filter(None, [os.environ.get("PYTHONPATH")]))
        self.variables = {"PYTHONPATH": os.pathsep.join(paths), "HELD": str(self.hold), "OMP_NUM_THREADS": "1"}

    def command(self, out: Path, *more: str) -> list[str]:
        return ["run", str(self.spec), "--out", str(out), *REDUCED, "--set", "metrics=[accuracy, held]", *more]


class Started:
    """The command in a process of its own, whose standard error is read while it works."""

    def __init__(self, study: Study, out: Path, *more: str, env: Mapping[str, str] = MappingProxyType({})) -> None:
        self.out = out
        self.errors = out.parent / f"errors-{len(list(out.parent.glob('errors-*')))}"
        with self.errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "avrobust_core", *study.command(out, *more)],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=os.environ | study.variables | dict(env),
            )

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not true():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def until_held(self) -> dict[str, int]:
        """Wait until all cells hold still; their processes, by the cell's id."""
        self.until(lambda: len(list(self.out.glob("cells/*/evaluations/*/record.json"))) == RECORDS)
        mine = self.process.pid
        self.until(lambda: len(pids(self.out, but=mine)) == RECORDS // 2)
        return pids(self.out, but=mine)

    def end(self) -> int:
        return self.process.wait(240)


@pytest.fixture(scope="module")
def study(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"), tiny)


@pytest.fixture(scope="module")
def alone(study: Study, tmp_path_factory: pytest.TempPathFactory, run_command) -> Path:
    """The study's run in one process, to compare with."""
    out = tmp_path_factory.mktemp("alone") / "out"
    done = run_command(*study.command(out), env=study.variables)
    assert done.returncode == 0, done.stderr
    return out


def results(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def logs(out: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(out.glob("jobs/*/*log*")))


def pids(out: Path, *, but: int = 0) -> dict[str, int]:
    """The living processes that held cells last, by the cell's id, without one."""
    found = {path.parent.name: path.read_text().split() for path in out.glob("cells/*/.avrobust-run")}
    last = {cell: int(words[1]) for cell, words in found.items() if words}
    return {cell: pid for cell, pid in last.items() if pid != but and _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_cells_in_jobs_of_their_own_give_the_results_of_one_process(
    tiny: Path, tmp_path: Path, capsys, last_json, comparable, one_thread
) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    command = ["run", str(tiny), *REDUCED, "--set", "metrics=[accuracy]", "--out"]
    assert main([*command, str(one)]) == 0
    there, lacking = (cell["id"] for cell in results(one)["cells"])
    shutil.copytree(one, out)
    shutil.rmtree(out / "cells" / lacking)
    capsys.readouterr()
    assert main([*command, str(out), *LOCAL, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1, "nothing but the JSON"
    result = last_json(printed.out)
    assert not (out / "jobs" / there).exists(), "of what is there no job is needed"
    assert [cell["reused"] for cell in result["cells"]] == [True, False]
    assert "[2/2] concat/standard: fitting (" in printed.err, "what a job says is shown here"
    assert comparable(result) == comparable(results(one))
    for name in ("model.safetensors", "samples.parquet"):
        assert (out / "cells" / lacking / name).read_bytes() == (one / "cells" / lacking / name).read_bytes()


@pytest.mark.slow
def test_a_killed_process_is_its_cells_failure_and_a_killed_command_ends_its_processes(
    study: Study, tmp_path: Path, alone: Path, run_command, comparable
) -> None:
    out = tmp_path / "out"
    study.hold.touch()
    first = Started(study, out, *LOCAL)
    (killed, process), (_, other) = first.until_held().items()
    fits = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/fit.json")}
    os.kill(process, signal.SIGKILL)
    first.until(lambda: "was killed by SIGKILL" in first.said)
    first.process.kill()
    first.process.wait()
    deadline = time.monotonic() + 60
    while _alive(other):
        assert time.monotonic() < deadline, "a process outlives the command that sent it"
        time.sleep(0.1)
    assert not (out / "result.json").exists()

    second = Started(study, out, *LOCAL)
    os.kill(second.until_held()[killed], signal.SIGKILL)
    study.hold.unlink()
    assert second.end() == 1, second.said
    (failed,) = [cell for cell in results(out)["cells"] if "error" in cell]
    assert failed["id"] == killed
    assert "was killed by SIGKILL before it had a result; its log: " in failed["error"]["message"]
    third = run_command(*study.command(out, *LOCAL), env=study.variables)
    assert third.returncode == 0, third.stderr
    assert comparable(results(out)) == comparable(results(alone))
    assert {path: path.stat().st_mtime_ns for path in fits} == fits, "what was fitted is not fitted again"
    assert not list(out.rglob(".avrobust-unfinished.*"))


@pytest.mark.slow
def test_a_command_that_is_interrupted_ends_its_processes_and_says_how_to_go_on(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study.hold.touch()
    started = Started(study, out, *LOCAL)
    jobs = list(started.until_held().values())
    started.process.send_signal(signal.SIGINT)
    assert started.end() == 130, started.said
    assert not any(map(_alive, jobs))
    assert "stopped by SIGINT; the same command goes on where it stopped: avrobust run" in started.said
    assert "Traceback" not in started.said


@pytest.mark.slow
def test_jobs_of_slurm_lose_nothing_when_command_job_and_node_are_killed(
    study: Study, tmp_path: Path, alone: Path, slurm, comparable
) -> None:
    out = tmp_path / "out"

    def sent() -> dict[str, str]:
        return {path.parent.name: json.loads(path.read_text())["id"] for path in out.glob("jobs/*/sent.json")}

    study.hold.touch()
    first = Started(study, out, *SLURM, env=slurm.variables)
    held = first.until_held()
    jobs, fits = sent(), {path: path.stat().st_mtime_ns for path in out.glob("cells/*/fit.json")}
    first.process.kill()  # the command: its jobs go on, and the next command finds them
    first.process.wait()
    second = Started(study, out, *SLURM, env=slurm.variables)
    second.until(lambda: second.said.count("of an earlier command goes on") == 2)
    assert (pids(out), sent()) == (held, jobs)
    killed, process = next(iter(held.items()))
    os.kill(process, signal.SIGKILL)  # a job
    study.hold.unlink()
    assert second.end() == 1, second.said
    (failed,) = [cell for cell in results(out)["cells"] if "error" in cell]
    assert failed["id"] == killed
    assert failed["error"]["message"].startswith(f"SLURM job {jobs[killed]} ended as FAILED")

    study.hold.touch()
    third = Started(study, out, *SLURM, env=slurm.variables)
    third.until(lambda: killed in pids(out, but=third.process.pid))  # which has a look itself, first
    (job,) = set(sent().values()) - set(jobs.values())
    slurm.kill_node(third.process.pid)
    third.until(lambda: not pids(out, but=third.process.pid))
    slurm.node_is("DOWN")
    third.until(lambda: "JobState=PENDING" in slurm.ask("scontrol", "show", "job", job))  # SLURM itself tries it again
    slurm.start_node()
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait for two minutes
    study.hold.unlink()
    if third.end():  # SLURM may give up a job that it put on the node before the node was ready: its cell has failed
        assert f"SLURM job {job} ended as" in third.said
        fourth = Started(study, out, *SLURM, env=slurm.variables)
        assert fourth.end() == 0, fourth.said
    assert comparable(results(out)) == comparable(results(alone))
    assert {path: path.stat().st_mtime_ns for path in fits} == fits, "what was fitted is not fitted again"


@pytest.mark.slow
def test_jobs_of_slurm_are_cancelled_when_the_command_is_asked_to_end(study: Study, tmp_path: Path, slurm) -> None:
    out = tmp_path / "out"
    study.hold.touch()
    started = Started(study, out, *SLURM, "--quiet", env=slurm.variables)
    jobs = list(started.until_held().values())
    started.process.terminate()
    assert started.end() == 143, started.said
    assert "the same command goes on where it stopped: avrobust run" in started.said
    deadline = time.monotonic() + 60
    while any(map(_alive, jobs)) or slurm.ask("squeue", "--noheader").strip():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "stopped by SIGTERM" in logs(out), "they tidy up"
