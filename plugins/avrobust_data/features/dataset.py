"""`features`: a data set of features that were computed beforehand; a clip is read when it is asked for."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from avrobust_core import AvrobustWarning, Clip, ClipError, DataError, Dataset, MediaSpec, Task, first_of
from avrobust_data.contents import default_store, digests
from avrobust_data.features.arrays import Joined, StoredArray
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.features.hdf5 import OpenFiles
from avrobust_data.features.labels import Labels
from avrobust_data.features.opening import StoredSplit, open_splits
from avrobust_data.listing import read_ids
from avrobust_data.media import target_of
from avrobust_data.sets.class_lists import read_classes

READER_VERSION: Final = 1
"""Raised when the same files give other clips."""


class Features(Dataset):
    """Features by modality, as float32 and otherwise as they are stored.

    Opening reads labels, ids and the arrays' headers.

    Args:
        config: where they lie, and what they are.

    Raises:
        AvrobustError: if HDF5 is to be read, and h5py is not installed.
        DataError: if files cannot be read, arrays are missing or do not fit together, or labels are wrong.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.max_unreadable = config.max_unreadable
        files = OpenFiles()
        self._splits = open_splits(config, files)
        files.close()  # a process that is forked from here has nothing of ours open
        splits = self._splits.values()
        self.media: Mapping[str, MediaSpec] = {
            name: _media_spec(config, name, [split.arrays[name] for split in splits]) for name in config.modalities
        }
        labels = [split.labels for split in splits]
        self.task: Task = "single-label" if labels[0].single else "multi-label"
        self.classes = _classes(config, labels)
        self._said: dict[str, Any] = {}
        if config.ids is not None:
            self._restrict(config.ids)
        self._tell_what_has_no_label()
        self._fingerprint: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def ids(self, split: str) -> Sequence[str]:
        found = self._split(split)
        if found.names is not None:
            return [name.decode() for name in found.names.tolist()]
        return [f"{split}/{row}" for row in (range(len(found)) if found.rows is None else found.rows.tolist())]

    def label_matrix(self, split: str) -> csr_array:
        """The labels of a split's clips: (n, K) float32 zeros and ones."""
        return self._split(split).labels.matrix

    def provenance(self) -> Mapping[str, Any]:
        """How many of the listed ids there are, where a list of ids restricts the set."""
        return self._said

    def read(self, split: str, index: int) -> Clip:
        """Read one clip's rows.

        Returns:
            By modality what its `MediaSpec` states, float32.

        Raises:
            ClipError: if a row cannot be read, is not finite, or is outside the bounds.
            DataError: if there is no such split.
            IndexError: if the split has no such clip.
        """
        found = self._split(split)
        if not 0 <= index < len(found):
            raise IndexError(f"{split} has the clips 0 to {len(found) - 1}; asked for {index}")
        clip, row, inputs = self._id(split, index), found.row(index), {}
        for name, array in found.arrays.items():
            try:
                values = array.rows(row, row + 1)[0]
            except DataError as error:
                raise ClipError(clip, str(error)) from error
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is not finite, and refused
                values = values.astype(np.float32)
                fault = _fault(values, self.media[name].bounds)
            if fault is not None:
                raise ClipError(clip, f"{name} ({array.where(row)}) {fault}")
            inputs[name] = torch.from_numpy(values.reshape(self.media[name].shape))
        target = target_of(found.labels.of(index), len(self.classes), self.task)
        return Clip(id=clip, inputs=inputs, target=target)

    def fingerprint(self) -> str:
        """Over labels, ids, kinds, bounds and the files' contents; not over where the files lie.

        Of a file of more than 1 MiB only its size and 16 blocks are looked at: a change between them is not noticed.
        """
        if self._fingerprint is None:
            parts = [
                (split, name, part)
                for split, found in sorted(self._splits.items())
                for name, array in sorted(found.arrays.items())
                for part in (array.parts if isinstance(array, Joined) else (array,))
            ]
            files = [os.fspath(part.file.absolute()) for _, _, part in parts]
            store = default_store("\n".join(("features", *dict.fromkeys(files))))
            contents = digests(files, store)
            head = [READER_VERSION, self.config.identity(), self.task, self.classes]
            digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
            for (split, name, part), content in zip(parts, contents, strict=True):
                digest.update(json.dumps([split, name, part.inner, part.shape, content]).encode())
            for split, found in sorted(self._splits.items()):
                rows = None if found.rows is None else found.rows.tolist()
                digest.update(json.dumps([split, found.labels.digest(), rows, *self.ids(split)]).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _split(self, split: str) -> StoredSplit:
        if split not in self._splits:
            raise DataError(f"{self.config.path} has no split {split!r}, only {', '.join(self._splits)}")
        return self._splits[split]

    def _id(self, split: str, index: int) -> str:
        found = self._splits[split]
        return f"{split}/{found.row(index)}" if found.names is None else found.names[index].decode()

    def _restrict(self, file: Path) -> None:
        """Leave out the clips that a list of ids does not name; warn of ids that there are not."""
        asked = set(read_ids(file))
        like = self._id(next(iter(self._splits)), 0)
        missing, gone = asked.copy(), []
        for name, split in [*self._splits.items()]:
            ids = self.ids(name)
            index = np.array([i for i, clip in enumerate(ids) if clip in asked], np.int64)
            missing.difference_update(ids)
            if len(index):
                self._splits[name] = split.taken(index)
            else:
                del self._splits[name]
                gone.append(name)
        if not self._splits:
            raise DataError(f"{file} names none of the clips of {self.config.path}, whose ids are like {like!r}")
        found = len(asked) - len(missing)
        self._said = {
            "summary": f"features: {found} of the {len(asked)} ids listed in {file.name} found",
            "listed": len(asked),
            "found": found,
            "missing": len(missing),
        }
        if missing:
            _warn(f"{file}: {len(missing)} of its {len(asked)} ids are not in the data: {first_of(sorted(missing))}")
        if gone:
            _warn(f"{file} names no clip of split {' and '.join(gone)}, which is left out")

    def _tell_what_has_no_label(self) -> None:
        for name, split in self._splits.items():
            bare = split.labels.without
            if bare:
                some = f"{len(bare)} of the {len(split)} clips of split {name!r} have no label"
                _warn(f"{split.labels.place}: {some}: {first_of(self._id(name, i) for i in bare)}")


def _warn(text: str) -> None:
    warnings.warn(text, AvrobustWarning, stacklevel=3)


def _media_spec(config: FeaturesConfig, modality: str, arrays: Sequence[StoredArray]) -> MediaSpec:
    """What a modality is: a spectrogram gets an axis of channels, as encoders expect it."""
    kind, shape = config.kind(modality), arrays[0].shape[1:]
    for array in arrays:
        if array.shape[1:] != shape:
            raise DataError(
                f"{array.place} has clips of shape {array.shape[1:]}, and {arrays[0].place} of {shape}; all splits' "
                "must be alike"
            )
    if kind == "audio" and len(shape) == 2:
        shape = (1, *shape)
    time_axis = {1: None, 2: 0}.get(len(shape), 1)
    return MediaSpec(kind=kind, shape=shape, bounds=config.modalities[modality].bounds, time_axis=time_axis)


def _classes(config: FeaturesConfig, labels: Sequence[Labels]) -> tuple[str, ...]:
    """The class names, as many as the labels need; every split's labels get a column for each.

    Raises:
        DataError: if splits differ, or there are more or fewer names.
    """
    first, most = labels[0], max(labels, key=lambda each: each.matrix.shape[1])
    for each in labels:
        if each.single != first.single or not (each.single or each.matrix.shape[1] == first.matrix.shape[1]):
            raise DataError(
                f"{each.place} has {_form(each)}, and {first.place} {_form(first)}; all splits' must be alike"
            )
    columns = most.matrix.shape[1]
    names = config.classes or tuple(map(str, range(max(columns, 2))))
    if config.class_list is not None:
        names = read_classes(config.class_list)
    if not first.single and columns != len(names):
        raise DataError(
            f"{first.place} has {columns} columns, but data.with names {len(names)} classes; there must be one for "
            "each column, in the same order"
        )
    if columns > len(names):
        row = int(np.argmax(most.matrix.indices))
        raise DataError(f"{most.place} row {row} is {columns - 1}, but there are only {len(names)} classes, from 0 on")
    for each in labels:
        each.matrix.resize(len(each), len(names))
    return names


def _form(labels: Labels) -> str:
    return "numbers of classes" if labels.single else f"{labels.matrix.shape[1]} columns of zeros and ones"


def _fault(values: NDArray[Any], bounds: tuple[float, float] | None) -> str | None:
    """What is wrong with a clip's values, if anything is."""
    if not math.isfinite(float(values.sum())):  # the sum carries what is not finite, at a tenth of the cost
        wrong = values.size - int(np.isfinite(values).sum())
        if wrong:
            return f"has {wrong} of {values.size} values that are not finite in float32"
    if bounds is not None:
        low, high = float(values.min()), float(values.max())
        if values.min() < bounds[0] or values.max() > bounds[1]:
            return f"reaches from {low:g} to {high:g}, beyond its bounds {list(bounds)}"
    return None
