"""Reading of batches from a data set, in this process or in others that live until the reading is over."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from avrobust_core.blame import NO_CLIPS_FAULT, sentence
from avrobust_core.data.batches import Batch, Clip
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loading import Skipped
from avrobust_core.errors import AvrobustError, BatchTimeout, ClipError, DataError, DatasetFailure, RunError
from avrobust_core.naming import clips_named
from avrobust_core.plain_text import plain_text

_AHEAD: Final = 3
"""Pieces that each worker is given beside what has been taken from it."""

Found = Clip | AvrobustError
"""A clip, or why it could not be read."""


class Place(NamedTuple):
    """Where a clip is in the data set, and what chance is drawn from if it is read to be learned from."""

    split: str
    number: int
    id: str
    draw: int | None = None


class Loader:
    """Reads batches of one data set.

    What reads for it is started when it is first needed, and lives until the loader is closed: a data set that keeps
    clips in memory finds them there in the next epoch. Each clip is always read by the same worker.

    Args:
        dataset: what to read from.
        workers: processes that read; 0 reads in this one.
        pin: whether batches are pinned in memory, for copies to a GPU.
    """

    def __init__(self, dataset: Dataset, *, workers: int = 0, pin: bool = False) -> None:
        self.dataset = dataset
        self.workers = workers
        self.pin = pin
        self._reader = _Reader(dataset)
        self._ids: dict[str, Sequence[str]] = {}
        self._started: list[_Workers] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that read, even in the midst of a clip; another reading would start new ones."""
        while self._started:
            self._started.pop().close()

    def batches(
        self, split: str, batches: Sequence[Sequence[int]], skipped: Skipped, draw: int | None = None
    ) -> Iterator[Batch | None]:
        """Read batches of clips; what cannot be read is left out of its batch and recorded.

        Yields one item per batch asked for, None where none of its clips could be read. One reading may begin before
        another is over: it has processes of its own.

        Args:
            split: the split.
            batches: positions within the split, batch by batch.
            skipped: where unreadable clips are recorded, which ends the run when there are too many; and odd ones.
            draw: for clips that are learned from; see `Dataset.read_to_learn`. None for clips as `read` gives them.

        Raises:
            DatasetFailure: if more clips cannot be read than the data set allows.
            RunError: if the system fails (too many open files), or a process that reads dies; names the clips.
        """
        if not batches:
            return
        if split not in self._ids:
            self._ids[split] = self.dataset.ids(split)
        for found in self._found(split, batches, draw):
            for fault in found:
                if isinstance(fault, ClipError):
                    skipped.add(split, fault)
                elif isinstance(fault, AvrobustError):
                    raise fault
            clips = [clip for clip in found if isinstance(clip, Clip)]
            batch = Batch.stack(clips) if clips else None
            if batch is not None:
                skipped.look_at(split, batch)
            yield batch if batch is None or not self.pin else batch.pinned()

    def _found(self, split: str, batches: Sequence[Sequence[int]], draw: int | None) -> Iterator[list[Found]]:
        ids = self._ids[split]
        if not self.workers:
            yield from ([self._reader[Place(split, index, ids[index], draw)] for index in batch] for batch in batches)
            return
        workers = self._idle()
        workers.busy = True
        try:
            yield from workers.read(split, ids, batches, draw)
        except GeneratorExit:  # enough has been read: none of our own code was interrupted
            workers.busy = False
            raise
        except BaseException:
            self._started.remove(workers)
            workers.close()
            raise
        workers.busy = False

    def _idle(self) -> "_Workers":
        """Workers that nothing is being read with, all of them alive."""
        for workers in [workers for workers in self._started if not workers.busy]:
            if workers.alive:
                return workers
            self._started.remove(workers)
            workers.close()
        self._started.append(_Workers(self._reader, self.workers))
        return self._started[-1]


def read_clip(dataset: Dataset, split: str, index: int) -> Clip:
    """One clip that could be read before.

    Raises:
        DataError: if it no longer can be; names it.
    """
    found = _Reader(dataset)[Place(split, index, dataset.ids(split)[index])]
    if isinstance(found, AvrobustError) and not isinstance(found, ClipError):
        raise found
    if isinstance(found, ClipError):
        raise DataError(f"clip {found.clip_id} of split {split!r} could be read before, and no longer: {found.reason}")
    return found


class _Reader:
    """Reads clips, and looks whether each is what it should be."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.classes = len(dataset.classes)

    def __getitem__(self, place: Place) -> Found:
        try:
            if place.draw is None:
                clip = self.dataset.read(place.split, place.number)
            else:
                clip = self.dataset.read_to_learn(place.split, place.number, place.draw)
            fault = self._fault(clip, place.id)
        except (ClipError, BatchTimeout, DatasetFailure) as error:
            return error
        except Exception as error:  # noqa: BLE001  # a reader's bug is counted and named like a bad clip, and limited
            if isinstance(error, OSError) and error.errno in NO_CLIPS_FAULT:
                return RunError(f"while clip {place.id} of split {place.split!r} was read: {sentence(error)}")
            return ClipError(place.id, f"{type(error).__name__}: {error}")
        except (SystemExit, GeneratorExit) as error:  # must not end the run, or a worker, as if all were done
            return ClipError(place.id, sentence(error))
        return clip if fault is None else ClipError(place.id, fault)

    def _fault(self, clip: object, clip_id: str) -> str | None:
        if not isinstance(clip, Clip):
            return f"is {type(clip).__name__}, not a Clip"
        if clip.id != clip_id:
            return f"calls itself {clip.id!r}"
        if clip.inputs.keys() != self.dataset.media.keys():
            return f"has {', '.join(clip.inputs)}, not {', '.join(self.dataset.media)}"
        target = (clip.target.dtype, tuple(clip.target.shape))
        expected = (torch.int64, ()) if self.dataset.task == "single-label" else (torch.float32, (self.classes,))
        if target != expected:
            return f"its target is {target[0]} of shape {target[1]}, not {expected[0]} of shape {expected[1]}"
        values = clip.target.reshape(-1).tolist()
        if self.dataset.task == "single-label":
            if not 0 <= values[0] < self.classes:
                return f"its target is {values[0]}, none of the {self.classes} classes from 0 on"
        elif not {*values} <= {0.0, 1.0}:
            return f"its target has the value {next(x for x in values if x not in (0, 1)):g}, not zeros and ones alone"
        for name, x in clip.inputs.items():
            spec = self.dataset.media[name]
            if tuple(x.shape) != spec.shape or x.dtype != torch.float32:
                return f"{name} is {x.dtype} of shape {tuple(x.shape)}, not torch.float32 of shape {spec.shape}"
            # The sum carries any NaN or infinity, at a tenth of the cost of looking at each value.
            if math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all()):
                continue
            if not (spec.optional and bool(x.isnan().all())):
                return f"{name} has values that are not finite"
        return None


class _Workers:
    """Processes that read pieces of batches."""

    def __init__(self, reader: _Reader, number: int) -> None:
        self.busy = False
        self.number = number
        self.pieces = _Pieces(number)
        self.watched = _Watched(reader, number)
        self.loader: DataLoader[Any] | None = DataLoader(
            self.watched,
            batch_sampler=self.pieces,  # any iterable of lists serves
            collate_fn=_packed,
            generator=torch.Generator(),  # else the loader draws a seed from the global random state
            num_workers=number,
            persistent_workers=True,
            prefetch_factor=_AHEAD,
            worker_init_fn=_quiet,
        )
        self.children: list[BaseProcess] = []

    @property
    def alive(self) -> bool:
        """False once one of them has ended."""
        return all(child.is_alive() for child in self.children)

    def close(self) -> None:
        """End the processes: those that are in the midst of a clip at once, as it may never end."""
        reading = set(self.watched.reading[self.watched.reading[:, 1] >= 0, 0].tolist())
        for child in self.children:
            if child.pid in reading:
                child.kill()
        self.loader = None  # its iterator ends the others when it goes

    def read(
        self, split: str, ids: Sequence[str], batches: Sequence[Sequence[int]], draw: int | None
    ) -> Iterator[list[Found]]:
        """What is found for each batch, in its order.

        Raises:
            RunError: if a process dies; names the clip.
        """
        pieces = self.pieces
        pieces.begin(split, ids, batches, draw)
        received = self._received()
        for start in range(0, len(batches), pieces.together):
            found: list[list[Any]] = [[None] * len(batch) for batch in batches[start : start + pieces.together]]
            for _ in range(self.number):
                piece = next(received)
                for (batch, position, _), item in zip(pieces.given.popleft(), piece, strict=True):
                    found[batch][position] = item
            while found:
                yield found.pop(0)

    def _received(self) -> Iterator[list[Found]]:
        try:
            for batch, faults in self._begun():
                yield _unpacked(batch, faults)
        except RuntimeError as error:
            if self.alive:
                raise
            raise self._died(error) from error

    def _begun(self) -> Iterator[Any]:
        """The loader's iterator, begun again; that a worker dies is noticed when its piece is asked for.

        The loader's own handler of SIGCHLD raises wherever the main thread happens to be, in the midst of an attack.
        """
        assert self.loader is not None
        before = {*multiprocessing.active_children()}
        main = threading.current_thread() is threading.main_thread()
        earlier = signal.getsignal(signal.SIGCHLD) if main else None
        items = iter(self.loader)
        if earlier is not None and signal.getsignal(signal.SIGCHLD) is not earlier:
            signal.signal(signal.SIGCHLD, earlier)
        self.children = self.children or [child for child in multiprocessing.active_children() if child not in before]
        return items

    def _died(self, error: RuntimeError) -> RunError:
        ended = {child.pid for child in self.children if not child.is_alive()}
        at = [place for process, place in self.watched.now() if process in ended and place is not None]
        places = at or [place for piece in self.pieces.given for _, _, place in piece]
        clips = clips_named([place.id for place in places]) if places else "any clip"
        split = f"split {places[0].split!r}" if places else "clips"
        return RunError(
            f"a process that reads {split} died {'at' if at else 'before it had read'} {clips} "
            f"({plain_text(error, 200)}): it was killed, perhaps for want of memory, or crashed; lower "
            "engine.workers, or set it to 0 to see what happens"
        )


class _Watched(TorchDataset[Found]):
    """A reader in a worker: it notes which clip it is reading."""

    def __init__(self, reader: _Reader, workers: int) -> None:
        self.reader = reader
        self.splits = tuple(reader.dataset.splits)
        # Of each worker its process, and the split and the position of the clip that it reads; -1 for none. The main
        # process sees it even when the worker is killed.
        self.reading = torch.full((workers, 3), -1).share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, place: Place) -> Found:
        worker = get_worker_info()
        assert worker is not None
        note = self.reading[worker.id]
        note.copy_(torch.tensor([os.getpid(), self.splits.index(place.split), place.number]))
        found = self.reader[place]
        note[1] = -1
        return found

    def now(self) -> list[tuple[int, Place | None]]:
        """Of each worker its process, and the clip that it reads."""
        return [(process, self._place(number, index)) for process, number, index in self.reading.tolist()]

    def _place(self, number: int, index: int) -> Place | None:
        if number < 0:
            return None
        split = self.splits[number]
        return Place(split, index, self.reader.dataset.ids(split)[index])


class _Pieces:
    """Cuts batches into pieces, of which each worker is given one in turn: the sampler of the workers' loader.

    A few batches are cut together, so that one worker's share of them is about a batch. A clip that no worker has read
    goes to the one with the fewest clips of these batches: a first epoch, and an evaluation, are shared evenly.

    Attributes:
        together: batches that are cut together.
        given: the pieces that have been given out, and not yet come back: of each clip its batch of those that are cut
            together, its position there, and its place.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.together = (workers + 1) // 2
        self.given: deque[list[tuple[int, int, Place]]] = deque()
        self._owners: dict[str, NDArray[np.int16]] = {}
        self._owned = [0] * workers
        self._next: Iterator[list[Place]] = iter(())

    def begin(self, split: str, ids: Sequence[str], batches: Sequence[Sequence[int]], draw: int | None) -> None:
        """Set out the batches of the next epoch."""
        self.given.clear()
        self._next = self._cut(split, ids, batches, draw)

    def __iter__(self) -> Iterator[list[Place]]:
        return self._next

    def _cut(
        self, split: str, ids: Sequence[str], batches: Sequence[Sequence[int]], draw: int | None
    ) -> Iterator[list[Place]]:
        if split not in self._owners:
            self._owners[split] = np.full(len(ids), -1, np.int16)
        owners = self._owners[split]
        for start in range(0, len(batches), self.together):
            pieces: list[list[tuple[int, int, Place]]] = [[] for _ in range(self.workers)]
            for number, batch in enumerate(batches[start : start + self.together]):
                for position, index in enumerate(batch):
                    if owners[index] < 0:
                        owners[index] = min(range(self.workers), key=lambda k: (len(pieces[k]), self._owned[k]))
                        self._owned[owners[index]] += 1
                    pieces[owners[index]].append((number, position, Place(split, index, ids[index], draw)))
            for piece in pieces:
                self.given.append(piece)
                yield [place for _, _, place in piece]


def _quiet(worker: int) -> None:
    """In a worker: say nothing where the main process goes away, stopped by a signal, while it is handed a tensor."""
    said = sys.excepthook  # here, only by multiprocessing's thread that hands over tensors

    def say(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
        if not issubclass(kind, OSError | EOFError):
            said(kind, error, at)

    sys.excepthook = say


def _packed(found: Sequence[Found]) -> tuple[Batch | None, dict[int, AvrobustError]]:
    """The clips of a piece stacked, for fewer tensors to pass between processes, and the faults by position."""
    clips = [item for item in found if isinstance(item, Clip)]
    faults = {k: item for k, item in enumerate(found) if isinstance(item, AvrobustError)}
    return (Batch.stack(clips) if clips else None), faults


def _unpacked(batch: Batch | None, faults: dict[int, AvrobustError]) -> list[Found]:
    """What `_packed` was given; clips are views."""
    clips: list[Found] = []
    if batch is not None:
        for k, clip_id in enumerate(batch.ids):
            inputs = {name: x[k] for name, x in batch.inputs.items()}
            clips.append(Clip(clip_id, inputs, batch.targets[k], batch.padded[k]))
    for k, fault in sorted(faults.items()):
        clips.insert(k, fault)
    return clips
