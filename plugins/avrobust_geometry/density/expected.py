"""The seconds that the searches of `density` are expected to take, by the cost model that chooses among searches."""

import torch

from avrobust_geometry.configs import DensityConfig
from avrobust_geometry.knn.approximate import LEAST, neighbours_asked
from avrobust_geometry.knn.cost import approximate_seconds, exact_seconds


def search_seconds(points: int, reference: int, width: int, config: DensityConfig) -> float:
    """Of one layer, on the processor.

    The clips are looked for in the reference, and again by class, for which all distances are computed; of more than
    `config.most` distances only a subsample is. The reference is searched in itself for its intrinsic dimension:
    exactly (n^2) or by a graph (about n), whichever is faster.

    Args:
        points: clips that are evaluated, N.
        reference: clips among which neighbours are, M.
        width: features.
        config: of the metric.
    """
    if reference < 2:
        return 0.0
    device, threads = torch.device("cpu"), torch.get_num_threads()
    k = min(config.k, reference - 1)

    def exact(asked: int, *, itself: bool) -> float:
        return exact_seconds(asked, reference, width, k, itself=itself, device=device, threads=threads)

    within = exact(reference, itself=True)
    if config.exact is not True and reference >= LEAST:
        asked = neighbours_asked(k, reference)
        graph = approximate_seconds(reference, width, asked, compiled=False, threads=threads)
        within = graph if config.exact is False else min(within, graph)
    if config.reference is None:
        return within + _bounded(exact(points, itself=False), points * reference, config)
    toward = exact(points, itself=False)
    return within + toward + _bounded(toward, points * reference, config)


def _bounded(seconds: float, distances: int, config: DensityConfig) -> float:
    """Of a search by class, which stops at so many distances unless it is to be exact."""
    return seconds if config.exact is True else seconds * min(1.0, config.most / max(distances, 1))
