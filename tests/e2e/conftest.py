"""A study that runs in seconds, a way to run the command in a process of its own, and SLURM on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

MODELS = {
    "audio-only": "{encoders: [audio]}",
    "concat": "{encoders: [audio, video], fusion: concat}",
}

TINY = """\
training:
  standard: {epochs: 2, batch_size: 16}
threats:
  audio: {audio: {eps: 0.01}}
  video: {video: {eps: 4/255}}
  both: {audio: {norm: l2, eps: {snr_db: 25}}, video: {eps: 4/255}}
attacks:
  pgd: {use: pgd, with: {steps: 3, restarts: 2}}
  fgsm: {use: fgsm, threats: [both]}
metrics: [accuracy, map]
evaluation: {resamples: 200}
engine: {batch_size: 8}
"""


SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

SLURM_CONFIGURATION = """\
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


@pytest.fixture(scope="session")
def small_spec() -> Callable[..., str]:
    """From the rest of a study's spec to the whole: a small data set, its encoders and its models stand before it."""
    return _small_spec


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny study."""
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(_small_spec(TINY, name="tiny"))
    return path


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m avrobust_core.cli` (or another script) in a process of its own, one thread."""

    def run(
        *arguments: str | Path,
        script: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ):
        program = [str(script)] if script is not None else ["-m", "avrobust_core"]
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | dict(env or {}),
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def comparable() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """From a result to what must be equal in two runs of the same study."""
    return _comparable


@pytest.fixture
def alike() -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    """Whether two results are the same up to 1e-6: of runs by other numbers of processes, whose products may round
    otherwise, on some processors, because clips stand in other batches."""

    def same(one: Any, other: Any) -> bool:
        match one:
            case dict():
                return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
            case list():
                return len(one) == len(other) and all(map(same, one, other))
            case float():
                return one == pytest.approx(other, rel=1e-6, abs=1e-6, nan_ok=True)
        return bool(one == other)

    def without_hashes(result: Mapping[str, Any]) -> dict[str, Any]:
        found = _comparable(result)
        return found | {"cells": [{**cell, "files": sorted(cell["files"])} for cell in found["cells"]]}

    return lambda one, other: same(without_hashes(one), without_hashes(other))


@pytest.fixture
def last_json() -> Callable[[str], dict[str, Any]]:
    """From a command's output to the JSON object on its last line."""
    return _last_json


def _small_spec(rest: str, *, name: str, models: Sequence[str] = tuple(MODELS), **data: float) -> str:
    """A spec of the models named in `MODELS`; `data` overrides the data set's own fields."""
    fields = {"classes": 3, "train": 48, "val": 12, "test": 24} | data
    return "\n".join(
        [
            "version: 1",
            f"name: {name}",
            f"data: {{use: toy-av, with: {json.dumps(fields)}}}",
            "encoders:",
            "  audio: {use: cnn, with: {channels: [4, 8]}}",
            "  video: slowfast-tiny",
            "models:",
            *(f"  {model}: {MODELS[model]}" for model in models),
            rest,
        ]
    )


def _comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what may differ between two equal runs: time, place, what was reused."""

    def strip(data: Any) -> Any:
        if isinstance(data, dict):
            kept = {key: value for key, value in data.items() if key not in ("run", "report", "reused")}
            return {key: strip(value) for key, value in kept.items() if not key.endswith("seconds")}
        return [strip(item) for item in data] if isinstance(data, list) else data

    stripped: dict[str, Any] = strip(dict(result))
    return stripped


def _last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def slurm() -> Iterator["Cluster"]:
    """SLURM for real, on this machine alone: one node, its own munge, ports and folder; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    try:
        with cluster(folder) as made:
            yield made
    except Unavailable as why:
        pytest.skip(f"SLURM cannot be started here: {why}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        missing = [name for name in SLURM_PROGRAMS if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            raise Unavailable(f"SLURM's programs are missing: {', '.join(missing)}" if missing else "not root")
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        text = SLURM_CONFIGURATION.format(
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
        before = self._node_began()
        self._begin("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))
        # When a node that came back tells which jobs it has, the controller takes all others on it for lost.
        self._until(lambda: self._node_began() not in ("", "None", before))
        self.node_is("RESUME")
        self._until(lambda: self.ask("sinfo", "--noheader", "--format=%t").strip() in ("idle", "mix", "alloc"))

    def _node_began(self) -> str:
        """Since when the daemon runs that the controller has heard of last; empty where it does not answer."""
        return self.ask("scontrol", "show", "node").partition("SlurmdStartTime=")[2].partition(" ")[0].strip()

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
