"""Rows of embeddings, wherever they lie: checked, centred and prepared for the matrix product, a block at a time."""

import math
import mmap
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import first_of
from avrobust_geometry.inputs import Array, Ints

BLOCK_BYTES = 1 << 26
"""Bytes read of a memory map at once: 64 MiB."""

HELD_BYTES = 4 << 30
"""Prepared rows are kept in memory up to this size (4 GiB); larger sets are prepared anew, a block at a time."""

PADDING = 2
"""Columns that `Prepared` adds."""

SAMPLE = 256
"""Rows that tell where the data lie, and how widely they are spread."""

SPOILT = 4.0
"""So many times farther from the mean than from the median, most rows say that a few others have moved the mean."""

FAR = 1e18
"""Norms, in units of the spread, beyond which float32 cannot hold squares: such rows take no part in its products."""

LARGEST = 1e140
"""Norms, in units of the spread, whose squares float64 can still hold."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The centre and the spread of most rows of a set, by which distances stay as they are but for a factor.

    Attributes:
        centre: (D,) float64, subtracted from each row: the mean, or where a few rows have moved that the median.
        scale: a power of two, by which rows are multiplied, so that they are of about unit size; exact.
    """

    centre: Tensor
    scale: float

    @property
    def single(self) -> bool:
        """True if float32 holds the centre exactly."""
        return bool((self.centre.float().double() == self.centre).all())

    def norms(self, block: Tensor) -> Tensor:
        """The distances of rows from the centre, (B,) float64 on their device, in units of the spread."""
        moved = (block.double() - self.centre.to(block.device, non_blocking=True)) * self.scale
        found: Tensor = torch.linalg.vector_norm(moved, dim=1)
        return found


class Rows:
    """A set of (N, D) embeddings that is never copied as a whole.

    Args:
        data: (N, D) of floats: a numpy array, perhaps a memory map, or a torch tensor.
        name: what errors call it.

    Raises:
        ValueError: if the data have not two dimensions, no rows or columns, are no real floats, or are not finite; rows
            are named.
    """

    def __init__(self, data: Array, name: str) -> None:
        values = data.detach() if isinstance(data, Tensor) else np.asarray(data)
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}: give (rows, features), at least one of each; "
                "average or flatten what has more dimensions"
            )
        if isinstance(values, Tensor):
            floats = values.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        else:
            floats = values.dtype.kind == "f" and values.dtype.itemsize <= 8
        if not floats:
            raise ValueError(f"{name} is of {values.dtype}: give float32 or float64")
        self._map = _memory_map(values) if isinstance(values, np.ndarray) else None
        # Torch gathers rows twice as fast as numpy; a map's stay with numpy, for most of them are read-only.
        ours = isinstance(values, np.ndarray) and self._map is None and _shared(values)
        self._values: Tensor | NDArray[np.floating] = torch.from_numpy(values) if ours else values
        self._order: Tensor | None = None
        self.n, self.width = int(values.shape[0]), int(values.shape[1])
        self.frame = self._found_frame(self._checked_mean(name), name)

    @property
    def mapped(self) -> bool:
        """True if the data lie in a file."""
        return self._map is not None

    @property
    def device(self) -> torch.device:
        """Where blocks and gathered rows lie."""
        return self._values.device if isinstance(self._values, Tensor) else torch.device("cpu")

    @property
    def double(self) -> bool:
        """True if the data are float64."""
        return self._values.dtype.itemsize == 8

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

    def centred(self, frame: Frame) -> tuple[NDArray[np.float32], bool]:
        """A copy (N, D) of all rows in a frame; and whether it is whole: values beyond FAR are cut off at it."""
        filled = np.empty((self.n, self.width), dtype=np.float32)
        target = torch.from_numpy(filled)
        centre = frame.centre.to(torch.float64 if self.double or not frame.single else torch.float32)
        whole = True
        for start, block in self.blocks():
            part = (block.cpu().to(centre.dtype) - centre) * frame.scale
            whole = whole and bool(part.abs().amax() <= FAR)
            target[start : start + len(block)] = part.clamp(-FAR, FAR)
        return filled, whole

    def _found_frame(self, mean: Tensor, name: str) -> Frame:
        chosen = torch.arange(self.n) if self.n <= SAMPLE else torch.linspace(0, self.n - 1, SAMPLE).long()
        sample = self.gather(chosen).cpu().double()
        self.release()
        median = sample.median(dim=0).values
        sizes = (sample - median).abs().amax(dim=1)
        if not bool(torch.isfinite(sizes).all()):
            self.refuse_too_far(Frame(torch.zeros_like(median), 2.0**-500), name)
        apart = sizes[sizes > 0]
        # In units of the usual difference squares hold, other than of rows that are of no account here.
        unit = _power(float(apart.median()) if len(apart) else self._largest(median))
        around = torch.linalg.vector_norm((sample - median) * unit, dim=1)
        apart = around[around > 0]
        spread = float(apart.median()) if len(apart) else 1.0
        moved = torch.linalg.vector_norm((sample - mean) * unit, dim=1).median()
        centre = mean if float(moved) <= SPOILT * spread else median  # the median, too, where the mean has overflown
        if not self.double:
            centre = centre.float().double()
        frame = Frame(centre, unit * _power(spread))
        if self.double:
            self.refuse_too_far(frame, name)
        return frame

    def _largest(self, median: Tensor) -> float:
        """The largest difference from a row that most are equal to; 1 where all are."""
        return max(float((block.cpu().double() - median).abs().amax()) for _, block in self.blocks()) or 1.0

    def refuse_too_far(self, frame: Frame, name: str) -> None:
        """Raise a ValueError that names rows whose squares float64 cannot hold in a frame."""
        far: list[int] = []
        for start, block in self.blocks():
            low, high = (float(end) for end in block.aminmax())
            if not max(-low, high) * frame.scale < LARGEST / self.width:  # else there is nothing to look at closer
                far += (~(frame.norms(block) < LARGEST)).nonzero().flatten().add(start).tolist()
        if far:
            raise ValueError(
                f"{name} has values too large to be squared, beside the spread of the other rows, in row "
                f"{first_of(far)}: leave those rows out, or find out what made them"
            )

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


def read_sets(
    points: Array, reference: Array | None, exclude: Ints | None, device: torch.device
) -> tuple[Rows, Rows, Tensor | None]:
    """The points, the reference (the same object if there is none), and each point's own row of it.

    Args:
        points: (N, D).
        reference: (M, D); None for the points.
        exclude: (N,) the row of the reference that is the point itself, -1 for none; None without a reference.
        device: where products are computed: sets that it holds are copied there once, not block by block.

    Raises:
        ValueError: as for `Rows`; if the sets differ in width, or points lie too far from the reference to be squared.
    """
    asked = Rows(_held(points, device), "points")
    among = asked if reference is None else Rows(_held(reference, device), "reference")
    if asked.width != among.width:
        raise ValueError(f"points have {asked.width} features, the reference {among.width}: give both from one layer")
    if asked.double and asked is not among:
        asked.refuse_too_far(among.frame, "points")
    own = None if exclude is None else torch.as_tensor(exclude)
    return asked, among, own if own is not None and bool((own >= 0).any()) else None


def _held(data: Array, device: torch.device) -> Array:
    """The same data on a GPU, if that is where products are computed, and they lie in memory and are few enough."""
    if device.type != "cuda":
        return data
    if isinstance(data, Tensor):
        return data.detach().to(device) if data.numel() * data.element_size() <= HELD_BYTES else data
    values = np.asarray(data)
    plain = values.dtype.kind == "f" and values.dtype.itemsize <= 8
    if not plain or values.nbytes > HELD_BYTES or _memory_map(values) is not None:
        return data
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="))).to(device)


class Prepared:
    """Rows as operands of a product that yields minus half of each squared distance.

    With x centred and h = -|x|^2 / 2, the left operand's row is [x, 1, h] and the right one's [x, h, 1]: their product
    is x.y - |x|^2 / 2 - |y|^2 / 2. Centring leaves distances as they are, and keeps float32 from losing them in the
    difference of large numbers. In float32, rows beyond FAR are 0 and h is -inf: they score -inf with every row.

    Args:
        rows: what is prepared.
        frame: in which; scores are in its units.
        device: where products are computed.
        dtype: of the operands.
    """

    def __init__(self, rows: Rows, frame: Frame, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._rows, self.device, self._dtype = rows, device, dtype
        self.n = rows.n
        self.far = False
        # Data in float64 are centred in it: what float32 would drop of them may be all that tells rows apart. So are
        # those beside them: both sets must be moved by the same.
        self._centre = frame.centre.to(device, torch.float64 if rows.double or not frame.single else dtype)
        self._scale = frame.scale
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
        centred.copy_((block.to(self.device, self._centre.dtype) - self._centre).mul_(self._scale))
        squares = centred.square().sum(dim=1, dtype=torch.float64)
        if self._dtype == torch.float32 and not float(squares.amax()) < FAR**2:
            far = ~(squares < FAR**2)
            centred[far] = 0
            squares[far] = torch.inf
            self.far = True
        target[:, -PADDING] = squares / -2
        target[:, -1] = 1


def _power(size: float) -> float:
    """The power of two that brings a size above 0 to between 1/2 and 1."""
    return 2.0 ** max(-1000, min(-math.frexp(size)[1], 1000))


def _tensor(part: NDArray[np.floating]) -> Tensor:
    # A read-only array would make torch warn at every block; nothing here writes to what it reads.
    return torch.from_numpy(part if _shared(part) else np.array(part, dtype=part.dtype.newbyteorder("=")))


def _shared(values: NDArray[np.floating]) -> bool:
    """True if torch can read an array where it lies: not in another order of bytes, or backwards."""
    return values.flags.writeable and values.dtype.isnative and all(step >= 0 for step in values.strides)


def _memory_map(values: NDArray[np.floating]) -> mmap.mmap | None:
    """The map of a file that an array lies in; not one whose changes are private: giving back its pages loses them."""
    base: object = values
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return None
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
