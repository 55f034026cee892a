"""The running best of many rows while tiles of scores pass by: what keeps exact search at the speed of the product."""

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 32
"""Scores per group: a tile is looked through by the groups' maxima, which costs a fiftieth of its product."""

DENSE = 1 / 8
"""A tile of whose groups more than this share may hold something is ranked as a whole."""


class Best:
    """The highest scores of each row and where they were found.

    Each row has a pool with room for more than is kept. A score enters it only above the row's bound: the last kept
    one as of the last time that the pool was full. So most tiles touch nothing but the maxima of their groups.

    Args:
        n: rows.
        keep: scores kept per row.
        device: where tiles come from.
        dtype: of scores.
    """

    def __init__(self, n: int, keep: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.keep = keep
        self._room = max(GROUP, keep)
        self._scores = torch.full((n, keep + self._room), -torch.inf, dtype=dtype, device=device)
        self._columns = torch.full((n, keep + self._room), -1, dtype=torch.int32, device=device)
        self._filled = torch.zeros(n, dtype=torch.int64, device=device)
        self._bound = torch.full((n,), -torch.inf, dtype=dtype, device=device)

    def offer(self, scores: Tensor, row: int, column: int) -> None:
        """Take in a tile.

        Args:
            scores: (B, C), any strides; -inf for what may not be taken.
            row: the number of the tile's first row.
            column: the number of its first column.
        """
        groups = -(-scores.shape[1] // GROUP)
        spare = groups * GROUP - scores.shape[1]
        grouped = (F.pad(scores, (0, spare), value=-torch.inf) if spare else scores).view(len(scores), GROUP, groups)
        # A transposed tile is reduced along the dimension that lies in rows of memory: thirty times as fast.
        flipped = grouped.stride(0) == 1 and len(scores) > 1
        maxima = grouped.permute(1, 2, 0).amax(dim=0).T if flipped else grouped.amax(dim=1)
        bound = self._bound[row : row + len(scores)]
        hits = maxima > bound[:, None]
        if int(hits.sum()) > DENSE * hits.numel():
            values, columns = _top(grouped, maxima, min(self.keep, scores.shape[1]))
            self._join(row, columns.masked_fill_(values.isneginf(), -1 - column) + column, values)
            return
        rows, group = hits.nonzero(as_tuple=True)
        inside = grouped[rows, :, group]
        found, member = (inside > bound[rows, None]).nonzero(as_tuple=True)
        self._add(rows[found] + row, group[found] + groups * member + column, inside[found, member])

    def take(self) -> tuple[Tensor, Tensor]:
        """The kept scores (N, keep), highest first, and their columns (N, keep) int64, -1 where there are fewer."""
        for start in range(0, len(self._scores), 1 << 16):
            self._compact(torch.arange(start, min(start + (1 << 16), len(self._scores)), device=self._scores.device))
        return self._scores[:, : self.keep], self._columns[:, : self.keep].long()

    def _join(self, row: int, columns: Tensor, values: Tensor) -> None:
        """Keep the best of the pools of rows that follow each other and as many new scores for each, (B, any)."""
        pools = slice(row, row + len(values))
        scores, place = torch.cat([self._scores[pools], values], dim=1).topk(self.keep, dim=1)
        self._columns[pools, : self.keep] = torch.cat([self._columns[pools], columns.int()], dim=1).gather(1, place)
        self._scores[pools, : self.keep] = scores
        self._scores[pools, self.keep :] = -torch.inf
        self._columns[pools, self.keep :] = -1
        self._filled[pools] = self.keep
        self._bound[pools] = scores[:, -1]

    def _add(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Put scores into pools; `rows` ascend."""
        while len(rows):
            _, counts = torch.unique_consecutive(rows, return_counts=True)
            first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            rank = torch.arange(len(rows), device=rows.device) - first
            now = rank < self._room
            heads = (rank == 0).nonzero().flatten()
            owners, wanted = rows[heads], counts.clamp(max=self._room)
            full = self._filled[owners] + wanted > self._scores.shape[1]
            self._compact(owners[full])
            place = self._filled[rows[now]] + rank[now]
            self._scores[rows[now], place] = values[now]
            self._columns[rows[now], place] = columns[now].int()
            self._filled[owners] += wanted
            # Scores left for the next pass face a bound that may have risen meanwhile.
            later = ~now
            rows, columns, values = rows[later], columns[later], values[later]

    def _compact(self, rows: Tensor) -> None:
        """Keep the best of some rows' pools, and raise their bounds."""
        if not len(rows):
            return
        scores, place = self._scores[rows].topk(self.keep, dim=1)
        columns = self._columns[rows].gather(1, place)
        self._scores[rows] = F.pad(scores, (0, self._room), value=-torch.inf)
        self._columns[rows] = F.pad(columns, (0, self._room), value=-1)
        self._filled[rows] = self._filled[rows].clamp(max=self.keep)
        self._bound[rows] = scores[:, -1]


def _top(grouped: Tensor, maxima: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The highest scores (B, keep) of a grouped tile (B, GROUP, groups), and their columns.

    The best `keep` scores lie in the `keep` groups with the highest maxima.
    """
    groups = maxima.shape[1]
    if groups <= 2 * keep:  # nothing to be gained by the groups
        found = grouped.flatten(1).topk(keep, dim=1)
        return found.values, found.indices
    chosen = maxima.topk(min(keep, groups), dim=1).indices
    inside = grouped.gather(2, chosen[:, None, :].expand(-1, GROUP, -1)).flatten(1)
    values, place = inside.topk(keep, dim=1)
    return values, chosen.gather(1, place % chosen.shape[1]) + groups * (place // chosen.shape[1])
