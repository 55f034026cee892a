"""All pairs of two sets of rows as tiles of scores, by matrix products: half as many for one set with itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from avrobust_geometry.knn.rows import Prepared, Rows

TILE = 2048
"""Rows and columns of a tile on a processor, whose scores (16 MiB) are looked through while they are still in cache."""

ACCELERATED_TILE = 8192
"""The same on an accelerator."""

Offer = Callable[[Tensor, int, int], None]
"""Takes a tile of scores (B, C), the number of its first row, and that of its first column."""


Part = tuple[int, int]
"""Which of how many parts of all tiles, from 0."""

MOST_APART = 4_000_000_000_000
"""Coordinates whose differences are computed at most: about an hour on two cores."""


def scan(
    points: Rows,
    reference: Rows,
    device: torch.device,
    dtype: torch.dtype | None,
    offer: Offer,
    own: Tensor | None,
    part: Part = (0, 1),
) -> bool:
    """Offer the scores of every point and every reference row, once, or one part of them.

    Args:
        points: N rows.
        reference: M rows; the same object for one set with itself: each point's own row is then left out.
        device: where scores are computed.
        dtype: of the products that give them; None for differences in float64, which are right where products round
            too much, but many times slower, and need the points' own rows in `own`.
        offer: takes the tiles; scores are minus half of squared distances in units of the reference's frame, -inf for
            the point itself.
        own: (N,) int64 row of the reference that is the point itself, -1 for none; None if there are none at all.
        part: which tiles: number p of q parts has every q-th, from the p-th on.

    Returns:
        whether rows lay too far away to be scored.

    Raises:
        ValueError: if there are more than MOST_APART differences to compute.
    """
    if dtype is None:
        _scan_apart(points, reference, device, offer, own, part)
        return False
    right = Prepared(reference, reference.frame, device, dtype)
    if points is reference:
        _scan_itself(right, offer, part)
        return right.far
    left = Prepared(points, reference.frame, device, dtype)
    size = _tile(left)
    strips = -(-left.n // size)
    for number, column in enumerate(range(0, right.n, 4 * size)):
        operand = right.right(column, min(column + 4 * size, right.n)).T
        for row in range(size * ((part[0] - number * strips) % part[1]), left.n, size * part[1]):
            scores = left.left(row, min(row + size, left.n)) @ operand
            if own is not None:
                _hide(scores, own[row : row + size].to(scores.device) - column)
            offer(scores, row, column)
    return left.far or right.far


def _scan_apart(
    points: Rows, reference: Rows, device: torch.device, offer: Offer, own: Tensor | None, part: Part
) -> None:
    if points.n * reference.n * points.width > MOST_APART:
        raise ValueError(
            f"{points.n} rows lie so far apart, beside the distances to their neighbours, that products in float64 "
            f"cannot tell which of {reference.n} rows are the nearest, and differences would take hours: leave out "
            "rows of another order of magnitude, or give a subsample"
        )
    scale = reference.frame.scale

    def scaled(rows: Rows, start: int, stop: int) -> Tensor:
        return rows.block(start, min(stop, rows.n)).to(device, torch.float64) * scale

    strips = -(-points.n // TILE)
    for number, column in enumerate(range(0, reference.n, TILE)):
        ends = scaled(reference, column, column + TILE)
        for row in range(TILE * ((part[0] - number * strips) % part[1]), points.n, TILE * part[1]):
            distances = torch.cdist(scaled(points, row, row + TILE), ends, compute_mode="donot_use_mm_for_euclid_dist")
            scores = distances.square_().div_(-2)
            if own is not None:
                _hide(scores, own[row : row + TILE].to(scores.device) - column)
            offer(scores, row, column)


def _scan_itself(points: Prepared, offer: Offer, part: Part) -> None:
    size = _tile(points)
    starts = range(0, points.n, size)
    number, parts = part
    # Tiles of the diagonal come first: where neighbours stand together in the data, they bring bounds that hardly
    # any later score passes.
    for start in starts[number::parts]:
        stop = min(start + size, points.n)
        scores = points.left(start, stop) @ points.right(start, stop).T
        scores.fill_diagonal_(-torch.inf)
        offer(scores, start, start)
    passed = 0
    for row in starts:
        columns = range(row + size, points.n, size)
        mine = columns[(number - passed) % parts :: parts]
        passed += len(columns)
        left = points.left(row, min(row + size, points.n)) if mine else None
        for column in mine:
            assert left is not None
            scores = left @ points.right(column, min(column + size, points.n)).T
            offer(scores, row, column)
            offer(scores.T, column, row)


def _hide(scores: Tensor, own: Tensor) -> None:
    here = ((own >= 0) & (own < scores.shape[1])).nonzero().flatten()
    scores[here, own[here]] = -torch.inf


def _tile(points: Prepared) -> int:
    return TILE if points.device.type == "cpu" else ACCELERATED_TILE


@contextmanager
def full_precision(threads: int | None) -> Iterator[int]:
    """Products in true float32, on so many threads of the processor; yields their number.

    What a caller set for training (TF32, bfloat16 products) would turn neighbours into others.
    """
    precision, count = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads or count)
    try:
        with torch.no_grad():
            yield threads or count
    finally:
        torch.set_num_threads(count)
        torch.set_float32_matmul_precision(precision)
