"""Jobs on this machine and of SLURM: what each is given, and how their states are read."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from avrobust_core.errors import RunError
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.jobs import JobsSection
from avrobust_core.spec.model import EngineSection
from avrobust_core.study.jobs import command_of
from avrobust_core.study.local_jobs import SENDER, LocalQueue, end_with_sender, environment, shares
from avrobust_core.study.slurm_jobs import SlurmQueue, parameters


def test_a_process_has_its_share_of_the_threads_or_as_many_as_the_user_allows() -> None:
    made = environment({"PATH": "x", "OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "2"}, 3, None)
    expected = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "3", "PATH": "x"}
    assert {name: made[name] for name in expected} == expected
    assert "CUDA_VISIBLE_DEVICES" not in made
    assert made[SENDER] == str(os.getpid())


def test_n_processes_on_c_cores_have_c_nths_threads_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    cpu = {"accelerator": "cpu"}
    asked = LocalQueue(EngineSection(cells=JobsSection(where="local", at_once=4), **cpu))
    assert (asked.at_once, asked._threads) == (4, 3)
    by_default = LocalQueue(EngineSection(cells=JobsSection(where="local"), **cpu))
    assert (by_default.at_once, by_default._threads) == (6, 2)
    many = LocalQueue(EngineSection(cells=JobsSection(where="local", at_once=40), **cpu))
    assert many._threads == 1


@pytest.mark.parametrize(
    ("gpus", "each", "at_once", "expected"),
    [
        (["0", "1", "2", "3"], 2, 2, [["0", "1"], ["2", "3"]]),
        (["4", "7"], 1, 3, [["4"], ["7"], ["4"]]),
        (["0"], 4, 2, [["0"], ["0"]]),
        (["0", "1"], 0, 2, [[], []]),
        ([], 1, 2, [None, None]),
    ],
)
def test_each_job_sees_gpus_of_its_own_while_there_are_enough(gpus, each, at_once, expected) -> None:
    assert shares(gpus, each, at_once) == expected
    assert environment({}, 1, shares(["3", "5"], 2, 1)[0])["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_a_process_says_how_it_ended_and_is_ended_with_time_to_tidy_up(tmp_path: Path) -> None:
    queue = LocalQueue(EngineSection(accelerator="cpu", cells=JobsSection(where="local", at_once=2)))
    ready = "import sys, time; print('ready', flush=True); sys.exit(3) if len(sys.argv) > 1 else time.sleep(60)"
    jobs = []
    for name, more in (("a", []), ("b", []), ("c", ["x"])):
        (tmp_path / name).mkdir()
        jobs.append(queue.send(name, [sys.executable, "-Sc", ready, *more], tmp_path / name))
    deadline = time.monotonic() + 60
    while not all(job.log.read_text() for job in jobs) or queue.states([jobs[2].id])[jobs[2].id].lives:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int(jobs[0].id), signal.SIGKILL)
    queue.cancel([jobs[1].id])
    while queue.states([jobs[0].id])[jobs[0].id].lives:
        time.sleep(0.02)
    words = [state.words for state in queue.states([job.id for job in jobs]).values()]
    assert words == ["was killed by SIGKILL", "was killed by SIGTERM", "ended with exit status 3"]


def test_a_job_whose_sender_is_gone_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    monkeypatch.setattr("avrobust_core.study.local_jobs._GRACE", 3600.0)
    try:
        variables = {SENDER: str(os.getppid() + 1)}
        end_with_sender(variables)
        assert asked.wait(30)
        assert variables == {}, "processes of its own have another sender"
        before = threading.active_count()
        end_with_sender({})
        assert threading.active_count() == before
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_the_command_of_a_job_leaves_out_the_plugins_that_this_one_leaves_out(tmp_path: Path) -> None:
    plugins: Any = [
        SimpleNamespace(full_name="x:out", status="disabled", entries=()),
        SimpleNamespace(full_name="x:in", status="ok", entries=()),
    ]
    command = command_of(Registry(plugins), tmp_path, "abc")
    assert "--no-plugin=x:out" in command
    assert "--no-plugin=x:in" not in command
    assert command[-5:] == [str(tmp_path / "resolved.yaml"), "--out", str(tmp_path), "--cell", "abc"]


def slurm(engine: dict[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    return parameters(EngineSection(cells=JobsSection(where="slurm", **asked), **(engine or {})))


def test_what_a_spec_says_of_a_job_is_handed_on_to_slurm() -> None:
    found = slurm(
        cpus=4, memory_gib=1.5, hours=0.26, partition="gpu", gpus=2, sbatch={"account": "x", "mail_type": "ALL"}
    )
    expected = {"cpus_per_task": 4, "mem": "1536M", "time": 16, "partition": "gpu", "gpus_per_node": 2}
    assert {name: found[name] for name in expected} == expected
    assert found["ntasks_per_node"] == 2, "one process per GPU"
    assert found["srun_args"] == ["--cpus-per-task=4"]
    assert found["additional_parameters"] == {"account": "x", "mail-type": "ALL"}
    nothing = slurm()
    assert {nothing[name] for name in ("cpus_per_task", "mem", "time", "partition", "gpus_per_node")} == {None}
    assert nothing["ntasks_per_node"] == 1


def test_slurm_is_asked_for_the_devices_of_a_spec() -> None:
    assert slurm({"devices": 2, "accelerator": "cuda"})["gpus_per_node"] == 2
    on_cpu = slurm({"devices": 2, "accelerator": "cpu"})
    assert (on_cpu["ntasks_per_node"], on_cpu["gpus_per_node"]) == (2, None)
    with pytest.raises(RunError, match=r"devices.*numbers.*give how many"):
        slurm({"devices": [0, 1]})


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for SLURM's commands; squeue prints the file `jobs`, and fails without it."""
    for name in ("sbatch", "srun", "scancel", "squeue"):
        program = f'#!/bin/sh\necho "$0 $@" >> {tmp_path}/called\n'
        program += f"cat {tmp_path}/jobs\n" if name == "squeue" else "echo no such partition >&2; exit 1\n"
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_states_are_read_from_squeue_which_may_not_answer_and_forgets_jobs(commands: Path) -> None:
    queue = SlurmQueue(EngineSection(cells=JobsSection(where="slurm")))
    assert queue.states(["1"]) is None
    lines = [
        "1|RUNNING|node7|None",
        "2|PENDING||Priority",
        "6|PENDING||BadConstraints",
        "3|COMPLETING|node7|None",
        "4|TIMEOUT|node7|TimeLimit",
    ]
    (commands / "jobs").write_text("\n".join(lines) + "\n")
    states = queue.states(["1", "2", "3", "4", "5", "6"])
    assert states is not None
    assert [(state.lives, state.words) for state in states.values()] == [
        (True, "is RUNNING on node7"),
        (True, "is PENDING"),
        (True, "is COMPLETING on node7"),
        (False, "ended as TIMEOUT on node7"),
        (False, "is no longer in the queue"),
        (True, "is PENDING (BadConstraints)"),
    ]
    queue.cancel(["1", "2"])
    assert (commands / "called").read_text().splitlines()[-1].endswith("scancel 1 2")


def test_what_slurm_refuses_is_said_in_its_words(commands: Path) -> None:
    queue = SlurmQueue(EngineSection(cells=JobsSection(where="slurm")))
    with pytest.raises(RunError, match="SLURM does not take a job: no such partition"):
        queue.send("x", [sys.executable], commands)


def test_without_slurm_here_the_error_says_where_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"commands are not here \(sbatch, srun, squeue, scancel\)"):
        SlurmQueue(EngineSection(cells=JobsSection(where="slurm")))


def test_a_job_of_slurm_stops_when_it_is_told_that_its_time_is_up() -> None:
    code = (
        "import os, signal, time; from avrobust_core.study.slurm_jobs import stop_in_time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); stop_in_time()\n"
        "os.kill(os.getpid(), signal.SIGUSR2); time.sleep(60)"
    )
    for inside, status in ((True, 7), (False, -signal.SIGUSR2)):
        variables = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
        done = subprocess.run([sys.executable, "-c", code], env=variables | ({"SLURM_JOB_ID": "1"} if inside else {}))
        assert done.returncode == status
