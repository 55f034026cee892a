"""What other programs on the same processors cost a study, with the command's own settings of threads and without them.

    python benchmarks/loaded.py [--spec SPEC] [--set PATH=VALUE] [--rounds N] [--busy N] [--limit SECONDS]
                               [--settings NAME ...]

Each round runs the study once alone and once beside busy loops, with each of the settings, all in turn, each in a
process and a folder of its own. Settings: `libraries`, what OpenMP does by itself (AVROBUST_LEAVE_THREADS=1); `ours`,
what the command settles; or variables of the environment (`GOMP_SPINCOUNT=1000,OMP_NUM_THREADS=1`).

The last line is one JSON object: by setting, the `seconds` alone and beside the busy loops (medians over rounds), the
`slowdown`, the median over rounds of the latter over the former, and `idle`, the median over rounds of its seconds
alone over those of the first setting. `ended` counts the runs that the limit has ended: they would have taken longer,
so that what is worked out from them says little. `share` is the slowdown that an equal share of the processors' time
comes to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from avrobust_core.cli.threads import LEFT_ALONE, NUMBER, WAITING, affinity

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=ROOT / "examples" / "quickstart.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `avrobust run` takes it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="loops that run beside it")
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds after which a run is ended, and counts as so long"
    )
    parser.add_argument("--settings", nargs="+", default=["libraries", "ours"])
    options = parser.parse_args()
    alone: dict[str, list[float]] = {name: [] for name in options.settings}
    beside: dict[str, list[float]] = {name: [] for name in options.settings}
    for number in range(options.rounds):
        for name in options.settings:
            alone[name].append(seconds_of(options, environment_of(name)))
            with busy(options.busy):
                beside[name].append(seconds_of(options, environment_of(name)))
            print(f"round {number + 1}, {name}: {alone[name][-1]:.1f} s, beside {beside[name][-1]:.1f} s", flush=True)
    first = options.settings[0]
    report = {
        name: {
            "seconds": [round(statistics.median(times[name]), 2) for times in (alone, beside)],
            "slowdown": median_ratio(beside[name], alone[name]),
            "idle": median_ratio(alone[name], alone[first]),
            "ended": sum(seconds >= options.limit for seconds in alone[name] + beside[name]),
        }
        for name in options.settings
    }
    # Of each processor's time, as many equal parts as there are threads: ours, one for each, and the loops.
    share = (affinity() + options.busy) / affinity()
    print(json.dumps({"processors": affinity(), "busy": options.busy, "share": round(share, 2), "settings": report}))


def environment_of(setting: str) -> dict[str, str]:
    """This process's environment without what it says of threads, and with what a setting says."""
    kept = {name: value for name, value in os.environ.items() if name not in {*WAITING, *NUMBER, LEFT_ALONE}}
    if setting == "ours":
        return kept
    if setting == "libraries":
        return kept | {LEFT_ALONE: "1"}
    return kept | {LEFT_ALONE: "1"} | dict(each.split("=", 1) for each in setting.split(","))


def seconds_of(options: argparse.Namespace, environment: Mapping[str, str]) -> float:
    """The seconds that a study takes from the command to its end, in a new folder; at most the limit."""
    asked = [part for override in options.set for part in ("--set", override)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "avrobust_core", "run", str(options.spec), "--out", f"{folder}/run", *asked]
        command += ["--no-report", "--quiet"]
        began = time.perf_counter()
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, env=dict(environment), cwd=ROOT, check=True, timeout=options.limit, stdout=subprocess.DEVNULL
            )
        return time.perf_counter() - began


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait for anything, while the block runs."""
    program = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(10**6): pass"  # and no longer
    loops = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def median_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of one over the other."""
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 3)


if __name__ == "__main__":
    main()
