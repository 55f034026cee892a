"""From candidates to neighbours: true distances in float64, and whether a better one can have been missed."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.inputs import Floats, Ints
from avrobust_geometry.knn.rows import FAR, Frame, Rows

CHUNK = 1 << 18
"""Coordinates of candidates whose differences are computed at once: 2 MiB of float64, which stay in cache."""

ACCELERATED_CHUNK = 1 << 28
"""The same on an accelerator, 2 GiB: it is asked for so few chunks that nobody waits for it in between."""

SPREAD = 6.0
"""Standard deviations that rounding errors of a product are trusted to stay within: they grow with the root of the
number of terms (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", theorem 3.1)."""

HALF_UNITS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
"""Of what a product is computed in: how far rounding moves a number, as a share of it."""

LEAST = {torch.float32: 2.0**-126, torch.float64: 2.0**-1022}
"""The most that rounding moves numbers by where they are too small for that share."""


def candidates_for(k: int) -> int:
    """The number of candidates ranked again for k neighbours: rounding may have mixed up the last of them."""
    return k + max(6, k // 2)


def rerank(points: Rows, reference: Rows, candidates: Tensor, k: int, owners: Tensor) -> tuple[Ints, Floats]:
    """Sort candidates by their true distances.

    Args:
        points: the points.
        reference: where candidates come from.
        candidates: (P, K) int64 rows of the reference; -1 for none.
        k: how many are kept.
        owners: (P,) the row of each line's point.

    Returns:
        (P, k) rows of the reference, -1 for none, and (P, k) distances, infinite for none; ascending, and of equal
        distances the lower row first.
    """
    lines, device = len(candidates), reference.device
    # Of float32, float64 holds all squares. The scale is a power of two, and changes nothing else.
    scale = reference.frame.scale if points.double or reference.double else 1.0
    candidates = candidates.to(device).sort(dim=1).values
    owners = owners.to(points.device)
    indices = torch.empty(lines, k, dtype=torch.int64, device=device)
    distances = torch.empty(lines, k, dtype=torch.float64, device=device)
    size = max(1, min(lines, _chunk(device) // (candidates.shape[1] * reference.width)))
    between: Tensor | None = None  # one for all chunks: to get new memory takes as long as the differences
    for start in range(0, lines, size):
        chosen = candidates[start : start + size]
        ends = reference.gather(chosen.clamp(min=0).flatten()).view(*chosen.shape, -1)
        if between is None:
            between = torch.empty(size, *ends.shape[1:], dtype=torch.float64, device=device)
        asked = points.gather(owners[start : start + size]).to(device)
        part = between[: len(chosen)].copy_(ends).sub_(asked[:, None])
        if scale != 1:
            part.mul_(scale)
        squares = part.square_().sum(dim=2)
        squares = squares.masked_fill(chosen < 0, torch.inf)
        squares, order = squares.sort(dim=1, stable=True)
        indices[start : start + size] = chosen.gather(1, order[:, :k])
        distances[start : start + size] = squares[:, :k].sqrt().div_(scale)
    return indices.cpu().numpy(), distances.cpu().numpy()


def _chunk(device: torch.device) -> int:
    return CHUNK if device.type == "cpu" else ACCELERATED_CHUNK


def doubtful(
    points: Rows, frame: Frame, distances: Floats, scores: Tensor, owners: Tensor, *, far: bool
) -> NDArray[np.bool_]:
    """Lines whose k-th neighbour is not certain: a nearer row may have been scored below the last candidate.

    A row y nearer to x than r has |y| <= |x| + r, so that rounding moves its score by at most
    SPREAD u sqrt(D) (2 |x| + r)^2 / 2, with u = 2^-24 in float32 and 2^-53 in float64, and by a little more where
    numbers are too small for that share. If the last candidate's score is further below -r^2 / 2 than that, nothing
    nearer was left out.

    Args:
        points: the points.
        frame: in which products were computed.
        distances: (P,) of the k-th neighbours, r; infinite where there are fewer.
        scores: (P,) the last candidate's score, -inf where all rows that were scored are candidates.
        owners: as in `rerank`.
        far: whether some rows were not scored, since they lie too far away; points near those are not certain.
    """
    lines = len(distances)
    owners = owners.to(points.device)
    found = torch.empty(lines, dtype=torch.float64, device=points.device)
    size = max(1, _chunk(points.device) // points.width)
    for start in range(0, lines, size):
        found[start : start + size] = frame.norms(points.gather(owners[start : start + size]))
    norms = found.cpu().numpy()
    unit, least = HALF_UNITS[scores.dtype], LEAST[scores.dtype]
    last = scores.cpu().double().numpy()
    radius = distances * frame.scale
    with np.errstate(invalid="ignore", over="ignore"):
        reach = 2 * norms + radius
        slack = SPREAD * unit * math.sqrt(points.width + 2) * reach**2 / 2 + least * (points.width + 2) * (1 + reach)
        certain = last <= -(radius**2) / 2 - slack
    if far:
        # Rows that were not scored lie beyond FAR: farther than any candidate of a point that reaches half as far.
        return np.asarray(~((certain & ~np.isneginf(last) | (distances == 0)) & (reach < FAR / 2)))
    return np.asarray(~(certain | (distances == 0) | np.isneginf(last)))
