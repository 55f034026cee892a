"""The cost of a search on this machine: a measured rate of products, and what pynndescent was seen to need."""

import math
import time
from functools import cache

import torch

from avrobust_geometry.knn.settling import candidates_for

PROBE_SECONDS = 0.04
"""Seconds that products are timed, once per process, device and number of threads."""

EFFICIENCY = 0.7
"""Share of the probe's rate that whole sets reach: their tiles come from memory, and heat lowers the clock."""

SCAN_SECONDS = 0.5e-9
"""On one thread, to look through one score."""

RERANK_SECONDS = 3e-9
"""On one thread, for one coordinate of a candidate that is ranked again."""

LOOP_SECONDS = 5.7e-8
"""A turn of the loop that `_scalar_slowness` times, on the machine that the figures below are from."""

COMPILE_SECONDS = 35.0
"""Import and compilation of pynndescent 0.7, once in each process: numba cannot keep them."""

BASE_SECONDS = 1.87e-4
WIDTH_SECONDS = 3.4e-7
"""pynndescent 0.7 on one thread with 51 neighbours and 100,000 points: seconds per point, and those per point and
feature. Measured on clustered data at 512 and 1024 features."""

SCALING_POWER = 0.95
"""Exponent by which products gain from threads."""

THREAD_POWER = 0.7
GROWTH_POWER = 0.08
NEIGHBOUR_POWER = 1.3
"""Exponents by which that changes: with threads^-0.7, with n^1.08, and with neighbours^1.3."""


def exact_seconds(
    points: int, reference: int, width: int, k: int, *, itself: bool, device: torch.device, threads: int
) -> float:
    """The seconds that an exact search is expected to take.

    Args:
        points: N.
        reference: M.
        width: features.
        k: neighbours.
        itself: whether the points are the reference, which halves the products.
        device: where products are computed.
        threads: of the processor.
    """
    pairs = float(points) * reference
    products = pairs * 2 * width / (EFFICIENCY * matrix_rate(device, threads)) / (2 if itself else 1)
    rerank = float(points) * candidates_for(k) * width * RERANK_SECONDS / threads
    return products + rerank + (pairs * SCAN_SECONDS / threads if device.type == "cpu" else 0.0)


def approximate_seconds(n: int, width: int, neighbours: int, *, compiled: bool, threads: int) -> float:
    """The seconds that pynndescent is expected to take.

    Args:
        n: points.
        width: features.
        neighbours: how many are asked for.
        compiled: whether it has been compiled in this process.
        threads: of the processor.
    """
    each = (
        (BASE_SECONDS + WIDTH_SECONDS * width)
        * math.pow(n / 1e5, GROWTH_POWER)
        * math.pow(neighbours / 51, NEIGHBOUR_POWER)
    )
    slowness: float = _scalar_slowness()
    return slowness * (n * each / math.pow(threads, THREAD_POWER) + (0.0 if compiled else COMPILE_SECONDS))


@cache
def matrix_rate(device: torch.device, threads: int) -> float:
    """Floating-point operations per second of a float32 product of the size of a tile; the best of a few.

    On a processor one thread's own seconds count, not the clock's: other programs slow both ways down alike, and must
    not decide between them.

    Args:
        device: where it is computed.
        threads: of the processor.
    """
    left = torch.ones(1024, 512, device=device)
    right = torch.ones(2048, 512, device=device)
    work = 2.0 * left.numel() * len(right)
    on_processor = device.type == "cpu"
    clock = time.thread_time if on_processor else time.perf_counter
    set_threads = torch.get_num_threads()
    best, began = float("inf"), clock()
    try:
        if on_processor:
            torch.set_num_threads(1)
        while clock() - began < PROBE_SECONDS or best == float("inf"):
            start = clock()
            product = left @ right.T
            float(product[0, 0])  # waits for an accelerator
            best = min(best, clock() - start)
    finally:
        torch.set_num_threads(set_threads)
    return work / best * (math.pow(threads, SCALING_POWER) if on_processor else 1)


@cache
def _scalar_slowness() -> float:
    """This machine's slowness at what is neither product nor vector, such as compiling: 1 for the figures' machine."""
    turns, best = 20_000, float("inf")
    for _ in range(5):
        start, total = time.thread_time(), 0
        for number in range(turns):
            total += number * number % 7
        best = min(best, time.thread_time() - start)
    return best / turns / LOOP_SECONDS
