"""From a data set to batches: which clips, in which order, and what becomes of those that cannot be read."""

import math
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from avrobust_core.batches import Batch, Clip
from avrobust_core.blame import NO_CLIPS_FAULT, sentence
from avrobust_core.contracts import Dataset
from avrobust_core.errors import AvrobustError, BatchTimeout, ClipError, DataError, DatasetFailure, RunError
from avrobust_core.naming import clips_named, first_of
from avrobust_core.plain_text import plain_text
from avrobust_core.randomness import derive_seed
from avrobust_core.suggest import did_you_mean


@dataclass(slots=True)
class Skipped:
    """The clips that could not be read, by split and id, each with its reason; and those that were, but are constant.

    A clip that fails again in the next epoch counts once.
    """

    dataset: Dataset
    by_split: dict[str, dict[str, str]] = field(default_factory=dict)
    constant: dict[str, dict[str, str]] = field(default_factory=dict)
    _totals: dict[str, int] = field(default_factory=dict)

    def add(self, split: str, error: ClipError) -> None:
        """Record a clip.

        Raises:
            DatasetFailure: if more of the split has failed than the data set allows.
        """
        clips = self.by_split.setdefault(split, {})
        clips[error.clip_id] = error.reason
        if split not in self._totals:
            self._totals[split] = len(self.dataset.ids(split))
        total = self._totals[split]
        allowed = self.dataset.max_unreadable
        if len(clips) > allowed * total:
            first = first_of((f"{name}: {reason}" for name, reason in clips.items()), "; ")
            raise DatasetFailure(
                f"{len(clips)} of the {total} clips of split {split!r} cannot be read, more than the allowed share "
                f"of {allowed:g} (max_unreadable): {first}"
            )

    def look_at(self, split: str, batch: Batch) -> None:
        """Record the clips of which a modality has one value throughout: silence, or a picture of one colour."""
        for modality, x in batch.inputs.items():
            flat = x.flatten(1)
            probe = flat[:, :: max(1, flat.shape[1] // 64)]  # a few values, that most clips need no second look
            for i in (probe == probe[:, :1]).all(1).nonzero().flatten().tolist():
                if bool((flat[i] == flat[i, 0]).all()):
                    found = f"{modality} is {float(flat[i, 0]):g} throughout"
                    clips = self.constant.setdefault(split, {})
                    earlier = clips.get(batch.ids[i])
                    if earlier is None or found not in earlier:
                        clips[batch.ids[i]] = found if earlier is None else f"{earlier}, {found}"

    def merge(
        self, by_split: Mapping[str, Mapping[str, str]], constant: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Take in what was recorded elsewhere."""
        for mine, theirs in ((self.by_split, by_split), (self.constant, constant or {})):
            for split, clips in theirs.items():
                mine.setdefault(split, {}).update(clips)

    def to_json(self) -> dict[str, dict[str, str]]:
        """Those that could not be read, by split and id, sorted."""
        return _sorted(self.by_split)

    def constant_json(self) -> dict[str, dict[str, str]]:
        """Those that are constant, by split and id, sorted: which modality, and its value."""
        return _sorted(self.constant)


def _sorted(by_split: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {split: dict(sorted(clips.items())) for split, clips in sorted(by_split.items()) if clips}


@dataclass(frozen=True, slots=True)
class Selection:
    """Clips of one split, in order: positions within the split, and their ids."""

    split: str
    indices: tuple[int, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def where(self, keep: Iterable[bool]) -> "Selection":
        """The clips for which `keep` is true, in the same order."""
        kept = [i for i, flag in enumerate(keep) if flag]
        return Selection(self.split, tuple(self.indices[i] for i in kept), tuple(self.ids[i] for i in kept))

    def share(self, rank: int, world: int) -> "Selection":
        """One process's clips of `world` processes: every clip in exactly one share, none twice."""
        return self.where(i % world == rank for i in range(len(self)))

    def chunks(self, size: int) -> list[list[int]]:
        """The positions in consecutive batches of at most `size`."""
        return [list(self.indices[start : start + size]) for start in range(0, len(self), size)]


def check_ids(dataset: Dataset) -> None:
    """Refuse clips whose ids cannot tell them apart: results are kept by id, and one would pass for the other.

    Raises:
        DataError: names the first id that is given twice and both its places, or the first that is no text.
    """
    places: dict[str, tuple[str, int]] = {}
    for split in dataset.splits:
        for index, clip_id in enumerate(dataset.ids(split)):
            if not isinstance(clip_id, str) or not clip_id:
                raise DataError(f"clip {index} of split {split!r} has the id {clip_id!r}, which is no text")
            if clip_id in places:
                first = " of split ".join(repr(part) for part in reversed(places[clip_id]))
                raise DataError(
                    f"two clips have the id {clip_id!r}: clip {first}, and clip {index} of split {split!r}; "
                    "every clip of a data set needs an id of its own"
                )
            places[clip_id] = split, index


def refuse_split(dataset: Dataset, split: str) -> None:
    """Refuse a split that the data set does not have.

    Raises:
        DataError: names the splits that there are.
    """
    if split not in dataset.splits:
        raise DataError(
            f"the data set has no split {split!r}; it has: {', '.join(dataset.splits)}"
            + did_you_mean(split, dataset.splits)
        )


def select(dataset: Dataset, split: str, clips: int | None = None) -> Selection:
    """All clips of a split, or `clips` of them chosen by a hash of their ids, in the data set's order.

    Raises:
        DataError: if there is no such split, or it is empty.
    """
    refuse_split(dataset, split)
    ids = tuple(dataset.ids(split))
    if not ids:
        raise DatasetFailure(f"split {split!r} of the data set is empty")
    whole = Selection(split, tuple(range(len(ids))), ids)
    if clips is None or clips >= len(ids):
        return whole
    chosen = set(sorted(range(len(ids)), key=lambda i: derive_seed("evaluation", ids[i]))[:clips])
    return whole.where(i in chosen for i in range(len(ids)))


def split_for_training(dataset: Dataset, held_out: float) -> tuple[Selection, Selection | None]:
    """The clips to train on and those to select by: the "val" split, else a share of "train" by a hash of the ids.

    Args:
        dataset: must have the split "train".
        held_out: share of "train" to hold out, in [0, 1), where there is no "val"; 0 holds none out.
    """
    train = select(dataset, "train")
    if "val" in dataset.splits and dataset.ids("val"):
        return train, select(dataset, "val")
    if held_out == 0:
        return train, None
    limit = held_out * 2**63
    held = [derive_seed("validation", clip_id) < limit for clip_id in train.ids]
    if not any(held) or all(held):
        return train, None
    return train.where(not flag for flag in held), train.where(held)


def epoch_order(selection: Selection, seed: int, epoch: int) -> list[int]:
    """The positions of one epoch's training clips: a permutation from (seed, epoch) alone."""
    order = list(selection.indices)
    random.Random(derive_seed(seed, "order", epoch)).shuffle(order)  # not torch's: no global state is touched
    return order


def in_batches(order: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """Runs of neighbours.

    The last batch is left out if it is not full, unless it is the only one: every optimiser step weighs the same.
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


class _Reader(TorchDataset[Clip | AvrobustError]):
    def __init__(self, dataset: Dataset, split: str, workers: int = 0) -> None:
        self.dataset = dataset
        self.split = split
        self.ids = dataset.ids(split)
        self.classes = len(dataset.classes)
        # What each worker is reading: seen by the main process even when the worker is killed.
        self.reading = torch.full((workers,), -1).share_memory_() if workers else None  # type: ignore[no-untyped-call]

    def __getitem__(self, index: int) -> Clip | AvrobustError:
        worker = get_worker_info()
        if self.reading is None or worker is None:
            return self._read(index)
        self.reading[worker.id] = index
        found = self._read(index)
        self.reading[worker.id] = -1
        return found

    def _read(self, index: int) -> Clip | AvrobustError:
        clip_id = self.ids[index]
        try:
            clip = self.dataset.read(self.split, index)
            fault = self._fault(clip, clip_id)
        except (ClipError, BatchTimeout) as error:
            return error
        except OSError as error:
            if error.errno in NO_CLIPS_FAULT:
                return RunError(f"while clip {clip_id} of split {self.split!r} was read: {sentence(error)}")
            return ClipError(clip_id, f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  # a reader's bug is counted and named like a bad clip, and limited
            return ClipError(clip_id, f"{type(error).__name__}: {error}")
        except (SystemExit, GeneratorExit) as error:  # must not end the run, or a worker, as if all were done
            return ClipError(clip_id, sentence(error))
        return clip if fault is None else ClipError(clip_id, fault)

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


def _collate(items: Sequence[Clip | AvrobustError]) -> tuple[Batch | None, list[AvrobustError]]:
    clips = [item for item in items if isinstance(item, Clip)]
    return (Batch.stack(clips) if clips else None), [item for item in items if isinstance(item, AvrobustError)]


def read_clip(dataset: Dataset, split: str, index: int) -> Clip:
    """One clip that could be read before.

    Raises:
        DataError: if it no longer can be; names it.
    """
    found = _Reader(dataset, split)[index]
    if isinstance(found, AvrobustError) and not isinstance(found, ClipError):
        raise found
    if isinstance(found, ClipError):
        raise DataError(f"clip {found.clip_id} of split {split!r} could be read before, and no longer: {found.reason}")
    return found


def read_batches(
    dataset: Dataset, split: str, batches: Sequence[Sequence[int]], *, skipped: Skipped, workers: int, pin: bool
) -> Iterator[Batch | None]:
    """Read batches of clips; what cannot be read is left out of its batch and recorded.

    Yields one item per batch asked for, None where none of its clips could be read.

    Args:
        dataset: what to read from.
        split: the split.
        batches: positions within the split, batch by batch.
        skipped: where unreadable clips are recorded, which ends the run when there are too many; and constant ones.
        workers: processes that read; 0 reads in this one.
        pin: whether to pin memory for copies to a GPU.

    Raises:
        DatasetFailure: if more clips cannot be read than the data set allows.
        RunError: if the system fails (too many open files), or a process that reads dies; names the clips.
    """
    if not batches:
        return
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin}
    reader = _Reader(dataset, split, workers)
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_sampler=batches,  # type: ignore[arg-type]  # any sized iterable of lists serves
        collate_fn=_collate,
        generator=torch.Generator(),  # else the loader draws a seed from the global random state
        **options,
    )
    items = _begun(loader)
    for number in range(len(batches)):
        try:
            batch, errors = next(items)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or reader.reading is None:
                raise
            # Each worker is given two batches ahead.
            waiting = [index for batch in batches[number : number + 2 * workers] for index in batch]
            known = [index for index in reader.reading.tolist() if index >= 0]
            clips = clips_named([reader.ids[index] for index in known or waiting])
            raise RunError(
                f"a process that reads split {split!r} died {'at' if known else 'before it had read'} {clips} "
                f"({plain_text(error, 200)}): it was killed, perhaps for want of memory, or crashed; lower "
                "engine.workers, or set it to 0 to see what happens"
            ) from error
        for fault in errors:
            if not isinstance(fault, ClipError):
                raise fault
            skipped.add(split, fault)
        if batch is not None:
            skipped.look_at(split, batch)
        yield batch


def _begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator; that a worker dies is noticed when its batch is asked for, not in the midst of an attack.

    The loader's own handler of SIGCHLD raises wherever the main thread happens to be.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    earlier = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if earlier is not None and signal.getsignal(signal.SIGCHLD) is not earlier:
        signal.signal(signal.SIGCHLD, earlier)
    return items
