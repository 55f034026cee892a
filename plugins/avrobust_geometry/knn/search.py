"""`nearest`: one function for exact and approximate neighbours, which chooses and says what it chose."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from avrobust_core import AvrobustError
from avrobust_geometry.knn.answers import Neighbours
from avrobust_geometry.knn.approximate import (
    LEAST,
    Graph,
    approximate_neighbours,
    compiled,
    neighbours_asked,
    possible,
)
from avrobust_geometry.knn.arguments import Exact, check_choices, read_sets
from avrobust_geometry.knn.cost import approximate_seconds, exact_seconds
from avrobust_geometry.knn.exact import exact_neighbours
from avrobust_geometry.knn.rows import Rows
from avrobust_geometry.knn.tiles import full_precision

RECALL = 0.95
"""Below this audited recall more neighbours are asked for, or all are found exactly."""

ATTEMPTS = 2
"""Tries of pynndescent, each with twice as many neighbours."""

AFFORDABLE_SECONDS = 3600.0
"""Exact search stands in for a graph of too low recall up to this estimate; beyond it the graph is kept."""


def nearest(
    points: ArrayLike | Tensor,
    k: int,
    *,
    reference: ArrayLike | Tensor | None = None,
    exclude: ArrayLike | Tensor | None = None,
    exact: Exact = "auto",
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> Neighbours:
    """The k nearest neighbours of each point, by Euclidean distance.

    Exact neighbours come from float32 products of centred rows; some more than k are ranked again by differences in
    float64, and points whose k-th might still be wrong are searched again with float64 products; where those cannot
    tell, either (rows of other orders of magnitude), by differences in float64. Approximate ones come
    from pynndescent (Dong et al. 2011, "Efficient k-nearest neighbor graph construction for generic similarity
    measures") and are audited on 500 rows.

    Args:
        points: (N, D) of floats: a numpy array, perhaps memory-mapped, or a torch tensor; maps are read in blocks.
        k: neighbours; clipped to what there is, which the report says.
        reference: (M, D) where neighbours are looked for; None for the points, each of which is then left out by its
            row. Search in a reference is always exact.
        exclude: (N,) the row of the reference that is the point itself, -1 for none.
        exact: True, False (pynndescent), or "auto": whichever the cost model says is faster here, compilation included.
            On an accelerator, with a reference, below 256 points, and, for "auto", outside the main thread it is exact.
        seed: of pynndescent and of the audit. A graph also depends on `threads`.
        device: where exact products are computed.
        threads: of the processor; by default torch's number.

    Returns:
        the neighbours. The report has `method` and `reason`; `asked` and `k`; `seconds`: `exact` and `approximate` as
        estimated (None where not possible), and `taken`; `searched_again`: points that needed products in float64;
        `by_differences`: points of these for which products were not enough;
        `duplicates`: points with a neighbour at distance 0; `n_jobs`, `random_state`, and for pynndescent `attempts`:
        for each its `neighbours`, `unfinished` rows, `audit`; `audit`: that of the last attempt, else None.

    Raises:
        ValueError: for wrong shapes, widths, types or k, values that are not finite or too large to be squared beside
            the others, and sets for which nothing but differences of millions of rows would do.
        AvrobustError: if pynndescent is demanded outside the main thread.
    """
    began = time.perf_counter()
    where = check_choices(k, exact, device, threads)
    asked, among, own = read_sets(points, reference, exclude)
    itself = asked is among
    there = among.n - (1 if itself or own is not None else 0)
    if there < 1:
        raise ValueError("the reference holds nothing but the point itself: give at least two rows")
    wanted = min(k, there)
    with full_precision(threads) as jobs:
        seconds: dict[str, float | None] = {
            "exact": exact_seconds(asked.n, among.n, asked.width, wanted, itself=itself, device=where, threads=jobs),
            "approximate": None,
        }
        barred = _barred(asked, itself, where, exact)
        if barred is None:
            seconds["approximate"] = _approximate(asked, wanted, neighbours_asked(wanted, asked.n), jobs)
        by_graph, reason = _choose(exact, barred, seconds)
        report: dict[str, Any] = {"asked": k, "k": wanted, "points": asked.n, "reference": among.n}
        graph: Graph | None = None
        if by_graph:
            graph, tried, reason = _attempts(asked, wanted, exact, seconds, seed, jobs, reason)
            report |= {"attempts": tried, "audit": tried[-1]["audit"]}
        else:
            report |= {"audit": None}
        again = apart = 0
        if graph is None:
            found = exact_neighbours(asked, among, wanted, own, where)
            indices, distances, again, apart = found.indices, found.distances, found.again, found.apart
        else:
            indices, distances = graph.indices, graph.distances
    report |= {
        "method": "exact" if graph is None else "pynndescent",
        "reason": reason,
        "searched_again": again,
        "by_differences": apart,
        "duplicates": int((distances[:, 0] == 0).sum()),
        "n_jobs": jobs,
        "random_state": seed,
        "seconds": {name: None if value is None else round(value, 3) for name, value in seconds.items()}
        | {"taken": round(time.perf_counter() - began, 3)},
    }
    return Neighbours(indices, distances, report["method"], report)


def _barred(points: Rows, itself: bool, device: torch.device, exact: Exact) -> str | None:
    """Why pynndescent is out of the question, if it is."""
    if not itself:
        return "a search in a reference is always exact"
    if device.type != "cpu":
        return "on an accelerator exact search is faster"
    if points.n < LEAST:
        return f"below {LEAST} points there is nothing to gain"
    if not possible():
        if exact is False:
            raise AvrobustError(
                "pynndescent runs in the main thread only: call nearest from there, or with exact=True or 'auto'"
            )
        return "pynndescent runs in the main thread only"
    return None


def _approximate(points: Rows, k: int, neighbours: int, jobs: int) -> float:
    return approximate_seconds(points.n, points.width, neighbours, compiled=compiled(), threads=jobs)


def _choose(exact: Exact, barred: str | None, seconds: Mapping[str, float | None]) -> tuple[bool, str]:
    """Choose pynndescent or not, and say why."""
    approximate, product = seconds["approximate"], seconds["exact"]
    if exact is True:
        return False, "asked for"
    if barred is not None or approximate is None or product is None:
        return False, barred or ""
    if exact is False:
        return True, "asked for"
    return approximate < product, "estimated to be faster"


def _attempts(
    points: Rows,
    k: int,
    exact: Exact,
    seconds: Mapping[str, float | None],
    seed: int,
    jobs: int,
    reason: str,
) -> tuple[Graph | None, list[dict[str, Any]], str]:
    """A graph of enough recall, or None if exact search is to stand in; what was tried, and why this was chosen."""
    neighbours = neighbours_asked(k, points.n)
    whole = seconds["exact"] or np.inf
    tried: list[dict[str, Any]] = []
    while True:
        graph = approximate_neighbours(points, k, neighbours, seed, jobs)
        tried.append({"neighbours": neighbours, "unfinished": graph.unfinished, "audit": graph.audit})
        if graph.audit["recall"] >= RECALL:
            return graph, tried, reason
        neighbours = min(2 * neighbours, points.n)
        cheaper = exact == "auto" and whole <= _approximate(points, k, neighbours, jobs)
        if len(tried) < ATTEMPTS and not cheaper and neighbours > tried[-1]["neighbours"]:
            continue
        if exact is False or whole > AFFORDABLE_SECONDS:
            return (
                graph,
                tried,
                f"{reason}; recall stayed below {RECALL}, and exact search was not affordable or not wanted",
            )
        return None, tried, f"pynndescent's recall stayed below {RECALL}"
