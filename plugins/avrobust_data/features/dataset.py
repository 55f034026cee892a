"""`features`: a data set of features that were computed beforehand; a clip is read when it is asked for."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_core import AvrobustWarning, Clip, ClipError, DataError, Dataset, MediaSpec, Task, first_of
from avrobust_data.contents import default_store, digests
from avrobust_data.features.arrays import Joined, StoredArray
from avrobust_data.features.class_names import class_names
from avrobust_data.features.config import FeaturesConfig
from avrobust_data.features.hdf5 import OpenFiles
from avrobust_data.features.labels import Labels, read_lines
from avrobust_data.features.opening import StoredSplit, open_splits
from avrobust_data.media import target_of

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
        self.task: Task = "single-label" if labels[0].columns is None else "multi-label"
        self.classes = _classes(config, labels)
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
            return cast(list[str], found.names.to_pylist())
        return [f"{split}/{row}" for row in (range(len(found)) if found.rows is None else found.rows.tolist())]

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
            with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, and refused
                values = values.astype(np.float32)
            fault = _fault(values, self.media[name].bounds)
            if fault is not None:
                raise ClipError(clip, f"{name} ({array.place} row {row}) {fault}")
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
                digest.update(json.dumps([split, found.labels.digest(), *self.ids(split)]).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _split(self, split: str) -> StoredSplit:
        if split not in self._splits:
            raise DataError(f"{self.config.path} has no split {split!r}, only {', '.join(self._splits)}")
        return self._splits[split]

    def _id(self, split: str, index: int) -> str:
        found = self._splits[split]
        return f"{split}/{found.row(index)}" if found.names is None else str(found.names[index].as_py())

    def _restrict(self, file: Path) -> None:
        """Leave out the clips that a list of ids does not name; warn of ids that there are not."""
        asked = set(read_lines(file, "ids"))
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
        if missing:
            _warn(f"{file}: {len(missing)} of its {len(asked)} ids are not in the data: {first_of(sorted(missing))}")
        if gone:
            _warn(f"{file} names no clip of split {' and '.join(gone)}, which is left out")

    def _tell_what_has_no_label(self) -> None:
        for name, split in self._splits.items():
            bare = np.flatnonzero(split.labels.counts == 0)
            if len(bare):
                some = f"{len(bare)} of the {len(split)} clips of split {name!r} have no label"
                _warn(f"{split.labels.place}: {some}: {first_of(self._id(name, i) for i in bare.tolist())}")


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
    """The class names, as many as the labels need."""
    first = labels[0]
    for each in labels:
        if each.columns != first.columns:
            raise DataError(
                f"{each.place} has {_columns(each)}, and {first.place} {_columns(first)}; all splits' must be alike"
            )
    largest = max(labels, key=lambda each: int(each.positions.max(initial=-1)))
    highest = int(largest.positions.max(initial=-1))
    needed = first.columns or max(highest + 1, 2)
    names = class_names(config.classes, needed)
    if first.columns is not None and first.columns != len(names):
        raise DataError(
            f"{first.place} has {first.columns} columns, but data.with.classes names {len(names)} classes; there must "
            "be one for each column, in the same order"
        )
    if highest >= len(names):
        row = int(np.searchsorted(largest.ends, int(np.argmax(largest.positions)), side="right"))
        raise DataError(f"{largest.place} row {row} is {highest}, but there are only {len(names)} classes, from 0 on")
    return names


def _columns(labels: Labels) -> str:
    return "numbers of classes" if labels.columns is None else f"{labels.columns} columns of zeros and ones"


def _fault(values: NDArray[Any], bounds: tuple[float, float] | None) -> str | None:
    """What is wrong with a clip's values, if anything is."""
    finite = np.isfinite(values)
    if not finite.all():
        return f"has {int(values.size - finite.sum())} of {values.size} values that are not finite in float32"
    if bounds is not None:
        low, high = float(values.min()), float(values.max())
        if values.min() < bounds[0] or values.max() > bounds[1]:
            return f"reaches from {low:g} to {high:g}, beyond its bounds {list(bounds)}"
    return None
