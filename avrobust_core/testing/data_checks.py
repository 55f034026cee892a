"""Checks of data sets."""

from __future__ import annotations

import hashlib
import pickle

import torch

from avrobust_core.data.batches import Clip
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.readings import same_bits
from avrobust_core.errors import ClipError, DatasetFailure
from avrobust_core.registry.loading import one_line
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.independence_checks import global_state, refuse_moved, seeded_globals
from avrobust_core.testing.running import CheckFailed, NotApplicable
from avrobust_core.training.mixing import soft_targets

MOST = 16
"""Clips read of each split from its beginning, and as many from all over it."""
READINGS = 5
"""Of the first and the last clip of each split."""


def check_ids(subject: ComponentSubject) -> None:
    """There are splits "train" and "test", and every clip's id is unique over all splits."""
    dataset: Dataset = subject.build()
    if missing := {"train", "test"} - set(dataset.splits):
        raise CheckFailed(
            f"there is no split {', '.join(sorted(missing))}; a study trains on one and attacks the other"
        )
    seen: dict[str, str] = {}
    for split in dataset.splits:
        for clip_id in dataset.ids(split):
            if clip_id in seen:
                raise CheckFailed(
                    f"the id {clip_id!r} is in {seen[clip_id]!r} and in {split!r}: results are kept by id"
                )
            seen[clip_id] = split


def check_clips(subject: ComponentSubject) -> None:
    """A clip read again, and by a copy as worker processes get it, is the same, and is what its MediaSpec says.

    So is what is learned from, for the same draw.
    """
    dataset: Dataset = subject.build()
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    other: Dataset = subject.build()
    if not dataset.fingerprint() == copy.fingerprint() == other.fingerprint():
        raise CheckFailed("fingerprint() differs between two data sets of one configuration: no result could be reused")
    first: dict[_Place, _Contents] = {}
    for split, index in _places(dataset):
        if (clip := _readable(dataset, split, index)) is None:
            continue
        if clip.id != (stated := dataset.ids(split)[index]):
            raise CheckFailed(f"read({split!r}, {index}) has the id {clip.id!r}, but ids() says {stated!r}")
        _as_stated(dataset, clip)
        first[split, index] = _contents(clip)
    for place in _ends(dataset):
        if place in first:
            for _ in range(READINGS - 2):
                _same(first[place], _readable(dataset, *place), place, "again and again")
            _learned_from(dataset, copy, *place, dataset.read(*place))
    for place in reversed(first):
        _same(first[place], _readable(dataset, *place), place, "after others")
        _same(first[place], _readable(copy, *place), place, "by a copy, as worker processes have it,")


def check_unreadable_clips(subject: ComponentSubject) -> None:
    """A clip that cannot be read raises ClipError, and no other error."""
    dataset: Dataset = subject.build()
    for split, index in _places(dataset):
        try:
            dataset.read(split, index)
        except (ClipError, DatasetFailure):
            continue
        except Exception as error:
            raise CheckFailed(
                f"read({split!r}, {index}) raised {one_line(error)}, which ends the run: raise ClipError(id, reason) "
                "for a clip that cannot be read, so that it is skipped, counted and named; DatasetFailure where none "
                "can"
            ) from error


def check_splits_apart(subject: ComponentSubject) -> None:
    """No clip is in two splits, not under another id either: contents are compared by checksum."""
    dataset: Dataset = subject.build()
    known: dict[tuple[tuple[str, str], ...], tuple[str, str]] = {}
    for split, index in _places(dataset):
        clip = _readable(dataset, split, index)
        if clip is None or not any(bool((x.nan_to_num() != 0).any()) for x in clip.inputs.values()):
            continue  # silence and darkness are the same everywhere
        inputs = tuple(sorted((name, sum_) for name, sum_ in _contents(clip).items() if name in clip.inputs))
        where, clip_id = known.setdefault(inputs, (split, clip.id))
        if where != split:
            raise CheckFailed(
                f"clip {clip.id!r} of {split!r} is clip {clip_id!r} of {where!r}, bit for bit: accuracy on what a "
                "model has learned from says nothing of clips that it has not seen"
            )


def check_data_random_state(subject: ComponentSubject) -> None:
    """Reading leaves the global random states and settings as they are, and does not depend on them."""
    dataset: Dataset = subject.build()
    first: dict[_Place, _Contents] = {}
    with seeded_globals() as seeds:
        for _ in seeds:
            before = global_state()
            for place in _ends(dataset):
                if (clip := _readable(dataset, *place)) is not None:
                    dataset.read_to_learn(*place, 5)
                    _same(first.setdefault(place, _contents(clip)), clip, place, "under another global random state")
            refuse_moved(before, "draw from clip_generator(seed, id, ...)")


_Place = tuple[str, int]
_Contents = dict[str, str]


def _places(dataset: Dataset) -> list[_Place]:
    """What is read: of each split the first clips, as many more from all over it, and the last one."""
    found: list[_Place] = []
    for split in dataset.splits:
        clips = len(dataset.ids(split))
        if clips:
            spread = {clips * step // MOST for step in range(MOST)}
            found += [(split, index) for index in sorted({*range(min(clips, MOST)), *spread, clips - 1})]
    return found


def _ends(dataset: Dataset) -> list[_Place]:
    """The first and the last clip of each split."""
    counts = {split: len(dataset.ids(split)) for split in dataset.splits}
    return [(split, index) for split, clips in counts.items() if clips for index in sorted({0, clips - 1})]


def _readable(dataset: Dataset, split: str, index: int) -> Clip | None:
    """The clip; None if it cannot be read: `check_unreadable_clips` looks at how that is said."""
    try:
        return dataset.read(split, index)
    except Exception:  # noqa: BLE001 - of any kind, which is another check's business
        return None


def _contents(clip: Clip) -> _Contents:
    """A checksum of every part of a clip, by its name; NaN counts by its bits, and so is the same as itself."""
    parts = {**clip.inputs, "target": clip.target}
    sums = {
        name: hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode() + x.detach().contiguous().numpy().tobytes())
        for name, x in parts.items()
    }
    return {name: found.hexdigest() for name, found in sums.items()} | {"padding": repr(sorted(clip.padded.items()))}


def _same(first: _Contents, again: Clip | None, place: _Place, how: str) -> None:
    """Refuse a clip that is not what it was at first."""
    if again is None:
        raise CheckFailed(f"clip {place[1]} of {place[0]!r} could be read at first, and not {how}")
    now = _contents(again)
    if differs := sorted(name for name in {*first, *now} if first.get(name) != now.get(name)):
        raise CheckFailed(
            f"clip {again.id!r} read {how} is not the same ({' and '.join(differs)}), though a clip read twice must "
            "be: draw from clip_generator(seed, id, ...), and let nothing depend on what was read before"
        )


def _learned_from(dataset: Dataset, copy: Dataset, split: str, index: int, clip: Clip) -> None:
    """What is learned from is this clip, too: the same for the same draw; and for any, unless the data set says so."""
    found, again = (each.read_to_learn(split, index, 5) for each in (dataset, copy))
    if found.id != clip.id or not same_bits(found.target, clip.target):
        raise CheckFailed(f"read_to_learn({split!r}, {index}, ...) gives another clip, or another target, than read")
    if any(not same_bits(x, again.inputs[name]) for name, x in found.inputs.items()):
        raise CheckFailed(
            f"clip {clip.id!r}: read_to_learn differs for one and the same draw: use clip_generator(draw, id, ...)"
        )
    if not dataset.redrawn and any(not same_bits(x, found.inputs[name]) for name, x in clip.inputs.items()):
        raise CheckFailed(
            f"clip {clip.id!r}: read_to_learn gives another part of it than read: say so (`redrawn = True`), or the "
            "data set can be packed, which loses that"
        )
    _as_stated(dataset, found)


def check_label_matrix(subject: ComponentSubject) -> None:
    """Where labels are stated without reading media, there is a row for each clip, and it is the clip's target."""
    dataset: Dataset = subject.build()
    matrices = {split: dataset.label_matrix(split) for split in dataset.splits}
    if all(matrix is None for matrix in matrices.values()):
        raise NotApplicable("it does not state its labels (label_matrix)")
    for split, matrix in matrices.items():
        ids, shape = dataset.ids(split), None if matrix is None else tuple(matrix.shape)
        if matrix is None or shape != (len(ids), len(dataset.classes)):
            raise CheckFailed(f"label_matrix({split!r}) is {shape}, not {(len(ids), len(dataset.classes))}")
        for index in {0, len(ids) - 1} if ids else ():
            if (clip := _readable(dataset, split, index)) is None:
                continue
            target = clip.target
            if matrix[[index]].toarray()[0].tolist() != soft_targets(target[None], len(dataset.classes))[0].tolist():
                raise CheckFailed(f"the target of clip {ids[index]!r} is not its row of label_matrix({split!r})")


def _as_stated(dataset: Dataset, clip: Clip) -> None:
    for name, spec in dataset.media.items():
        x = clip.inputs.get(name)
        if x is None or tuple(x.shape) != spec.shape or x.dtype != torch.float32:
            found = "missing" if x is None else f"{x.dtype} {tuple(x.shape)}"
            raise CheckFailed(f"{name} of clip {clip.id!r} is {found}; its MediaSpec says float32 {spec.shape}")
        low, high = spec.bounds or (-torch.inf, torch.inf)
        if spec.optional and bool(x.isnan().all()):
            continue
        if not bool(((x >= low) & (x <= high)).all()):
            raise CheckFailed(
                f"{name} of clip {clip.id!r} is outside the bounds [{low}, {high}] of its MediaSpec, or NaN"
            )
    for name, share in clip.padded.items():
        if name not in dataset.media or not 0 < share <= 1 or dataset.media[name].time_axis is None:
            raise CheckFailed(
                f"clip {clip.id!r} says that {share} of {name} is padding: name a modality whose MediaSpec states its "
                "time_axis, and a share above 0 and not above 1, or no attack can be kept from the padding"
            )
    target, classes = clip.target, len(dataset.classes)
    single = dataset.task == "single-label"
    shape, kind = ((), torch.int64) if single else ((classes,), torch.float32)
    if tuple(target.shape) != shape or target.dtype != kind or (single and not 0 <= int(target) < classes):
        raise CheckFailed(f"the target of clip {clip.id!r} is {target!r}, which a {dataset.task} clip cannot have")
