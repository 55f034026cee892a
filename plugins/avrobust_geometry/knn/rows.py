"""Rows of embeddings, wherever they lie: checked, centred and prepared for the matrix product, a block at a time."""

import mmap
from collections.abc import Iterator
from copy import copy

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

BLOCK_BYTES = 1 << 26
"""What is read of a memory map at once: 64 MiB."""

HELD_BYTES = 4 << 30
"""Prepared rows are kept in memory up to this size (4 GiB); larger sets are prepared anew, a block at a time."""

PADDING = 2
"""Columns that `Prepared` adds."""


class Rows:
    """A set of (N, D) embeddings that is never copied as a whole.

    Args:
        data: (N, D) of floats: a numpy array, perhaps a memory map, or a torch tensor.
        name: what errors call it.

    Raises:
        ValueError: if the data have not two dimensions, no rows or columns, are no real floats, or are not finite; rows
            are named.
    """

    def __init__(self, data: ArrayLike | Tensor, name: str) -> None:
        values = data.detach() if isinstance(data, Tensor) else np.asarray(data)
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}: give (rows, features), at least one of each; "
                "average or flatten what has more dimensions"
            )
        floats = values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"
        if not floats:
            raise ValueError(f"{name} is of {values.dtype}: give float32 or float64")
        self._map = _memory_map(values) if isinstance(values, np.ndarray) else None
        # Torch gathers rows twice as fast as numpy; a map's stay with numpy, for most of them are read-only.
        ours = isinstance(values, np.ndarray) and self._map is None and values.flags.writeable
        self._values: Tensor | NDArray[np.floating] = torch.from_numpy(values) if ours else values
        self._order: Tensor | None = None
        self.n, self.width = int(values.shape[0]), int(values.shape[1])
        self.mean = self._checked_mean(name)

    @property
    def double(self) -> bool:
        """Whether the data are float64."""
        return self._values.dtype in (torch.float64, np.float64)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start to stop as they are stored."""
        if self._order is not None:
            return self._stored(self._order[start:stop])
        part = self._values[start:stop]
        return part if isinstance(part, Tensor) else _tensor(part)

    def gather(self, index: Tensor) -> Tensor:
        """The rows of an index (R,) as they are stored."""
        return self._stored(index if self._order is None else self._order[index.cpu()])

    def taken(self, index: Tensor) -> "Rows":
        """The same data, of which row i is now row index[i]; nothing is copied."""
        other = copy(self)
        other._order = index.cpu() if self._order is None else self._order[index.cpu()]
        other.n = len(index)
        return other

    def _stored(self, index: Tensor) -> Tensor:
        if isinstance(self._values, Tensor):
            return self._values.index_select(0, index.to(self._values.device))
        return _tensor(self._values[index.cpu().numpy()])

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows in turn, each block with its first row's number; pages of a memory map are given back after use."""
        size = max(1, BLOCK_BYTES // (self.width * self._values.itemsize))
        for start in range(0, self.n, size):
            yield start, self.block(start, start + size)
            self.release()

    def release(self) -> None:
        """Give back the pages of a memory map: they count as this process's memory while there is any left."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def centred(self, mean: Tensor) -> NDArray[np.float32]:
        """A copy (N, D) of all rows less a mean."""
        filled = np.empty((self.n, self.width), dtype=np.float32)
        target = torch.from_numpy(filled)
        mean = mean.to(torch.float64 if self.double else torch.float32)
        for start, block in self.blocks():
            target[start : start + len(block)] = block.cpu().to(mean.dtype) - mean
        return filled

    def _checked_mean(self, name: str) -> Tensor:
        """The mean of each column, (D,) float64."""
        total = torch.zeros(self.width, dtype=torch.float64)
        for start, block in self.blocks():
            part = block.sum(dim=0, dtype=torch.float64).cpu()
            if not torch.isfinite(part).all():  # a sum of finite float64 may overflow, so that the rows decide
                broken = (~torch.isfinite(block).all(dim=1)).nonzero().flatten().cpu() + start
                if len(broken):
                    named = ", ".join(str(int(row)) for row in broken[:5])
                    more = " and others" if len(broken) > 5 else ""
                    raise ValueError(
                        f"{name} has values that are not finite in row {named}{more}: "
                        "leave those rows out, or find out what made them"
                    )
            total += part
        return total / self.n


class Prepared:
    """Rows as operands of a product that yields minus half of each squared distance.

    With x centred and h = -|x|^2 / 2, the left operand's row is [x, 1, h] and the right one's [x, h, 1]: their product
    is x.y - |x|^2 / 2 - |y|^2 / 2. Centring leaves distances as they are, and keeps float32 from losing them in the
    difference of large numbers.

    Args:
        rows: what is prepared.
        mean: (D,) float64, subtracted from each row.
        device: where products are computed.
        dtype: of the operands.
    """

    def __init__(self, rows: Rows, mean: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._rows, self.device, self._dtype = rows, device, dtype
        self.n = rows.n
        # Data in float64 are centred in it: what float32 would drop of them may be all that tells rows apart.
        self._mean = mean.to(device, torch.float64 if rows.double else dtype)
        size = rows.n * (rows.width + PADDING) * dtype.itemsize
        self._held: Tensor | None = None
        if size <= HELD_BYTES:
            self._held = torch.empty(rows.n, rows.width + PADDING, dtype=dtype, device=device)
            for start, block in rows.blocks():
                self._fill(self._held[start : start + len(block)], block)

    def right(self, start: int, stop: int) -> Tensor:
        """Rows start to stop, (B, D + 2), as right operands."""
        if self._held is not None:
            return self._held[start:stop]
        block = self._rows.block(start, stop)
        target = torch.empty(len(block), self._rows.width + PADDING, dtype=self._dtype, device=self.device)
        self._fill(target, block)
        self._rows.release()
        return target

    def left(self, start: int, stop: int) -> Tensor:
        """The same as left operands."""
        block = self.right(start, stop)
        return torch.cat([block[:, :-PADDING], block[:, -1:], block[:, -PADDING:-1]], dim=1)

    def _fill(self, target: Tensor, block: Tensor) -> None:
        centred = target[:, :-PADDING]
        centred.copy_(block.to(self.device, self._mean.dtype) - self._mean)
        target[:, -PADDING] = centred.square().sum(dim=1, dtype=torch.float64) / -2
        target[:, -1] = 1


def _tensor(part: NDArray[np.floating]) -> Tensor:
    # A read-only array would make torch warn at every block; nothing here writes to what it reads.
    return torch.from_numpy(part if part.flags.writeable else part.copy())


def _memory_map(values: NDArray[np.floating]) -> mmap.mmap | None:
    """The map of a file that an array lies in; not one whose changes are private: giving back its pages loses them."""
    base: object = values
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return None
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
