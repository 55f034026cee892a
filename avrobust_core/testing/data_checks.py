"""Checks of data sets."""

from __future__ import annotations

import pickle

import torch

from avrobust_core.data.batches import Clip
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.readings import same_bits
from avrobust_core.errors import ClipError
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.running import CheckFailed, NotApplicable
from avrobust_core.training.mixing import soft_targets


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
    """A clip read twice, and by a copy as worker processes get it, is the same, and is what its MediaSpec says.

    So is what is learned from, for the same draw.
    """
    dataset: Dataset = subject.build()
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    other: Dataset = subject.build()
    if not dataset.fingerprint() == copy.fingerprint() == other.fingerprint():
        raise CheckFailed("fingerprint() differs between two data sets of one configuration: no result could be reused")
    for split in dataset.splits:
        ids = dataset.ids(split)
        for index in {0, len(ids) - 1} if ids else ():
            try:
                clip = dataset.read(split, index)
            except ClipError:
                continue
            again = copy.read(split, index)
            if clip.id != ids[index]:
                raise CheckFailed(f"read({split!r}, {index}) has the id {clip.id!r}, but ids() says {ids[index]!r}")
            if any(not same_bits(x, again.inputs[name]) for name, x in clip.inputs.items()):
                raise CheckFailed(
                    f"clip {clip.id!r} read twice is not the same: draw from clip_generator(seed, id, ...)"
                )
            _as_stated(dataset, clip)
            _learned_from(dataset, copy, split, index, clip)


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
            try:
                target = dataset.read(split, index).target
            except ClipError:
                continue
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
