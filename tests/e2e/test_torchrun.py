"""Several processes, started by torchrun on one machine or as if on two, or by the command itself; and killed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ordinary_signals")]

REDUCED = (
    *("--set", "models={concat: {encoders: [audio, video], fusion: concat}}", "--set", "evaluation.clips=23"),
    *("--set", "attacks={pgd: {use: pgd, with: {steps: 2}}}", "--set", "metrics=[accuracy, density]"),
    *("--set", "audit=off", "--no-report"),
)
TWO = ("--set", "engine={accelerator: cpu, devices: 2, batch_size: 8}")
KILL = Path(__file__).with_name("kill_at.py")
STARTED = [sys.executable, "-m", "torch.distributed.run"]


def _start(*words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(word) for word in words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | dict(env or {}),
    )


def _end(process: subprocess.Popen[str], within: float = 200) -> tuple[int, str]:
    """The exit status and all that it said."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out + err


def _port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_a_run_whose_processes_are_killed_goes_on_with_any_number_of_them(tiny: Path, tmp_path: Path, alike) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    plain = [sys.executable, "-m", "avrobust_core"]
    status, said = _end(_start(*plain, "run", tiny, "--out", whole, *REDUCED, *TWO))
    assert status == 0, said
    assert said.count("0 of 1 cells reused") == 1, "one process prints"
    (cell,) = _result(whole)["cells"]
    assert cell["clips"] == 23, "a number of clips that nothing divides is neither padded nor cut"
    assert cell["fit"]["clip_backwards"] == 2 * 48, "each clip is learned from once per epoch, by one process"

    run = ["run", tiny, "--out", out, *REDUCED]
    three = [*STARTED, "--nnodes=1", "--nproc-per-node=3", KILL]
    for launch, engine, place, nth, rank, ends in (
        ([sys.executable, KILL], TWO, "avrobust_core.training.learner:Learner.learn", 4, 1, 4),
        ([sys.executable, KILL], TWO, "avrobust_core.evaluation.predictions:evaluate_batch", 3, 0, -9),
        (three, (), "avrobust_geometry.knn.exact:rerank", 1, 1, 1),
    ):
        process = _start(*launch, place, str(nth), *run, *engine, env={"KILLED_RANK": str(rank)})
        status, said = _end(process)
        assert status == ends, said
        sentences = [line for line in said.splitlines() if line.startswith("avrobust: error: ")]
        assert len(sentences) == 1, said
        assert f"process {rank + 1} of {2 if engine else 3} (rank {rank}, pid " in sentences[0]
        if ends == 4:
            assert "was killed by SIGKILL; so all of them end. The same command goes on" in sentences[0]
        assert "gloo" not in said
        assert not _alive(out), said

    rendezvous = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{_port()}")
    machines = [_start(*STARTED, *rendezvous, "-m", "avrobust_core", *run) for _ in range(2)]
    ended = [_end(process) for process in machines]
    assert [status for status, _ in ended] == [0, 0], ended
    assert sum(said.count("1 of 1 cells reused") for _, said in ended) == 1, "one process of all machines prints"
    assert json.loads((out / "lock.json").read_text())["processes"] == 2
    assert alike(_result(out), _result(whole))
    assert _exact(out) == _exact(whole), "each clip's prediction, success and queries, to the bit"

    (folder,) = (out / "cells").iterdir()
    for part in ("evaluations", "embeddings", "measurements"):
        shutil.rmtree(folder / part)
    status, said = _end(_start(*plain, *run))
    assert status == 0, said
    assert alike(_result(out), _result(whole))


@pytest.mark.skipif(shutil.which("srun") is None, reason="needs SLURM")
def test_srun_starts_the_processes_and_one_that_dies_is_named(tiny: Path, tmp_path: Path, slurm) -> None:
    srun = ("srun", "--ntasks=2", "--overcommit", "--kill-on-bad-exit=1", sys.executable, KILL)
    place = "avrobust_core.evaluation.predictions:evaluate_batch"
    run = ("run", tiny, "--out", tmp_path / "out", *REDUCED, "--set", "training.standard.epochs=0")
    status, said = _end(_start(*srun, place, "2", *run, env=slurm.variables | {"KILLED_RANK": "1"}))
    assert status not in (0, None)
    (sentence,) = [line for line in said.splitlines() if line.startswith("avrobust: error: ")]
    assert "process 2 of 2 (rank 1, pid " in sentence
    assert "(srun's own message says by what)" in sentence
    assert "clean" in said, "they had joined, and worked"


def _exact(out: Path) -> list[dict[str, object]]:
    """What stands of each clip and attack in the samples, but for the numbers that round."""
    (path,) = out.glob("cells/*/samples.parquet")
    table = pq.read_table(path)
    return table.select([field.name for field in table.schema if not pa.types.is_floating(field.type)]).to_pylist()


def _alive(out: Path) -> list[str]:
    """The processes that still work for a run, once they have had time to end."""
    found: list[str] = []
    for _ in range(50):
        found = [text for text in map(_words, Path("/proc").glob("[0-9]*")) if str(out) in text]
        if not found:
            break
        time.sleep(0.2)
    return found


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode().replace("\0", " ")
    except OSError:
        return ""
