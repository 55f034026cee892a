"""What happens to a command that is left running: asked to end, stuck in C, or with a process that fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("ordinary_signals")

REDUCED = (
    *("--set", "models={concat: {encoders: [audio, video], fusion: concat}}"),
    *("--set", "attacks={pgd: {use: pgd, with: {steps: 2}}}", "--set", "metrics=[accuracy]"),
)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("engine", ["engine.workers=2", "engine={accelerator: cpu, devices: 2}"])
def test_a_run_that_is_asked_to_end_leaves_no_process_and_goes_on_later(
    tiny: Path, tmp_path: Path, run_command, number, engine: str
) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(tiny), "--out", str(out), *REDUCED, "--set", engine]
    long = ["--set", "training.standard.epochs=2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "avrobust_core", *arguments, *long],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 300
        while not list(out.glob("cells/*/history.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    except AssertionError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert err.count(f"stopped by {number.name}; the same command goes on where it stopped: avrobust run") == 1, err
    assert "Traceback" not in err
    gone = time.monotonic() + 20
    while _alive(process.pid) and time.monotonic() < gone:
        time.sleep(0.2)
    assert not _alive(process.pid), "no process of the run is left"
    assert not list(out.rglob(".avrobust-unfinished.*"))
    resumed = run_command(*arguments)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_several_processes_end_together_and_say_which_step_failed(
    tiny: Path, tmp_path: Path, run_command, fake_distribution
) -> None:
    fake = fake_distribution(
        "failing",
        "1.0",
        {"avrobust_v1": {"failing": "failing_attack"}},
        {
            "failing_attack.py": (
                "from avrobust_core import Component, Config, hookimpl\n"
                "class C(Config):\n    pass\n"
                "def build(config):\n"
                "    from avrobust_core import Attack\n"
                "    class Failing(Attack):\n"
                "        norms = frozenset({'linf', 'l2'})\n"
                "        def __call__(self, victim):\n"
                "            raise ValueError('out of luck')\n"
                "    return Failing()\n"
                "@hookimpl\n"
                "def avrobust_attacks():\n"
                "    yield Component(name='failing', summary='Fails.', config=C, build=build)\n"
            )
        },
    )
    out = tmp_path / "out"
    ran = run_command(
        "run", tiny, "--out", out, *REDUCED, "--set", "attacks={bad: failing}",
        "--set", "engine={accelerator: cpu, devices: 2}", "--set", "training.standard.epochs=0",
        env={"PYTHONPATH": os.pathsep.join([str(fake), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert ran.returncode not in (0, None)
    assert "concat/standard: bad/" in ran.stderr
    assert "failed: ValueError: out of luck" in ran.stderr
    assert "with one process alone what fails is recorded" in ran.stderr
    (error,) = out.glob("cells/*/error.json")
    assert "out of luck" in json.loads(error.read_text())["error"]["message"]


def test_code_in_c_that_does_not_return_ends_the_process_with_a_name(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys\n"
        "from avrobust_core import deadline\n"
        "deadline.GRACE = 0.5\n"
        "libc = ctypes.CDLL(None) if sys.argv[1] == 'free' else ctypes.PyDLL(None)\n"
        "def stuck():\n"
        "    for _ in range(10):\n"  # a signal ends sleep, not pause's caller in C: block it there
        "        libc.sleep(30)\n"
        "with deadline.limited(0.5, lambda: 'pgd/both: batch 3 of 5 (clips a, b)'):\n"
        "    import signal\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    stuck()\n"
    )
    for lock in ("free", "held"):
        done = subprocess.run(
            [sys.executable, "-c", code, lock], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 1, done.stderr
        assert "in stuck" in done.stderr
        if lock == "free":
            assert "pgd/both: batch 3 of 5 (clips a, b) took longer than the 0.5 s" in done.stderr
