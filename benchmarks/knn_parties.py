"""The parties of benchmarks/knn.py, and how one run of one of them is measured: time, peak memory, recall."""

import gc
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avrobust_geometry.knn import nearest
from numpy.typing import NDArray

K = 10
EF = 120
"""The breadth of hnswlib's search, for a recall of about .98 on this set."""

Clock = Callable[[], float]
Party = Callable[[NDArray[np.float32], int], NDArray[np.integer]]
"""From (N, D) and a number of threads to the K nearest of each row, itself left out."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one party.

    Attributes:
        seconds: of the search, index and compilation included.
        peak_gib: the process's largest resident memory during it, the data included.
        recall: of K neighbours, on rows whose truth is known; None if not measured.
        report: what the engine says, for ours.
    """

    seconds: float
    peak_gib: float
    recall: float | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def ours(data: NDArray[np.float32], threads: int) -> NDArray[np.integer]:
    """The engine, exact."""
    return nearest(data, K, exact=True, threads=threads).indices


def scikit_learn(data: NDArray[np.float32], threads: int) -> NDArray[np.integer]:
    """scikit-learn's brute force; its threads are those of the libraries below it."""
    neighbours = import_module("sklearn.neighbors").NearestNeighbors
    limits = import_module("threadpoolctl").threadpool_limits
    with limits(limits=threads):
        found: NDArray[np.integer] = (
            neighbours(n_neighbors=K, algorithm="brute", n_jobs=threads).fit(data).kneighbors(return_distance=False)
        )
    return found


def faiss_flat(data: NDArray[np.float32], threads: int) -> NDArray[np.integer]:
    """Faiss's IndexFlatL2."""
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(data.shape[1])
    index.add(data)
    return _without_self(index.search(data, K + 1)[1])


def hnsw(data: NDArray[np.float32], threads: int) -> NDArray[np.integer]:
    """Hnswlib."""
    index = import_module("hnswlib").Index(space="l2", dim=data.shape[1])
    index.init_index(max_elements=len(data), M=16, ef_construction=200, random_seed=0)
    index.add_items(data, num_threads=threads)
    index.set_ef(EF)
    return _without_self(index.knn_query(data, k=K + 1, num_threads=threads)[0].astype(np.int64))


EXACT_PEERS: dict[str, Party] = {"faiss": faiss_flat, "scikit-learn": scikit_learn}
APPROXIMATE_PEERS: dict[str, Party] = {"hnswlib": hnsw}


def _without_self(indices: NDArray[np.integer]) -> NDArray[np.integer]:
    """K of K + 1 neighbours: without the row itself, or without the last where a duplicate has displaced it."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    return np.asarray(indices[~own].reshape(len(indices), -1))


def measured(party: Callable[[], NDArray[np.integer]], clock: Clock) -> tuple[Run, NDArray[np.integer]]:
    """Run, and take the time and the peak of memory."""
    gc.collect()
    with Peak() as peak:
        began = clock()
        indices = party()
        seconds = clock() - began
    return Run(round(seconds, 3), peak.gib), indices


class Peak:
    """The largest resident memory of this process within the block, in GiB, looked at every 10 ms where it can be."""

    def __enter__(self) -> "Peak":
        self.gib = self._now()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self.gib = round(max(self.gib, self._now()), 3)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.gib = max(self.gib, self._now())

    @staticmethod
    def _now() -> float:
        status = Path("/proc/self/statm")
        if status.exists():
            return float(int(status.read_text().split()[1]) * resource.getpagesize() / 2**30)
        # Elsewhere only the process's peak so far is known.
        return float(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        )


def fresh(
    path: Path, exact: bool | str, seed: int, threads: int, *, cpu_time: bool, mapped: bool = False
) -> tuple[Run, NDArray[np.integer]]:
    """The engine in a process of its own, so that importing and compiling pynndescent are part of its time.

    Args:
        path: of the .npy file.
        exact: as `nearest` takes it.
        seed: likewise.
        threads: likewise.
        cpu_time: whether seconds are the processor's.
        mapped: whether the data stay in the file.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_child, path, exact, seed, threads, cpu_time, mapped).result()


def growth(paths: list[Path], seed: int, threads: int, *, cpu_time: bool) -> list[Run]:
    """The approximate path on one set after the other in one process, compiled beforehand."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_growing_child, paths, seed, threads, cpu_time).result()


def _child(
    path: Path, exact: Any, seed: int, threads: int, cpu_time: bool, mapped: bool
) -> tuple[Run, NDArray[np.integer]]:
    torch.set_num_threads(threads)
    data = np.load(path, mmap_mode="r" if mapped else None)
    reports: list[Mapping[str, Any]] = []

    def search() -> NDArray[np.integer]:
        found = nearest(data, K, exact=exact, seed=seed, threads=threads)
        reports.append(found.report)
        return found.indices

    run, indices = measured(search, time.process_time if cpu_time else time.perf_counter)
    return Run(run.seconds, run.peak_gib, report=dict(reports[0])), indices


def _growing_child(paths: list[Path], seed: int, threads: int, cpu_time: bool) -> list[Run]:
    warm = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    nearest(warm, K, exact=False, seed=seed, threads=threads)
    return [_child(path, False, seed, threads, cpu_time, mapped=False)[0] for path in paths]
