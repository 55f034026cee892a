"""Embeddings and targets of clips, noted in training's own passes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AvrobustError, derive_seed
from avrobust_geometry.knn.rows import Rows

AT_ONCE = 4096
"""Rows that are left where they were computed until there are so many: to fetch them waits for the device."""

LARGEST, SMALLEST = 65504.0, 2.0**-10
"""Between these the largest value of a row's part must be for float16 to keep the row: beyond it has infinities, and
below hardly a digit."""

RULED = 100.0
"""So much larger than the median of squared norms, their mean is that of a few clips alone."""

LEAST = 1e-12
"""Float32 holds the squares of usual norms between this and its inverse."""

FARTHEST = 1e15
"""The farthest a clip may be from the others, in units of their spread: its squares are still finite in float32."""


class Notes:
    """Embeddings and targets of clips, by id; a clip that comes again replaces its row.

    Attributes:
        widths: of each modality's part of a row, in the order of their names.
    """

    def __init__(self) -> None:
        self.widths: list[int] = []
        self._place: dict[str, int] = {}
        self._rows = torch.empty(0)
        self._targets = torch.empty(0)
        self._waiting: list[tuple[Sequence[str], Tensor, Tensor]] = []

    def __len__(self) -> int:
        """The number of clips."""
        self._settle()
        return len(self._place)

    def add(self, ids: Sequence[str], pooled: Mapping[str, Tensor], targets: Tensor) -> None:
        """Note a batch: its pooled embeddings (B, E) by modality, in float16 where that holds them; and its targets."""
        parts = [pooled[name].detach() for name in sorted(pooled)]
        self.widths = [part.shape[1] for part in parts]
        self._waiting.append((ids, _rounded(torch.cat([part.float() for part in parts], dim=1), self.widths), targets))
        if sum(len(waiting) for waiting, _, _ in self._waiting) >= AT_ONCE:
            self._settle()

    def merge(self, others: Iterable["Notes"]) -> None:
        """Take in what others have noted."""
        for other in others:
            if len(other):
                self._put(other.ids(), other.rows(), torch.from_numpy(other.labels()))
                self.widths = other.widths

    def ids(self) -> tuple[str, ...]:
        """All clips, in the order of their ids, which is that of all that follows: the same in every process."""
        self._settle()
        return tuple(sorted(self._place))

    def rows(self) -> Tensor:
        """The embeddings as they were noted: (N, D) float16 or float32, the modalities side by side."""
        order = self._order()  # first, for it fetches what waits
        return self._rows[order]

    def labels(self) -> NDArray[Any]:
        """Targets of all clips: (N,) int64, or (N, K) float32."""
        order = self._order()
        return np.asarray(self._targets[order].numpy())

    def embeddings(self) -> NDArray[np.float32]:
        """All clips: (N, D) float32. Each modality is centred and has a mean squared norm of 1, so that none rules.

        Where a few clips lie so far off that they make those means, they are left out of them.

        Raises:
            AvrobustError: if an embedding is not finite; names the clip.
        """
        rows = self.rows().float()
        broken = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
        if broken:
            ids = self.ids()
            raise AvrobustError(
                f"guided-mixup: the model's embeddings are not finite for {len(broken)} of {len(ids)} clips, the first "
                f"of which is {ids[broken[0]]!r}: lower learning_rate, or look at these clips"
            )
        return torch.cat([_standardised(part) for part in torch.split(rows, self.widths, dim=1)], dim=1).numpy()

    def state_dict(self) -> dict[str, Any]:
        """As tensors and lists."""
        if not len(self):
            return {}
        return {
            "ids": list(self.ids()),
            "rows": self.rows(),
            "targets": torch.from_numpy(self.labels()),
            "widths": self.widths,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Notes":
        """From a state."""
        notes = cls()
        if state:
            notes.widths = list(state["widths"])
            notes._put(state["ids"], state["rows"], state["targets"])
        return notes

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole tensors on their way to another process, instead of as many as there are clips."""
        return Notes.of, (self.state_dict(),)

    def _order(self) -> Tensor:
        return torch.tensor([self._place[clip_id] for clip_id in self.ids()], dtype=torch.int64)

    def _settle(self) -> None:
        """Fetch what waits on the device."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            ids = [clip_id for batch, _, _ in waiting for clip_id in batch]
            rows = torch.cat([rows for _, rows, _ in waiting]).cpu()
            half = rows.half()
            targets = torch.cat([targets for _, _, targets in waiting]).cpu()
            self._put(ids, half if torch.equal(half.float(), rows) else rows, targets)

    def _put(self, ids: Sequence[str], rows: Tensor, targets: Tensor) -> None:
        last = {clip_id: i for i, clip_id in enumerate(ids)}
        places = torch.tensor([self._place.setdefault(clip_id, len(self._place)) for clip_id in last])
        self._rows = _grown(self._rows, len(self._place), rows)
        self._targets = _grown(self._targets, len(self._place), targets)
        chosen = torch.tensor(list(last.values()))
        self._rows[places] = rows[chosen].to(self._rows.dtype)
        self._targets[places] = targets[chosen].to(self._targets.dtype)


class Projection:
    """Random projection of wide embeddings, which keeps distances nearly as they are.

    By a matrix of Gaussian entries (Indyk and Motwani 1998, "Approximate nearest neighbors"; Johnson and Lindenstrauss
    1984): squared distances keep their mean, with a relative standard deviation of sqrt(2 / width).

    Args:
        width: the most dimensions that are left; narrower embeddings stay as they are.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._matrices: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, name: str, x: Tensor, seed: int) -> Tensor:
        """The embeddings (B, E) of a modality: (B, at most `width`), where they are, the same in every process."""
        if x.shape[1] <= self.width:
            return x
        key = (name, x.shape[1], x.device, seed)
        if key not in self._matrices:
            generator = torch.Generator().manual_seed(derive_seed(seed, "guided-mixup", "projection", name))
            matrix = torch.randn(x.shape[1], self.width, generator=generator) / self.width**0.5
            self._matrices[key] = matrix.to(x.device)
        return x.float() @ self._matrices[key]


def _rounded(rows: Tensor, widths: Sequence[int]) -> Tensor:
    """Round rows (B, D) float32 to values that float16 has, where their parts are neither too large nor too small."""
    sizes = torch.stack([part.abs().amax(dim=1) for part in torch.split(rows, list(widths), dim=1)])
    fits = ((sizes == 0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))).all(dim=0)
    return torch.where(fits[:, None], rows.half().float(), rows)


def _standardised(part: Tensor) -> Tensor:
    """One modality's embeddings (N, E) about their middle, of unit size."""
    frame = Rows(part, "embeddings").frame
    norms = frame.norms(part)
    apart = norms[norms > 0]
    spread = float(apart.median()) if len(apart) else 1.0
    held = LEAST < spread / frame.scale < 1 / LEAST
    if held and float(norms.square().mean()) <= RULED * spread**2:
        centred = part - part.mean(dim=0)
        return centred / centred.square().sum(dim=1).mean().sqrt().clamp_min(LEAST)
    usual = norms[norms <= RULED**0.5 * spread].square().mean().sqrt().clamp_min(LEAST)
    return ((part.double() - frame.centre) * (frame.scale / float(usual))).clamp(-FARTHEST, FARTHEST).float()


def _grown(block: Tensor, n: int, like: Tensor) -> Tensor:
    """A block of at least n rows as those of `like`, holding what the block holds; it doubles, to grow seldom."""
    dtype = torch.promote_types(block.dtype, like.dtype) if len(block) else like.dtype
    if len(block) >= n:
        return block.to(dtype)
    bigger = torch.empty(max(n, 2 * len(block)), *like.shape[1:], dtype=dtype)
    if len(block):
        bigger[: len(block)] = block
    return bigger
