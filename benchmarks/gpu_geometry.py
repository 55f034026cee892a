"""The latent space's parts of benchmarks/gpu.py: nearest neighbours over bare products, density, convexity."""

from typing import Any

import numpy as np
import torch
from avrobust_geometry import convexity, density
from avrobust_geometry.knn import nearest
from torch import Tensor

from benchmarks.gpu_subject import Bench
from benchmarks.knn_data import CLUSTERS, INTRINSIC, NOISE
from benchmarks.knn_parties import K

TILE = 8192
"""Rows and columns of the bare search's products."""


def clustered(n: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """As benchmarks/knn_data.py makes them, on the device: points (N, D) float32, and each one's cluster (N,)."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    centres, mixing = 2 * normal(CLUSTERS, INTRINSIC), normal(INTRINSIC, width) / INTRINSIC**0.5
    cluster = torch.randint(CLUSTERS, (n,), generator=generator, device=device)
    points = torch.empty(n, width, device=device)
    for start in range(0, n, 1 << 16):
        part = cluster[start : start + (1 << 16)]
        inner = centres[part] + normal(len(part), INTRINSIC)
        points[start : start + len(part)] = torch.tanh(inner @ mixing) + NOISE * normal(len(part), width)
    return points, cluster


def bare(points: Tensor, reference: Tensor, k: int, *, itself: bool) -> Tensor:
    """Float32 products and a top-k of each tile, merged: the distances, squared and halved, (N, k)."""
    kept = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    middle = reference.mean(dim=0)
    points, reference = points - middle, reference - middle
    halves = reference.square().sum(dim=1) / 2
    found = []
    for row in range(0, len(points), TILE):
        best = None
        left = points[row : row + TILE]
        for column in range(0, len(reference), TILE):
            scores = left @ reference[column : column + TILE].T - halves[column : column + TILE]
            if itself and row == column:
                scores.fill_diagonal_(-torch.inf)
            top = scores.topk(min(k, scores.shape[1]), dim=1).values
            best = top if best is None else torch.cat([best, top], dim=1).topk(k, dim=1).values
        assert best is not None
        found.append(left.square().sum(dim=1, keepdim=True) / 2 - best)
    torch.backends.cuda.matmul.allow_tf32 = kept
    return torch.cat(found)


def neighbours(bench: Bench) -> dict[str, Any]:
    """A set within itself."""
    points, _ = clustered(*bench.size.neighbours, bench.device)
    return _beside(bench, points, None)


def queries(bench: Bench) -> dict[str, Any]:
    """Points among those of another set."""
    asked, among = bench.size.queries
    reference, _ = clustered(among, bench.size.neighbours[1], bench.device)
    points = reference[:asked] + 0.01
    return _beside(bench, points, reference)


def _beside(bench: Bench, points: Tensor, reference: Tensor | None) -> dict[str, Any]:
    reports: list[Any] = []

    def ours() -> None:
        reports.append(nearest(points, K, reference=reference, exact=True, device=bench.device))

    among = points if reference is None else reference
    plain = bench.seconds(lambda: bare(points, among, K, itself=reference is None))
    seconds = bench.seconds(ours)
    squares = bare(points, among, K, itself=reference is None).clamp(min=0).mul(2).sqrt().double().cpu().numpy()
    difference = float(np.abs(squares - reports[-1].distances).max())
    return {
        "seconds": round(seconds, 4),
        "bare_seconds": round(plain, 4),
        "over_bare": round(seconds / plain, 4),
        "largest_difference": difference,
        "searched_again": reports[-1].report["searched_again"],
    }


def density_of_classes(bench: Bench) -> dict[str, Any]:
    """All estimators of points with about two labels each."""
    points, cluster = clustered(*bench.size.neighbours, bench.device)
    labels = torch.zeros(len(points), bench.size.labels, dtype=torch.bool, device=bench.device)
    rows = torch.arange(len(points), device=bench.device)
    labels[rows, cluster % bench.size.labels] = True
    labels[rows, (cluster * 7 + rows % 3) % bench.size.labels] = True
    found: dict[str, Any] = {}
    for names in (("class-ratio",), ("log-knn", "lid"), ("lof",), ("coverage-density",)):
        began = bench.now()
        density(points, labels, estimators=names, device=bench.device)
        found["+".join(names)] = round(bench.now() - began, 3)
        if bench.left < 0:
            break
    return {"seconds_of": found}


def convexity_of_classes(bench: Bench) -> dict[str, Any]:
    """Points between embeddings, classified by a small network on the device."""
    points, cluster = clustered(bench.size.neighbours[0] // 5, bench.size.neighbours[1], bench.device)
    classes = min(bench.size.labels, CLUSTERS)
    torch.manual_seed(0)
    head = torch.nn.Sequential(
        torch.nn.Linear(points.shape[1], 512), torch.nn.ReLU(), torch.nn.Linear(512, classes)
    ).to(bench.device)
    own = (cluster % classes).cpu().numpy()
    with torch.no_grad():
        plain = bench.seconds(lambda: head(points))
        began = bench.now()
        found = convexity(points, own, head, pairs=200, resamples=100)
        seconds = bench.now() - began
    return {
        "seconds_of": {"interpolation": round(seconds, 3), "one pass over the points": round(plain, 5)},
        "values": len(found.values),
    }
