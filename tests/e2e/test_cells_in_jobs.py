"""Cells in jobs, for real: the results of one process, and nothing lost whatever is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from avrobust_core.cli import main

pytestmark = pytest.mark.usefixtures("ordinary_signals")

SHORT = (
    *("--set", "training.standard.epochs=1", "--set", "attacks={fgsm: {use: fgsm, threats: [both]}}"),
    *("--set", "metrics=[accuracy]", "--set", "audit=off", "--set", "compare=[{models: [concat, audio-only]}]"),
    *("--set", "correlate=[fgsm/both]"),
)
LONG = (*SHORT, "--set", "attacks={pgd: {use: pgd, with: {steps: 40, restarts: 2}, threats: [both]}}")
LONG = tuple("correlate=[pgd/both]" if each.startswith("correlate") else each for each in LONG)
LOCAL = ("--set", "engine.cells={where: local, at_once: 2}")
SLURM = ("--set", "engine.cells={where: slurm, hours: 1, cpus: 1}")


PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0
ReturnToService=2
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Started:
    """The command in a process of its own, whose standard error is read while it works."""

    def __init__(self, tmp_path: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.errors = tmp_path / f"errors-{len(list(tmp_path.glob('errors-*')))}"
        with self.errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "avrobust_core", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
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

    def end(self) -> int:
        return self.process.wait(240)


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory, run_command) -> Path:
    """The run of LONG in one process, to compare with."""
    out = tmp_path_factory.mktemp("alone") / "out"
    done = run_command("run", tiny, "--out", out, *LONG)
    assert done.returncode == 0, done.stderr
    return out


def results(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def logs(out: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(out.glob("jobs/*/*log*")))


def pids(out: Path) -> dict[str, int]:
    """The processes that hold cells, by the cell's id."""
    found = {path.parent.name: path.read_text().split() for path in out.glob("cells/*/.avrobust-run")}
    return {cell: int(words[1]) for cell, words in found.items() if words and _alive(int(words[1]))}


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
    few = ("--set", "data.with.train=16", "--set", "data.with.test=8", "--set", "evaluation.resamples=100")
    assert main(["run", str(tiny), "--out", str(one), *SHORT, *few, "--no-report"]) == 0
    there, lacking = (cell["id"] for cell in results(one)["cells"])
    shutil.copytree(one, out)
    shutil.rmtree(out / "cells" / lacking)
    capsys.readouterr()
    assert main(["run", str(tiny), "--out", str(out), *SHORT, *few, *LOCAL, "--no-report", "--json"]) == 0
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
    tiny: Path, tmp_path: Path, alone: Path, run_command, comparable
) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(tiny), "--out", str(out), *LONG, *LOCAL, "--no-report"]
    first = Started(tmp_path, *arguments)
    first.until(lambda: logs(out).count("pgd/both") == 2)  # both are fitted
    fits = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/fit.json")}
    killed, other = sorted(pids(out).items())
    os.kill(killed[1], signal.SIGKILL)
    first.until(lambda: "was killed by SIGKILL" in first.said)
    first.process.kill()
    first.process.wait()
    deadline = time.monotonic() + 60
    while _alive(other[1]):
        assert time.monotonic() < deadline, "a process outlives the command that sent it"
        time.sleep(0.1)
    assert not (out / "result.json").exists()

    second = Started(tmp_path, *arguments)
    second.until(lambda: killed[0] in pids(out))
    os.kill(pids(out)[killed[0]], signal.SIGKILL)
    assert second.end() == 1, second.said
    (failed,) = [cell for cell in results(out)["cells"] if "error" in cell]
    assert failed["id"] == killed[0]
    assert "was killed by SIGKILL before it had a result; its log: " in failed["error"]["message"]
    third = run_command(*arguments)
    assert third.returncode == 0, third.stderr
    assert comparable(results(out)) == comparable(results(alone))
    assert {path: path.stat().st_mtime_ns for path in fits} == fits, "what was fitted is not fitted again"
    assert not list(out.rglob(".avrobust-unfinished.*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_asked_to_end_ends_its_processes_and_says_how_to_go_on(
    tiny: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    started = Started(tmp_path, "run", str(tiny), "--out", str(out), *LONG, *LOCAL)
    started.until(lambda: len(pids(out)) == 2)
    jobs = list(pids(out).values())
    started.process.send_signal(number)
    assert started.end() == 128 + number, started.said
    assert not any(map(_alive, jobs))
    assert f"stopped by {number.name}; the same command goes on where it stopped: avrobust run" in started.said
    assert "Traceback" not in started.said


class Unavailable(Exception):
    """SLURM cannot be started here; says why."""


class Cluster:
    """A cluster of one node.

    Args:
        folder: for all its files; short, since a socket's path must be.

    Attributes:
        variables: of the environment of whoever speaks to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all of it.

        Raises:
            Unavailable: if something is missing, or the node does not come up.
        """
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            raise Unavailable(f"SLURM's programs are missing: {', '.join(missing)}" if missing else "not root")
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        text = CONFIGURATION.format(
            host=_host(), folder=self.folder, controller=_free_port(), node=_free_port(), cores=os.cpu_count()
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").touch()
        places = {name: self.folder / f"munge.{name}" for name in ("key-file", "pid-file", "log-file", "seed-file")}
        places |= {"key-file": key, "socket": self.folder / "munge.socket"}
        self._begin("munged", "--foreground", "--force", *(f"--{name}={place}" for name, place in places.items()))
        self._until(places["socket"].exists)
        self._begin("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self.start_node()

    def start_node(self) -> None:
        """Start the node's daemon, and wait until it takes jobs."""
        self._begin("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))
        self.node_is("RESUME")
        self._until(lambda: self.ask("sinfo", "--noheader", "--format=%t").strip() in ("idle", "mix", "alloc"))

    def kill_node(self, spared: int) -> None:
        """The node crashes: its daemon, and all that works for this cluster but its controller and one process."""
        self._running.pop("slurmd").kill()
        self._kill_all_but({spared, *(process.pid for process in self._running.values())})

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing if it fails."""
        given = os.environ | self.variables
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=given).stdout

    def node_is(self, state: str) -> None:
        """What SLURM does by itself when a node has not answered for SlurmdTimeout, and when it comes back."""
        self.ask("scontrol", "update", f"NodeName={_host()}", f"State={state}", "Reason=crash")

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._kill_all_but(set())

    def _kill_all_but(self, spared: Collection[int]) -> None:
        mark = f"SLURM_CONF={self.folder}/".encode()
        for each in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(each.name) not in spared and mark in (each / "environ").read_bytes():
                    os.kill(int(each.name), signal.SIGKILL)

    def _begin(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            given = os.environ | self.variables
            self._running[program] = subprocess.Popen([program, *arguments], stdout=log, stderr=log, env=given)

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not true():
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "; ".join(
                    f"{path.stem}: {path.read_text(errors='replace')[-500:]}" for path in self.folder.glob("*.log")
                )
                raise Unavailable(f"SLURM does not come up: {logs}")
            time.sleep(0.1)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is up.

    Raises:
        Unavailable: if it cannot be started.
    """
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    try:
        with cluster(folder) as made:
            yield made
    except Unavailable as why:
        pytest.skip(f"SLURM cannot be started here: {why}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_jobs_of_slurm_lose_nothing_when_command_job_and_node_are_killed(
    tiny: Path, tmp_path: Path, alone: Path, slurm: Cluster, comparable, monkeypatch
) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(tiny), "--out", str(out), *LONG, *SLURM, "--no-report"]

    def sent() -> dict[str, str]:
        found = out.glob("jobs/*/sent.json")
        return {path.parent.name: json.loads(path.read_text())["id"] for path in found}

    first = Started(tmp_path, *arguments, env=slurm.variables)
    first.until(lambda: len(pids(out)) == 2)
    first.process.kill()  # the command: its jobs go on, and the next command finds them
    first.process.wait()
    jobs = sent()
    second = Started(tmp_path, *arguments, env=slurm.variables)
    second.until(lambda: second.said.count("of an earlier command goes on") == 2)
    assert sent() == jobs
    second.until(lambda: logs(out).count("pgd/both") >= 1)
    killed = next(cell for cell in jobs if "pgd/both" in (out / f"jobs/{cell}/{jobs[cell]}_0_log.out").read_text())
    fit = out / "cells" / killed / "fit.json"
    fitted = fit.stat().st_mtime_ns
    os.kill(pids(out)[killed], signal.SIGKILL)  # a job
    assert second.end() == 1, second.said
    (failed,) = [cell for cell in results(out)["cells"] if "error" in cell]
    assert failed["id"] == killed
    assert failed["error"]["message"].startswith(f"SLURM job {jobs[killed]} ended as FAILED")
    assert logs(out).count("fitting") == 2

    third = Started(tmp_path, *arguments, env=slurm.variables)
    third.until(lambda: killed in pids(out))
    assert sent().keys() == jobs.keys()
    (job,) = set(sent().values()) - set(jobs.values())
    slurm.kill_node(third.process.pid)
    third.until(lambda: not pids(out))
    slurm.node_is("DOWN")
    third.until(lambda: "is PENDING" in third.said.partition("is RUNNING")[2])  # SLURM itself tries it again
    slurm.start_node()
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait for two minutes
    assert third.end() == 0, third.said
    assert comparable(results(out)) == comparable(results(alone))
    assert fit.stat().st_mtime_ns == fitted


@pytest.mark.slow
def test_jobs_of_slurm_are_cancelled_when_the_command_is_asked_to_end(
    tiny: Path, tmp_path: Path, slurm: Cluster
) -> None:
    out = tmp_path / "out"
    started = Started(tmp_path, "run", str(tiny), "--out", str(out), *LONG, *SLURM, "--quiet", env=slurm.variables)
    started.until(lambda: len(pids(out)) == 2)
    jobs = list(pids(out).values())
    started.process.terminate()
    assert started.end() == 143, started.said
    assert "the same command goes on where it stopped: avrobust run" in started.said
    deadline = time.monotonic() + 60
    while any(map(_alive, jobs)) or slurm.ask("squeue", "--noheader").strip():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "stopped by SIGTERM" in logs(out), "they tidy up"
