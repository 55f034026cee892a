"""Our nearest neighbours beside scikit-learn's, faiss's and hnswlib's: one set, one machine.

    uv pip install -e '.[test,bench]'
    python benchmarks/knn.py [--only PART ...] [--n N ...] [--dims D ...] [--turns N] [--threads N]

The set has clusters on a curved manifold of about 20 dimensions. `exact`: our exact search, faiss's IndexFlatL2,
scikit-learn's brute force and hnswlib, in turn, in one process. `auto`: our exact search, pynndescent behind our
function, and the automatic choice, each run in a process of its own, so that importing and compiling pynndescent count.
`growth`: pynndescent behind our function, already compiled, with 50,000 and 500,000 points. `huge`, only if it is
named: 2 million points of 1024 features (--huge and --dims change that) in a memory-mapped file.

The last line is one JSON object: `exact_over_best_peer` (seconds of our exact search over those of the faster of faiss
and scikit-learn; by set, such as 50000x512; medians over turns), `auto_over_best` (of the automatic choice over the
better of exact and approximate), `recall_at_10` (of the approximate path, against the truth in float64 on 500 rows),
`recall_at_10_auto` (of the automatic choice), `approximate_growth` (the exponent; the largest of the widths), `huge`,
and every run. A comparison whose fastest run takes more than a minute is made once.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.knn_data import Truth, write
from benchmarks.knn_parties import APPROXIMATE_PEERS, EXACT_PEERS, Clock, K, Run, fresh, growth, measured, ours

OURS = "avrobust"
LONG = 60.0
"""Seconds of the fastest party from which a comparison is made once."""

Runs = dict[str, list[Run]]
Runner = Callable[[], tuple[Run, NDArray[np.integer]]]


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    exact: dict[str, Runs] = {}
    auto: dict[str, Runs] = {}
    grown: dict[str, list[Run]] = {}
    huge: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for width in options.dims:
            for n in options.n if {"exact", "auto"} & set(options.only) else []:
                path = made(Path(folder), n, width)
                truth = Truth(np.load(path), K)
                if "exact" in options.only:
                    exact[f"{n}x{width}"] = run_exact(path, truth, clock, options)
                    show(f"exact {n}x{width}", exact[f"{n}x{width}"])
                if "auto" in options.only:
                    auto[f"{n}x{width}"] = run_auto(path, truth, options)
                    show(f"auto {n}x{width}", auto[f"{n}x{width}"])
                path.unlink()
            if "growth" in options.only:
                paths = [made(Path(folder), n, width) for n in options.growth]
                grown[str(width)] = growth(paths, 0, options.threads, cpu_time=options.cpu_time)
                show(
                    f"growth {width}", {str(n): [run] for n, run in zip(options.growth, grown[str(width)], strict=True)}
                )
                for path in paths:
                    path.unlink()
        if "huge" in options.only:
            huge = run_huge(Path(folder), options)
    print(json.dumps(report(exact, auto, grown, huge, options)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["exact", "auto", "growth"]
    parser.add_argument("--only", nargs="+", choices=[*parts, "huge"], default=parts, help="parts to run")
    parser.add_argument("--n", nargs="+", type=int, default=[10_000, 50_000, 100_000, 200_000])
    parser.add_argument("--dims", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--growth", nargs=2, type=int, default=[50_000, 500_000], help="sizes of the part growth")
    parser.add_argument("--huge", type=int, default=2_000_000, help="points of the part huge, with the last of --dims")
    parser.add_argument(
        "--cpu-time", action="store_true", help="compare seconds of the processor: for a busy machine, with --threads 1"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where sets are written and deleted again")
    return parser.parse_args()


def made(folder: Path, n: int, width: int) -> Path:
    """The file of a set."""
    path = folder / f"{n}x{width}.npy"
    write(path, n, width)
    return path


def run_exact(path: Path, truth: Truth, clock: Clock, options: argparse.Namespace) -> Runs:
    """Exact searches, and hnswlib for the record, in turn in this process."""
    data = np.load(path)
    parties = {OURS: ours, **EXACT_PEERS, **APPROXIMATE_PEERS}
    runners: dict[str, Runner] = {
        name: partial(measured, partial(party, data, options.threads), clock) for name, party in parties.items()
    }
    return in_turn(runners, truth, options.turns)


def run_auto(path: Path, truth: Truth, options: argparse.Namespace) -> Runs:
    """Our ways, each run in a process of its own."""
    ways: dict[str, bool | str] = {"exact": True, "approximate": False, "auto": "auto"}
    runners: dict[str, Runner] = {
        name: partial(fresh, path, exact, 0, options.threads, cpu_time=options.cpu_time) for name, exact in ways.items()
    }
    return in_turn(runners, truth, options.turns)


def in_turn(runners: Mapping[str, Runner], truth: Truth, turns: int) -> Runs:
    """Run all parties in turn, each turn beginning with another one."""
    names = list(runners)
    runs: Runs = {name: [] for name in names}
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run, indices = runners[name]()
            runs[name].append(replace(run, recall=round(truth.recall(indices), 5)))
        if min(found[0].seconds for found in runs.values()) > LONG:
            break
    return runs


def run_huge(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pynndescent behind our function on a memory map that is written beforehand."""
    path = made(folder, options.huge, options.dims[-1])
    run, _ = fresh(path, False, 0, options.threads, cpu_time=options.cpu_time, mapped=True)
    found = {"points": options.huge, "features": options.dims[-1], **run.to_json()}
    print(f"huge: {run.seconds:.0f} s, peak {run.peak_gib:.2f} GiB, audit {run.report['audit']}", flush=True)
    return found


def ratio(runs: Runs, mine: str, others: Sequence[str]) -> float:
    """The median over turns of one party's seconds over the least of others'."""
    return round(
        statistics.median(
            run.seconds / min(runs[name][turn].seconds for name in others) for turn, run in enumerate(runs[mine])
        ),
        4,
    )


def exponent(runs: Sequence[Run], sizes: Sequence[int]) -> float:
    """By which power of n the seconds grew."""
    return round(math.log(runs[1].seconds / runs[0].seconds) / math.log(sizes[1] / sizes[0]), 4)


def show(title: str, runs: Runs) -> None:
    """Print the medians of a comparison."""
    print(title)
    for name, found in runs.items():
        recall = "" if found[0].recall is None else f"  recall@{K} {found[0].recall:.4f}"
        method = f"  {found[0].report['method']}" if found[0].report else ""
        seconds = statistics.median(run.seconds for run in found)
        print(f"  {name:14}{seconds:10.2f} s  {found[0].peak_gib:7.2f} GiB{recall}{method}", flush=True)


def report(
    exact: Mapping[str, Runs],
    auto: Mapping[str, Runs],
    grown: Mapping[str, Sequence[Run]],
    huge: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, object]:
    """The JSON object."""
    exponents = {width: exponent(runs, options.growth) for width, runs in grown.items()}
    return {
        "exact_over_best_peer": {name: ratio(runs, OURS, list(EXACT_PEERS)) for name, runs in exact.items()},
        "exact_over_each": {
            name: {peer: ratio(runs, OURS, [peer]) for peer in runs if peer != OURS} for name, runs in exact.items()
        },
        "auto_over_best": {name: ratio(runs, "auto", ["exact", "approximate"]) for name, runs in auto.items()},
        "auto_method": {name: runs["auto"][0].report["method"] for name, runs in auto.items()},
        "recall_at_10": {name: runs["approximate"][0].recall for name, runs in auto.items()},
        "recall_at_10_auto": {name: runs["auto"][0].recall for name, runs in auto.items()},
        "approximate_growth": max(exponents.values(), default=None),
        "approximate_growths": exponents,
        "huge": dict(huge) or None,
        "threads": options.threads,
        "turns": options.turns,
        "seconds": "cpu" if options.cpu_time else "wall",
        "records": {
            "exact": {name: _records(runs) for name, runs in exact.items()},
            "auto": {name: _records(runs) for name, runs in auto.items()},
            "growth": {width: [run.to_json() for run in runs] for width, runs in grown.items()},
        },
    }


def _records(runs: Runs) -> dict[str, list[dict[str, Any]]]:
    return {name: [run.to_json() for run in found] for name, found in runs.items()}


if __name__ == "__main__":
    main()
