"""`nearest`: one function for exact and approximate neighbours, which chooses and says what it chose."""

import threading
import time
from dataclasses import replace
from typing import Any

import torch

from avrobust_core import AvrobustError, Shares
from avrobust_geometry.configs import Exact
from avrobust_geometry.inputs import Array, Ints
from avrobust_geometry.knn.approximate import LEAST, approximate_neighbours, compiled, neighbours_asked
from avrobust_geometry.knn.cost import approximate_seconds, exact_seconds
from avrobust_geometry.knn.exact import Nearest, exact_neighbours
from avrobust_geometry.knn.rows import Rows, read_sets
from avrobust_geometry.knn.tiles import full_precision

RECALL = 0.95
"""Below this audited recall more neighbours are asked for, or all are found exactly."""

ATTEMPTS = 2
"""Tries of pynndescent, each with twice as many neighbours."""

AFFORDABLE_SECONDS = 3600.0
"""Exact search stands in for a graph of too low recall up to this estimate; beyond it the graph is kept."""


def nearest(
    points: Array,
    k: int,
    *,
    reference: Array | None = None,
    exclude: Ints | None = None,
    exact: Exact = "auto",
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    shares: Shares | None = None,
) -> Nearest:
    """The k nearest neighbours of each point, by Euclidean distance.

    Exact neighbours come from float32 products of centred rows; some more than k are ranked again by differences in
    float64, and points whose k-th might still be wrong are searched again with float64 products; where those cannot
    tell, either (rows of other orders of magnitude), by differences in float64. Approximate ones come
    from pynndescent (Dong et al. 2011, "Efficient k-nearest neighbor graph construction for generic similarity
    measures") and are audited on 500 rows.

    Args:
        points: (N, D) of floats: a numpy array, perhaps memory-mapped, or a torch tensor; maps are read in blocks.
        k: neighbours, at least 1; clipped to what there is, at least 1 too, which the report says.
        reference: (M, D) where neighbours are looked for; None for the points, each of which is then left out by its
            row. Search in a reference is always exact.
        exclude: (N,) the row of the reference that is the point itself, -1 for none.
        exact: True, False (pynndescent), or "auto": whichever the cost model says is faster here, compilation included.
            On an accelerator, with a reference, below 256 points, and, for "auto", outside the main thread it is exact.
        seed: of pynndescent and of the audit. A graph also depends on `threads`.
        device: where exact products are computed.
        threads: of the processor; by default torch's number.
        shares: the processes that search together, each of which must call this with the same; None for this one alone.
            Exact search is shared. A graph is made by the first, and given to the others.

    Returns:
        the neighbours. The report has `method` and `reason`; `asked` and `k`; `seconds`: `exact` and `approximate` as
        estimated (None where not possible), and `taken`; `searched_again`: points that needed products in float64;
        `by_differences`: points of these for which products were not enough;
        `duplicates`: points with a neighbour at distance 0; `n_jobs`, `random_state`, and for pynndescent `attempts`:
        for each its `neighbours`, `unfinished` rows, `audit`; `audit`: that of the last attempt, else None.

    Raises:
        ValueError: for wrong shapes, widths or types, values that are not finite or too large to be squared beside
            the others, and sets for which nothing but differences of millions of rows would do.
        AvrobustError: if pynndescent is demanded outside the main thread.
    """
    began = time.perf_counter()
    where, shares = torch.device(device), shares or Shares()
    asked, among, own = read_sets(points, reference, exclude, where)
    itself = asked is among
    wanted = min(k, among.n - (1 if itself or own is not None else 0))
    found: Nearest | None = None
    tried: list[dict[str, Any]] = []
    with full_precision(threads) as jobs:
        whole = exact_seconds(asked.n, among.n, asked.width, wanted, itself=itself, device=where, threads=jobs)
        whole /= shares.world
        barred = _barred(asked, itself, where, exact)
        graph = None if barred else _graph_seconds(asked, neighbours_asked(wanted, asked.n), jobs)
        reason = "asked for" if exact is True else barred or ("estimated to be faster" if exact else "asked for")
        approximate = graph is not None and (exact is False or (exact == "auto" and graph < whole))
        if shares.gather(approximate)[0]:
            attempts = _attempts(asked, wanted, exact, whole, seed, jobs, reason) if shares.rank == 0 else None
            found, tried, reason = shares.gather(attempts)[0]
        if found is None:
            found = exact_neighbours(asked, among, wanted, own, where, shares)
    report = {
        "asked": k,
        "k": wanted,
        "points": asked.n,
        "reference": among.n,
        **({"attempts": tried} if tried else {}),
        "audit": tried[-1]["audit"] if tried else None,
        "method": "pynndescent" if "audit" in found.report else "exact",
        "reason": reason,
        "searched_again": found.report.get("searched_again", 0),
        "by_differences": found.report.get("by_differences", 0),
        "duplicates": int((found.distances[:, 0] == 0).sum()),
        "n_jobs": jobs,
        "random_state": seed,
        "seconds": {
            "exact": round(whole, 3),
            "approximate": None if graph is None else round(graph, 3),
            "taken": round(time.perf_counter() - began, 3),
        },
    }
    return replace(found, report=report)


def _barred(points: Rows, itself: bool, device: torch.device, exact: Exact) -> str | None:
    """Why pynndescent is out of the question, if it is."""
    if not itself:
        return "a search in a reference is always exact"
    if device.type != "cpu":
        return "on an accelerator exact search is faster"
    if points.n < LEAST:
        return f"below {LEAST} points there is nothing to gain"
    if threading.current_thread() is threading.main_thread():
        return None
    # Other threads may not run numba's parallel code side by side.
    if exact is False:
        raise AvrobustError(
            "pynndescent runs in the main thread only: call nearest from there, or with exact=True or 'auto'"
        )
    return "pynndescent runs in the main thread only"


def _graph_seconds(points: Rows, neighbours: int, jobs: int) -> float:
    return approximate_seconds(points.n, points.width, neighbours, compiled=compiled(), threads=jobs)


def _attempts(
    points: Rows, k: int, exact: Exact, whole: float, seed: int, jobs: int, reason: str
) -> tuple[Nearest | None, list[dict[str, Any]], str]:
    """A graph of enough recall, or None if exact search is to stand in; what was tried, and why this was chosen."""
    neighbours = neighbours_asked(k, points.n)
    tried: list[dict[str, Any]] = []
    while True:
        graph = approximate_neighbours(points, k, neighbours, seed, jobs)
        tried.append({"neighbours": neighbours, **graph.report})
        if graph.report["audit"]["recall"] >= RECALL:
            return graph, tried, reason
        neighbours = min(2 * neighbours, points.n)
        cheaper = exact == "auto" and whole <= _graph_seconds(points, neighbours, jobs)
        if len(tried) < ATTEMPTS and not cheaper and neighbours > tried[-1]["neighbours"]:
            continue
        if exact is False or whole > AFFORDABLE_SECONDS:
            kept = f"recall stayed below {RECALL}, and exact search was not affordable or not wanted"
            return graph, tried, f"{reason}; {kept}"
        return None, tried, f"pynndescent's recall stayed below {RECALL}"
