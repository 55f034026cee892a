"""The perturbations of all training clips, kept from one epoch to the next: in files where a fit has a folder."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_adversarial.codes import Code
from avrobust_adversarial.configs import Bits
from avrobust_core import AvrobustError, Gather, TrainingStep, on_the_way

Bytes = NDArray[np.uint8]

HEAD = 8
"""Bytes before each perturbation: its epoch, counted from 1, as int32 (0 where there is none), and its scale."""

BEHIND = 4
"""Batches, by modality, that may be on their way from a device to the memory: those of two steps of two modalities."""


@dataclass(frozen=True, slots=True)
class _OnTheWay:
    """Perturbations of a batch that have been packed on a device, and are not in their slots yet.

    Attributes:
        name: of the modality.
        ids: n clips.
        epoch: that leaves them.
        code: that packed them.
        packed: waits for the rows, as `Code.pack` gives them, to be on the host.
        scale: waits for their scales.
    """

    name: str
    ids: tuple[str, ...]
    epoch: int
    code: Code
    packed: Callable[[], Tensor]
    scale: Callable[[], Tensor]


class Memory:
    """Two perturbations of each clip and modality, the last and the one before.

    An epoch reads what earlier epochs wrote, never its own, and overwrites the older of the two. So what a clip starts
    from depends neither on the order of the epoch nor on whether a part of it has been learned from before, by a
    process that was killed. And so nothing waits for what a step has just written: it is fetched from the device while
    the next steps run.

    In the folder of a fit that says which clips there are, there is one sparse memory-mapped file per modality, which
    all processes share; the state is then empty. Elsewhere everything lies in memory and belongs to the state.

    Args:
        bits: per value; see `Code`.
    """

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self._folder: Path | None = None
        self._rows: dict[str, int] = {}
        self._slots: dict[str, Bytes] = {}
        self._files: dict[str, FileIO] = {}
        self._resumed = False
        self._waiting: deque[_OnTheWay] = deque()

    @property
    def shrinks(self) -> bool:
        """Tell if what is read is nowhere larger than what was written."""
        return Code(self.bits, ()).shrinks

    @property
    def in_files(self) -> bool:
        """Tell if everything lies in files."""
        return self._folder is not None

    def begin_epoch(self, clips: Sequence[str], step: TrainingStep) -> None:
        """Learn of all clips that there are, before the first of them is read.

        Args:
            clips: of the epoch, which may have but some of those of the step: the same in every process.
            step: where training stands.
        """
        self._settle()
        # A place in a file must be the same in every process, and after a resume.
        self._folder = step.scratch if step.clips else None
        if not self._rows or not step.clips:
            for clip_id in sorted(step.clips or set(clips)):
                self._rows.setdefault(clip_id, len(self._rows))

    def read(self, name: str, ids: Sequence[str], clean: Tensor, epoch: int) -> tuple[Tensor, list[int]]:
        """The last perturbations of clips from before an epoch: (n, ...), and the positions of these n clips.

        Args:
            name: of the modality.
            ids: B clips.
            clean: (B, ...), for shape, dtype and device.
            epoch: the one that reads.
        """
        if self._waiting and self._waiting[0].epoch < epoch:
            self._settle()
        code = Code(self.bits, tuple(clean.shape[1:]))
        rows = [self._rows.get(clip_id, -1) for clip_id in ids]
        places = [place for place, row in enumerate(rows) if row >= 0]
        if not places:
            return clean[:0], []
        slots = self._of(name, code)
        found = np.array([rows[place] for place in places])
        slot, there = _latest(slots, found, epoch)
        if not there.any():
            return clean[:0], []
        found, slot = found[there], slot[there]
        scale = torch.from_numpy(slots[found, slot, 4:HEAD].view(np.float32)[:, 0])
        held = torch.from_numpy(slots[found, slot, HEAD:])
        delta = code.unpack(held.to(clean.device, non_blocking=True), scale.to(clean.device, non_blocking=True))
        return delta.to(clean.dtype), [place for place, known in zip(places, there, strict=True) if known]

    def write(self, name: str, ids: Sequence[str], delta: Tensor, epoch: int) -> None:
        """Keep the perturbations (B, ...) that an epoch leaves of B clips."""
        code = Code(self.bits, tuple(delta.shape[1:]))
        for clip_id in ids:
            self._rows.setdefault(clip_id, len(self._rows))
        self._waiting.append(_OnTheWay(name, tuple(ids), epoch, code, *map(on_the_way, code.pack(delta))))
        self._settle(BEHIND)

    def end_epoch(self, gather: Gather) -> None:
        """See to it that every process can read what the others have kept."""
        self._settle()
        if self._folder is not None:
            self._flush()
            gather(None)
            return
        for other in gather(self._contents()):
            self._merge(other)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept; where it lies in files, that it does."""
        self._settle()
        if self._folder is None:
            return self._contents()
        self._flush()
        return {"in_files": bool(self._slots)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._waiting.clear()
        self._resumed = bool(state.get("in_files"))
        if not self._resumed:
            self._rows, self._slots = {}, {}
            self._merge(state)

    def _settle(self, most: int = 0) -> None:
        """Put what is on its way into its slots, the first first, until no more than `most` batches are left."""
        while len(self._waiting) > most:
            found = self._waiting.popleft()
            packed, scale = found.packed(), found.scale()
            slots = self._of(found.name, found.code)
            rows = np.array([self._rows[clip_id] for clip_id in found.ids])
            kept, there = _latest(slots, rows, found.epoch)
            slot = np.where(there, 1 - kept, 0)
            head = np.empty((len(rows), 2), dtype=np.float32)
            head[:, 0] = np.array(found.epoch + 1, dtype=np.int32).view(np.float32)
            head[:, 1] = scale.numpy()
            if self._folder is None:
                slots[rows, slot, HEAD:] = packed.numpy()
                slots[rows, slot, :HEAD] = head.view(np.uint8)
            else:
                records = np.concatenate([head.view(np.uint8), packed.numpy()], axis=1)
                _write(self._files[found.name], records, (2 * rows + slot) * records.shape[1])

    def _of(self, name: str, code: Code) -> Bytes:
        """The slots of a modality, (N, 2, HEAD + size), at least one for each clip known."""
        slots = self._slots.get(name)
        if slots is None or len(slots) < len(self._rows):
            form = (len(self._rows), 2, HEAD + code.size)
            self._slots[name] = slots = self._grown(slots, form) if self._folder is None else self._mapped(name, form)
        return slots

    @staticmethod
    def _grown(slots: Bytes | None, form: tuple[int, int, int]) -> Bytes:
        bigger = np.zeros((form[0] if slots is None else 2 * form[0], *form[1:]), dtype=np.uint8)
        if slots is not None:
            bigger[: len(slots)] = slots
        return bigger

    def _mapped(self, name: str, form: tuple[int, int, int]) -> Bytes:
        assert self._folder is not None
        path = self._folder / f"perturbations-{name}"
        size = form[0] * form[1] * form[2]
        if self._resumed and (not path.exists() or path.stat().st_size != size):
            raise AvrobustError(
                f"{path}: the perturbations that the fit goes on from are gone, or are not those of {form[0]} clips: "
                "delete the cell's checkpoint.pt, and the fit begins anew"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:  # one process makes it, and the others find it made
            file.truncate(size)
        # What is written through the map costs a fault a page after each flush, and ends the process on a full disk.
        if name not in self._files:
            self._files[name] = path.open("rb+", buffering=0)
            weakref.finalize(self, self._files[name].close)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=form)

    def _flush(self) -> None:
        for file in self._files.values():
            os.fsync(file.fileno())

    def _contents(self) -> dict[str, Any]:
        held = {name: torch.from_numpy(slots[: len(self._rows)]) for name, slots in self._slots.items()}
        return {"ids": list(self._rows), "slots": held} if held else {}

    def _merge(self, other: Mapping[str, Any]) -> None:
        """Take over the clips of which another has kept something later."""
        for name, held in other.get("slots", {}).items():
            theirs = held.numpy()
            rows = np.array(
                [self._rows.setdefault(clip_id, len(self._rows)) for clip_id in other["ids"][: len(theirs)]]
            )
            mine = self._slots.get(name)
            if mine is None or len(mine) < len(self._rows):
                self._slots[name] = mine = self._grown(mine, (len(self._rows), *theirs.shape[1:]))
            later = _epochs(theirs).max(axis=1) > _epochs(mine[rows]).max(axis=1)
            mine[rows[later]] = theirs[later]


def _write(file: FileIO, records: Bytes, places: NDArray[Any]) -> None:
    """Write each of the records (n, size) to its place, in bytes.

    Raises:
        OSError: if there is no room on the disk; names the file.
    """
    try:
        for record, place in zip(records, places.tolist(), strict=True):
            written = 0
            while written < len(record):
                written += os.pwrite(file.fileno(), record[written:], place + written)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.name)) from error


def _epochs(slots: Bytes) -> NDArray[np.int32]:
    """The epochs of slots (n, 2, ...), counted from 1; 0 where nothing is kept."""
    return slots[:, :, :4].copy().view(np.int32)[:, :, 0]


def _latest(slots: Bytes, rows: NDArray[Any], epoch: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The slot of each row that holds the last perturbation from before an epoch, and whether there is one."""
    written = _epochs(slots[rows, :, :4])
    usable = np.where(written <= epoch, written, 0)
    return usable.argmax(axis=1), usable.max(axis=1) > 0
