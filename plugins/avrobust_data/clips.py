"""`clips`: a data set of media files named by a manifest."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from avrobust_core import AvrobustWarning, Clip, ClipError, DataError, Dataset, MediaSpec
from avrobust_data.cache import ClipCache, to_tensors
from avrobust_data.collectors import MediaError
from avrobust_data.configs import ClipsConfig
from avrobust_data.contents import default_store, digests
from avrobust_data.decoding import DECODER_VERSION, decode
from avrobust_data.manifest import read_manifest
from avrobust_data.media import media_specs, target_of
from avrobust_data.rows import Row, copies


class Clips(Dataset):
    """Media files, decoded when they are read and kept in memory as far as the configuration allows.

    Args:
        config: the manifest and how its files are decoded.

    Raises:
        DataError: if the manifest or its root folder cannot be used.
    """

    def __init__(self, config: ClipsConfig) -> None:
        self.config = config
        self.root = config.root if config.root is not None else config.manifest.parent
        if config.root is not None and not self.root.is_dir():
            raise DataError(f"data.with.root is {self.root}, which is not a folder")
        manifest = read_manifest(config)
        self.classes = manifest.classes
        self.task = manifest.task
        self.max_unreadable = config.max_unreadable
        specs = media_specs(config)
        self.media: Mapping[str, MediaSpec] = {name: specs[name] for name in config.modalities}
        self._rows = {
            split: rows
            for split in config.splits
            if (rows := tuple(row for row in manifest.rows if row.split == split))
        }
        self._fingerprint: str | None = None
        self._cache = ClipCache(config.cache_mib * 2**20)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def ids(self, split: str) -> Sequence[str]:
        return [row.id for row in self._split(split)]

    def groups(self, split: str) -> Sequence[str] | None:
        """The column `group` of the manifest; None where there is none."""
        groups = [row.group for row in self._split(split)]
        return [group for group in groups if group is not None] or None

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
            media = self._cache.get((split, index), lambda: decode(self.root / row.path, self.config))
        except MediaError as error:
            raise ClipError(row.id, str(error)) from error
        labels = [self.classes.index(label) for label in row.labels]
        return Clip(id=row.id, inputs=to_tensors(media), target=target_of(labels, len(self.classes), self.task))

    def fingerprint(self) -> str:
        """Over the manifest's rows, the files' contents and the decoding; not over where the files lie.

        Contents are looked at once per object. Of a file of more than 1 MiB only its size and 16 blocks are: a change
        between them is not noticed, nor one that leaves a file's size and all its times as they were.
        """
        if self._fingerprint is None:
            rows = [row for _, rows in sorted(self._rows.items()) for row in rows]
            store = default_store(f"{self.config.manifest.absolute()}\n{self.root.absolute()}")
            folder = os.fspath(self.root.absolute())
            contents = digests([os.path.join(folder, row.path) for row in rows], store)
            for remark in copies(rows, contents):
                warnings.warn(f"{self.config.manifest}: {remark}", AvrobustWarning, stacklevel=2)
            content = {
                "decoder": DECODER_VERSION,
                "config": self.config.identity(),
                "task": self.task,
                "classes": self.classes,
                "rows": [
                    (row.id, row.labels, row.split, self._place(row), digest)
                    for row, digest in zip(rows, contents, strict=True)
                ],
            }
            self._fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._fingerprint

    def _split(self, split: str) -> tuple[Row, ...]:
        if split not in self._rows:
            raise DataError(f"{self.config.manifest} has no clip of the split {split!r}, only {', '.join(self._rows)}")
        return self._rows[split]

    def _place(self, row: Row) -> str:
        """The path below the root; of a file elsewhere, its name."""
        path = Path(row.path)
        if not path.is_absolute():
            return path.as_posix()
        root = self.root.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
