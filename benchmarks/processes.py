"""What several processes are worth: attacks and the search for neighbours, by one process and by all, in turn.

    python benchmarks/processes.py [--processes N] [--rounds N] [--clips N] [--points N] [--width N]

Each process has one thread. While the first works alone, the others wait for it. The last line is one JSON object:
`attack_efficiency` and `knn_efficiency`, each the median over rounds of the seconds of one process over N times the
seconds of N processes, on a machine with a free core for each; `attack_processor` and `knn_processor`, the processor
time of all over that of one, which other programs disturb less; the seconds; `clips_alike` and `neighbours_alike`,
whether all came to the same; and `peak_mib`, the most memory that each process has held.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avrobust_geometry.knn import Nearest, nearest
from lightning_fabric import Fabric
from numpy.typing import NDArray

from avrobust_core import AttackRun, Registry, Shares, Victim
from avrobust_core.data.loading import Selection
from avrobust_core.evaluation import predictions as evaluating
from avrobust_core.spec.model import Spec
from avrobust_core.study.building import Builder
from avrobust_core.study.company import together
from avrobust_core.study.console import Monitor
from avrobust_core.study.process import Process

BATCH_SIZE = 16
ATTACK_STEPS = 10
NEIGHBOURS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--points", type=int, default=20000)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    spec = study_spec(options.processes, options.clips)
    with together(spec.engine) as company, tempfile.TemporaryDirectory() as own:
        process = Process(company.fabric, Builder(spec, Registry.discover()), Monitor(silent=True))
        torch.set_num_threads(1)
        folder = Path(company.fabric.broadcast(own))
        attacked = Attacked(process, folder)
        points = np.random.default_rng(0).normal(size=(options.points, options.width)).astype(np.float32)
        searched = Searched(process.shares, points)
        report = {
            "processes": options.processes,
            **compared("attack", attacked, process, options.rounds),
            "clips_alike": attacked.alike(),
            **compared("knn", searched, process, options.rounds),
            "neighbours_alike": searched.alike(),
            "peak_mib": process.shares.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024),
        }
        if process.first:
            print(json.dumps(report), flush=True)


def study_spec(processes: int, clips: int) -> Spec:
    """An audio-visual model on toy-av, as in examples/quickstart.yaml."""
    return Spec.model_validate(
        {
            "version": 1,
            "name": "processes",
            "data": {"use": "toy-av", "with": {"train": 8, "test": clips}},
            "encoders": {
                "audio": {"use": "cnn", "with": {"channels": [16, 32, 64], "n_mels": 32, "hop_ms": 16}},
                "video": "slowfast-tiny",
            },
            "models": {"concat": {"encoders": ["audio", "video"], "fusion": "concat"}},
            "training": {"standard": {"epochs": 0}},
            "threats": {"both": {"audio": {"eps": 0.002}, "video": {"eps": 0.008}}},
            "attacks": {"pgd": {"use": "pgd", "with": {"steps": ATTACK_STEPS}}},
            "engine": {"accelerator": "cpu", "devices": processes, "batch_size": BATCH_SIZE},
        }
    )


class Attacked:
    """An attack on all clips, as a study carries it out: in shards, which the first process collects.

    Args:
        process: this one.
        folder: for the shards.
    """

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.found: list[evaluating.Predictions] = []
        self._calls = 0
        model = process.builder.model("concat", process.dataset).eval()
        self._victim = Victim(model, media=process.dataset.media, task=process.dataset.task)
        self._run = AttackRun("pgd", process.attacks["pgd"], process.spec.threats["both"])

    def __call__(self, shares: Shares) -> None:
        """Attack this process's share of the clips."""
        self._calls += 1
        folder = self.folder / str(self._calls)
        if shares.world > 1:
            self._shards(folder, self.process.selection)
            self.process.fabric.barrier()
        elif self.process.first:
            self._alone(folder)
        if self.process.first:
            self.found.append(evaluating.collect(folder, self.process.selection))
        self.process.fabric.barrier()

    def _shards(self, folder: Path, selection: Selection) -> None:
        with self._victim.frozen():
            work = lambda batch: evaluating.evaluate_batch(self._victim, batch, self._run)  # noqa: E731
            self.process.in_shards(folder, selection, work, "pgd", BATCH_SIZE)

    def _alone(self, folder: Path) -> None:
        """All clips by this process, by the same code."""
        alone = Process(Fabric(accelerator="cpu", devices=1), self.process.builder, self.process.monitor)
        several, self.process = self.process, alone
        self._shards(folder, several.selection)
        self.process = several

    def alike(self) -> bool:
        """Whether each clip was found the same every time: success, and logits to 1e-6 of the largest."""
        first = self.found[0] if self.found else None
        return first is None or all(
            same(first.logits, each.logits) and same(first.ids, each.ids) for each in self.found[1:]
        )


class Searched:
    """The nearest neighbours of points among themselves, exactly.

    Args:
        shares: this process among those that search together.
        points: (N, D) float32.
    """

    def __init__(self, shares: Shares, points: NDArray[np.float32]) -> None:
        self.shares = shares
        self.points = points
        self.found: list[Nearest] = []

    def __call__(self, shares: Shares) -> None:
        """Search: all together, or the first process alone."""
        if shares.world > 1 or self.shares.rank == 0:
            self.found.append(nearest(self.points, NEIGHBOURS, exact=True, threads=1, shares=shares))
        self.shares.gather(None)

    def alike(self) -> bool:
        """Whether the neighbours and their distances were the same every time, bit for bit."""
        first = self.found[0]
        return all(
            np.array_equal(first.indices, each.indices) and np.array_equal(first.distances, each.distances)
            for each in self.found
        )


def same(one: Any, other: Any) -> bool:
    """Whether two arrays are the same, numbers to 1e-6 of the largest."""
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return bool(np.abs(one - other).max() <= 1e-6 * max(1.0, np.abs(one).max()))


def compared(name: str, work: Callable[[Shares], None], process: Process, rounds: int) -> dict[str, Any]:
    """The seconds of the first process alone and of all together, in turn, and what that makes of all."""
    world = process.fabric.world_size
    seconds: dict[bool, list[float]] = {True: [], False: []}
    processor: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds + 1):  # the first warms caches and allocators
        for alone in (True, False) if turn % 2 else (False, True):
            process.fabric.barrier()
            began, used = time.perf_counter(), time.process_time()
            work(Shares() if alone else process.shares)
            took, used = time.perf_counter() - began, time.process_time() - used
            if turn:
                seconds[alone].append(took)
                processor[alone].append(sum(process.shares.gather(used)))
    return {
        f"{name}_efficiency": round(median_ratio(seconds[True], seconds[False]) / world, 3),
        f"{name}_processor": round(median_ratio(processor[False], processor[True]), 3),
        f"{name}_seconds_alone": round(statistics.median(seconds[True]), 3),
        f"{name}_seconds_together": round(statistics.median(seconds[False]), 3),
    }


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))


if __name__ == "__main__":
    main()
