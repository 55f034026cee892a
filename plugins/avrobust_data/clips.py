"""`clips`: a data set of media files named by a manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from avrobust_core import Clip, ClipError, DataError, Dataset, MediaSpec
from avrobust_data.cache import ClipCache, to_tensors
from avrobust_data.configs import ClipsConfig
from avrobust_data.decoding import DECODER_VERSION, Window, decode
from avrobust_data.manifest import Row, read_manifest
from avrobust_data.sinks import MediaError


class Clips(Dataset):
    """Media files, decoded when they are read and kept in memory as far as the configuration allows.

    Args:
        config: the manifest and how its files are decoded.

    Raises:
        DataError: if the manifest or its root folder cannot be used.
    """

    def __init__(self, config: ClipsConfig) -> None:
        self.config = config
        manifest = read_manifest(
            config.manifest, separator=config.separator, classes=config.classes, splits=config.splits
        )
        self.root = config.root if config.root is not None else config.manifest.parent
        if not self.root.is_dir():
            raise DataError(f"data.with.root is {self.root}, which is not a folder")
        self.classes = manifest.classes
        self.task = manifest.task
        self.max_unreadable = config.max_unreadable
        self.window = Window(
            seconds=config.seconds,
            centre=config.crop == "centre",
            sample_rate=config.sample_rate if "audio" in config.modalities else None,
            frames=config.frames if "video" in config.modalities else None,
            size=config.size,
            stretch=config.resize == "stretch",
        )
        specs = {
            "audio": MediaSpec(
                kind="audio",
                shape=(1, self.window.samples),
                rate=float(config.sample_rate),
                bounds=(-1, 1),
                time_axis=1,
            ),
            "video": MediaSpec(
                kind="video",
                shape=(3, config.frames, config.size, config.size),
                rate=config.frames / config.seconds,
                bounds=(0, 1),
                time_axis=1,
            ),
        }
        self.media: Mapping[str, MediaSpec] = {name: specs[name] for name in config.modalities}
        self._rows = {
            split: rows
            for split in config.splits
            if (rows := tuple(row for row in manifest.rows if row.split == split))
        }
        self._cache = ClipCache(config.cache_mib * 2**20)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def ids(self, split: str) -> Sequence[str]:
        return [row.id for row in self._split(split)]

    def read(self, split: str, index: int) -> Clip:
        """Decode one file, or take it from memory.

        Returns:
            audio (1, T) float32 in [-1, 1] and video (3, F, S, S) float32 in [0, 1], as far as they are asked for.

        Raises:
            ClipError: if the file is missing, damaged, cut short, or lacks sound or picture.
            DataError: if there is no such split.
            IndexError: if the split has no such clip.
        """
        rows = self._split(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"{split} has the clips 0 to {len(rows) - 1}; asked for {index}")
        row = rows[index]
        try:
            media = self._cache.get((split, index), lambda: decode(self.root / row.path, self.window))
        except MediaError as error:
            raise ClipError(row.id, str(error)) from error
        return Clip(id=row.id, inputs=to_tensors(media), target=self._target(row))

    def fingerprint(self) -> str:
        """Over the manifest's rows, the files' sizes and the decoding; not over where the files lie.

        A file that is replaced by another of the same size, to the byte, is not noticed.
        """
        content = {
            "decoder": DECODER_VERSION,
            "config": self.config.identity(),
            "task": self.task,
            "classes": self.classes,
            "rows": [
                (row.id, row.labels, row.split, self._place(row), self._size(row))
                for _, rows in sorted(self._rows.items())
                for row in rows
            ],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _split(self, split: str) -> tuple[Row, ...]:
        if split not in self._rows:
            raise DataError(f"{self.config.manifest} has no clip of the split {split!r}, only {', '.join(self._rows)}")
        return self._rows[split]

    def _target(self, row: Row) -> Tensor:
        labels = [self.classes.index(label) for label in row.labels]
        if self.task == "single-label":
            return torch.tensor(labels[0], dtype=torch.int64)
        target = torch.zeros(len(self.classes))
        target[labels] = 1
        return target

    def _place(self, row: Row) -> str:
        """The path below the root; of a file elsewhere, its name."""
        path = Path(row.path)
        if not path.is_absolute():
            return path.as_posix()
        root = self.root.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def _size(self, row: Row) -> int:
        """In bytes; -1 for a file that cannot be found, which `read` reports."""
        try:
            return (self.root / row.path).stat().st_size
        except (OSError, ValueError):
            return -1
