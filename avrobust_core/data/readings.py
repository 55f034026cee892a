"""Comparison of clips that are read again with those read at first: by checksums, bit for bit."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.data.batches import Batch
from avrobust_core.errors import DataError, RunError
from avrobust_core.files import digest

TARGETS = "targets"
"""The name of the targets' checksums, beside those of modalities."""


def checksums(batch: Batch) -> dict[str, Tensor]:
    """A checksum (CRC-32) of each clip's bits: (B,) int64 for each modality, and for the targets.

    About a millisecond per megabyte, once per reading; on the CPU, so that a batch is best looked at before it is moved
    to a device.
    """
    return {name: _crc(x) for name, x in batch.inputs.items()} | {TARGETS: _crc(batch.targets)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if two tensors have the same type, shape and bits: NaN then equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and (torch.equal(a, b) or torch.equal(_bytes(a), _bytes(b)))


def altered(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one device are not the `same_bits`: a flag of no dimension there; waits for no device."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return torch.ones((), dtype=torch.bool, device=a.device)
    if a.device.type == "cpu":
        return torch.tensor(not same_bits(a, b))
    return (_bytes(a) != _bytes(b)).any()


class FirstReading:
    """The clips of a data set as read for the clean predictions: each must be the same when it is read again.

    Args:
        ids: the clips that could be read.
        checksums: by name, each (N,); see `checksums`.
    """

    def __init__(self, ids: Sequence[str], checksums: Mapping[str, NDArray[Any]]) -> None:
        self._rows = {clip: row for row, clip in enumerate(ids)}
        self._checksums = checksums

    @property
    def ids(self) -> tuple[str, ...]:
        """The clips that could be read."""
        return tuple(self._rows)

    @property
    def identity(self) -> str:
        """The same for the same clips in the same order, bit for bit."""
        return digest({"ids": self.ids, "checksums": {name: x.tolist() for name, x in self._checksums.items()}})

    def compare(
        self, asked: Sequence[str], ids: Sequence[str], found: Mapping[str, NDArray[Any] | Tensor], label: str
    ) -> None:
        """Refuse clips that are not what they were, or were not there, or no longer are.

        Args:
            asked: the clips that were to be read, in order.
            ids: those that could be.
            found: their checksums by name, each (len(ids),); names that only one of the readings has are left aside.
            label: what they are read for, for the error.

        Raises:
            RunError: if others could be read than before; names the first.
            DataError: if a clip was read otherwise; names the first, and says what is not the same.
        """
        there = set(ids)
        gone = next((clip for clip in asked if clip in self._rows and clip not in there), None)
        new = next((clip for clip in ids if clip not in self._rows), None)
        if gone is not None:
            raise RunError(
                f"{label}: clip {gone} could be read for the clean predictions, and no longer: run again when it can "
                "be, or delete the cell's folder `evaluations` to do without it"
            )
        if new is not None:
            raise RunError(
                f"{label}: clip {new} could not be read for the clean predictions, and now can: delete the cell's "
                "folder `evaluations` and run again"
            )
        rows = [self._rows[clip] for clip in ids]
        names = [name for name in self._checksums if name in found]
        differs = np.array([self._checksums[name][rows] != np.asarray(found[name]) for name in names])
        if not differs.any():
            return
        position = int(np.flatnonzero(differs.any(axis=0))[0])
        what = " and ".join(sorted(name for name, other in zip(names, differs, strict=True) if other[position]))
        raise DataError(
            f"{label}: clip {ids[position]} was read with other {what} than for the clean predictions "
            f"({int(differs.any(axis=0).sum())} of the {len(ids)} clips compared differ): the data set's `read` must "
            "give the same each time, without random transforms; mend it, or, if files have changed, run the study in "
            "a new folder"
        )


class Readings:
    """The clips of a loader as it was first read; each later reading must give the same clips.

    Clips are matched by their ids, so that a loader that gives ids may give its clips in any order.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {}
        self._complete = False
        self.shuffled = False
        """True if the clips came in another order than at first."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The clips, in the order in which they were first given."""
        return tuple(self._known)

    def follow(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, each looked at before it is handed on; the end of them, too.

        Raises:
            DataError: if an id comes twice in a reading; or if a clip is not what it was, is new or is missing: names
                it, and says what is not the same.
        """
        seen: dict[str, None] = {}  # a set that keeps their order
        for batch in batches:
            for clip in batch.ids:
                if clip in seen:
                    raise DataError(
                        f"the loader gives the id {clip!r} twice; results are kept by id: it must be unique"
                    )
                seen[clip] = None
            self.take(batch)
            yield batch
        missing = [clip for clip in self._known if clip not in seen]
        if missing:
            raise DataError(
                f"the loader gave {len(self._known)} clips when it was first read, and now {len(seen)}; the first that "
                f"is missing is clip {missing[0]}: {_REMEDY}"
            )
        self.shuffled |= tuple(seen) != self.ids
        self._complete = True

    def take(self, batch: Batch) -> None:
        """Note the clips that are new, and compare those that are known.

        Raises:
            DataError: as `follow`.
        """
        found = {name: values.numpy() for name, values in checksums(batch).items()}
        for position, clip in enumerate(batch.ids):
            now = {name: int(values[position]) for name, values in found.items()}
            if self._complete and clip not in self._known:
                raise DataError(
                    f"the loader gives clip {clip}, which it did not give when it was first read: {_REMEDY}"
                )
            before = self._known.setdefault(clip, now)
            if before.keys() != now.keys():
                raise DataError(
                    f"clip {clip} has {_modalities(now)}, where it had {_modalities(before)} when it was first read"
                )
            if before != now:
                what = " and ".join(sorted(name for name in now if now[name] != before[name]))
                raise DataError(
                    f"the loader gives clip {clip} with other {what} than when it was first read: {_REMEDY}"
                )


_REMEDY = (
    "the clean clips and each attack's are set side by side, so that every reading must give the same clips: use "
    "shuffle=False (or give the clips' ids) and no random transforms, such as crops or noise"
)


def _modalities(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name != TARGETS)


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.uint8) if x.dim() else x.detach().reshape(1).view(torch.uint8)


def _crc(x: Tensor) -> Tensor:
    rows = x.detach().cpu().reshape(len(x), -1).contiguous()
    return torch.tensor([zlib.crc32(row.view(torch.uint8).numpy()) for row in rows], dtype=torch.int64)
