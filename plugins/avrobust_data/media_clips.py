"""A data set of media files: the clips of a listing, decoded when they are read."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from avrobust_core import AvrobustWarning, Clip, ClipError, DataError, Dataset, MediaSpec, derive_seed
from avrobust_data.cache import ClipCache, Media, to_tensors
from avrobust_data.clip_files import decode_clip
from avrobust_data.configs import DecodingConfig
from avrobust_data.contents import default_store, digests, sizes
from avrobust_data.decoding import DECODER_VERSION
from avrobust_data.faults import MediaError
from avrobust_data.listing import Entry, Listing
from avrobust_data.media import media_specs, target_of
from avrobust_data.rows import copies


class MediaClips(Dataset):
    """Media files, decoded when they are read and kept in memory as far as the configuration allows.

    Args:
        listing: the clips.
        root: the folder that their paths are relative to.
        splits: the order of the splits; those without clips are left out.
        config: how files are decoded.
        said: what `provenance` says.
    """

    def __init__(
        self,
        listing: Listing,
        root: Path,
        splits: Sequence[str],
        config: DecodingConfig,
        said: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.config = config
        self.root = root
        self.source = listing.source
        self.classes = listing.classes
        self.task = listing.task
        self.max_unreadable = config.max_unreadable
        self.redrawn = config.window == "random"
        specs = media_specs(config)
        self.media: Mapping[str, MediaSpec] = {name: specs[name] for name in config.modalities}
        self._said = dict(said)
        self._by_split = listing.by_split(splits)
        self._fingerprint: str | None = None
        self._cache = ClipCache(config.cache_mib * 2**20)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._by_split)

    def ids(self, split: str) -> Sequence[str]:
        return self._split(split).texts("id")

    def groups(self, split: str) -> Sequence[str] | None:
        """The listing's groups; None where a clip has none."""
        part = self._split(split)
        return None if part.table["group"].null_count else part.texts("group")

    def label_matrix(self, split: str) -> csr_array:
        """As the listing has them."""
        column = self._split(split).table["labels"].combine_chunks()
        starts, labels = column.offsets.to_numpy(), column.values.to_numpy()
        return csr_array((np.ones(len(labels), np.float32), labels, starts), shape=(len(column), len(self.classes)))

    def provenance(self) -> Mapping[str, Any]:
        """What was listed, found and missing."""
        return self._said

    def read(self, split: str, index: int) -> Clip:
        """Decode one clip, or take it from memory.

        Returns:
            audio (1, T) float32 in [-1, 1] and video (3, F, S, S) float32 in [0, 1], as far as they are asked for.

        Raises:
            ClipError: if the file is missing, damaged, cut short, or lacks sound or picture.
            DataError: if there is no such split.
            IndexError: if the split has no such clip.
        """
        entry = self._entry(split, index)
        return self._clip(entry, lambda: self._cache.get((split, index), lambda: self._decoded(entry)))

    def read_to_learn(self, split: str, index: int, draw: int) -> Clip:
        """As `read`; with `window: random` another part of the clip for each draw, never taken from memory."""
        if not self.redrawn:
            return self.read(split, index)
        entry = self._entry(split, index)
        return self._clip(entry, lambda: self._decoded(entry, derive_seed(draw, entry.id, "window") / 2**63))

    def _entry(self, split: str, index: int) -> Entry:
        listing = self._split(split)
        if not 0 <= index < len(listing):
            raise IndexError(f"{split} has the clips 0 to {len(listing) - 1}; asked for {index}")
        return listing[index]

    def _decoded(self, entry: Entry, share: float | None = None) -> Media:
        sound = None if entry.sound is None else self.root / entry.sound
        return decode_clip(self.root / entry.path, sound, self.config, entry.start, entry.stop, share)

    def _clip(self, entry: Entry, made: Callable[[], Media]) -> Clip:
        try:
            media = made()
        except MediaError as error:
            raise ClipError(entry.id, str(error)) from error
        target = target_of(entry.labels, len(self.classes), self.task)
        return Clip(id=entry.id, inputs=to_tensors(media), target=target, padded=media.padded)

    def fingerprint(self) -> str:
        """Over the listing, the files' contents and the decoding; not over where the files lie.

        Contents are looked at once per object. Of a file of more than 1 MiB only its size and 16 blocks are: a change
        between them is not noticed, nor one that leaves a file's size and all its times as they were. Of a set of more
        than `hashed_files` clips the contents of so many are looked at, evenly spread over each split, and only the
        sizes of the others, which an `AvrobustWarning` says: two million contents are up to two terabytes. Copies in
        two splits are then looked for among those alone.
        """
        if self._fingerprint is None:
            clips = sum(len(part) for part in self._by_split.values())
            step = -(-clips // self.config.hashed_files)
            if step > 1:
                warnings.warn(
                    f"{self.source}: the contents of one in {step} of the {clips} files are hashed, and of the others "
                    "the sizes: that another of its size replaces one goes unnoticed (data.with.hashed_files)",
                    AvrobustWarning,
                    stacklevel=2,
                )
            head = [DECODER_VERSION, self.config.identity(), self.task, self.classes]
            digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
            digest.update(json.dumps(self._contents(step)).encode())
            for split, part in sorted(self._by_split.items()):
                for columns in part.chunks():
                    files = {name: columns[name] for name in ("path", "sound") if any(columns[name])}
                    said = columns | {"split": split} | {name: self._places(paths) for name, paths in files.items()}
                    if step > 1:
                        said["sizes"] = [sizes(self._absolute(paths)) for paths in files.values()]
                    digest.update(json.dumps(said, sort_keys=True).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _contents(self, step: int) -> list[str]:
        """Digests of the files of one in `step` clips of each split; copies among them in two splits are warned of."""
        parts = [part.every(step) for _, part in sorted(self._by_split.items())]
        entries = [entry for part in parts for entry in part.entries()]
        entries += [replace(entry, path=entry.sound) for entry in entries if entry.sound is not None]
        store = default_store(f"{Path(self.source).absolute()}\n{self.root.absolute()}")
        contents = digests(self._absolute([entry.path for entry in entries]), store)
        for remark in copies(entries, contents):
            warnings.warn(f"{self.source}: {remark}", AvrobustWarning, stacklevel=2)
        return contents

    def _absolute(self, paths: Sequence[str | None]) -> list[str]:
        folder = os.fspath(self.root.absolute())
        return [os.path.join(folder, path) for path in paths if path is not None]

    def _split(self, split: str) -> Listing:
        if split not in self._by_split:
            raise DataError(f"{self.source} has no clip of the split {split!r}, only {', '.join(self._by_split)}")
        return self._by_split[split]

    def _places(self, paths: Sequence[str | None]) -> list[str | None]:
        return [None if path is None else self._place(path) for path in paths]

    def _place(self, path: str) -> str:
        """The path below the root; of a file elsewhere, its name."""
        if not os.path.isabs(path):
            regular = os.sep == "/" and not ("//" in path or "./" in path or path.endswith("/"))
            return path if regular else Path(path).as_posix()
        place, root = Path(path), self.root.absolute()
        return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name
