"""A data set of packed clips: read from shards by place, checked by checksum, the same bit for bit as when packed."""

import hashlib
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from avrobust_core.data.batches import Clip
from avrobust_core.data.compact import ENCODINGS, decode
from avrobust_core.data.dataset import Dataset, Locality
from avrobust_core.data.packed_index import PackedIndex, read_index, shard_name
from avrobust_core.errors import ClipError, DataError, DatasetFailure

BLOCK_BYTES: Final = 8 * 2**20
"""Of a shard: what is read in one go where random reads are slow; to seek takes a tenth of the time or less."""

OPEN_FILES: Final = 64
"""Shards kept open in each process."""


class PackedClips(Dataset):
    """The clips of a folder that `pack` made. Nothing in it is executed, and no name in it is followed.

    Args:
        folder: with the index and the shards.
        shuffle_mib: how much of the shards training mixes at a time, in MiB; read ahead block by block, in the order in
            which it lies. By default any clip may follow any other, as from files.

    Raises:
        DataError: if the folder holds no packed clips, or a shard is missing or of another size.
        RunError: if the index is damaged.
    """

    def __init__(self, folder: Path, shuffle_mib: int | None = None) -> None:
        self.folder = folder
        self.shuffle_mib = shuffle_mib
        index = read_index(folder)
        _check_shards(folder, index)
        self.media, self.classes, self.task = index.media, index.classes, index.task
        self.max_unreadable = index.max_unreadable
        self._index = index
        split = index.rows["split"].combine_chunks().cast(pa.string())
        self._by_split = {
            name: _Rows(index.rows.filter(pc.equal(split, name)), len(index.media)) for name in index.splits
        }
        self._files: OrderedDict[int, int] = OrderedDict()
        self._ahead: OrderedDict[tuple[int, int], None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "_ahead": OrderedDict()}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._by_split)

    def ids(self, split: str) -> Sequence[str]:
        return self._split(split).texts("id")

    def groups(self, split: str) -> Sequence[str] | None:
        rows = self._split(split)
        return None if rows.table["group"].null_count else rows.texts("group")

    def label_matrix(self, split: str) -> csr_array | None:
        """As packed; None if a clip could not be read, and the data set did not know its labels without that."""
        column = self._split(split).table["labels"].combine_chunks()
        if column.null_count:
            return None
        labels, counts = pc.list_flatten(column).to_numpy(), pc.list_value_length(column).to_numpy()
        starts = np.concatenate(([0], np.cumsum(counts)))
        return csr_array((np.ones(len(labels), np.float32), labels, starts), shape=(len(column), len(self.classes)))

    def provenance(self) -> Mapping[str, Any]:
        """What the data set said that was packed."""
        return self._index.provenance

    def locality(self, split: str) -> Locality | None:
        if self.shuffle_mib is None:
            return None
        rows = self._split(split)
        blocks = rows.shard.astype(np.int64) * 2**32 + np.maximum(rows.offsets[:, 0], 0) // BLOCK_BYTES
        blocks = np.maximum.accumulate(blocks)  # a clip that cannot be read goes with those before it
        return Locality(blocks.tolist(), max(1, self.shuffle_mib * 2**20 // BLOCK_BYTES))

    def read(self, split: str, index: int) -> Clip:
        """Read one clip.

        Raises:
            ClipError: if it could not be read when it was packed.
            DatasetFailure: if its shard is damaged, cut short or gone; names it.
            DataError: if there is no such split.
            IndexError: if the split has no such clip.
        """
        rows = self._split(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"{split} has the clips 0 to {len(rows) - 1}; asked for {index}")
        clip_id, fault = rows.value("id", index), rows.value("fault", index)
        if fault is not None:
            raise ClipError(clip_id, fault)
        kinds, offsets = rows.encodings[index].tolist(), rows.offsets[index].tolist()
        sizes, begin = self._index.sizes(kinds), min(offsets)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        shard = int(rows.shard[index])
        data = self._bytes(shard, begin, max(ends), clip_id)
        inputs, checksum, names = {}, 0, list(ENCODINGS)
        for (modality, spec), kind, offset, end in zip(self.media.items(), kinds, offsets, ends, strict=True):
            part = data[offset - begin : end - begin]
            checksum = zlib.crc32(part.data, checksum)
            kept = torch.from_numpy(part).view(ENCODINGS[names[kind]].dtype)
            inputs[modality] = decode(kept.reshape(spec.shape), names[kind])
        if checksum != rows.checksum[index]:
            raise self._damaged(shard, f"clip {clip_id} is not what was packed")
        padded = {name: share for name, share in zip(self.media, rows.value("padded", index), strict=True) if share}
        return Clip(clip_id, inputs, self._target(rows.value("labels", index)), padded)

    def fingerprint(self) -> str:
        """Over what the index says of the clips, and the checksums of what they hold; not over where they lie.

        But for `shuffle_mib`: the order in which training then reads depends on how clips lie in the shards.
        """
        digest = hashlib.sha256()
        media = {name: [getattr(spec, field) for field in spec.__slots__] for name, spec in self.media.items()}
        digest.update(json.dumps([self.classes, self.task, media, list(ENCODINGS)]).encode())
        for split, rows in sorted(self._by_split.items()):
            faulty = pc.is_valid(rows.table["fault"]).to_pylist()
            said = ("id", "labels", "group", "encodings", "checksum", "padded")
            columns = [rows.table[name].to_pylist() for name in said]
            digest.update(json.dumps([split, *columns, faulty]).encode())
            locality = self.locality(split)
            if locality is not None:  # a fit depends on the order in which it reads
                digest.update(json.dumps([list(locality.blocks), locality.window]).encode())
        return digest.hexdigest()

    def _target(self, labels: Sequence[int]) -> Tensor:
        if self.task == "single-label":
            return torch.tensor(labels[0], dtype=torch.int64)
        target = torch.zeros(len(self.classes))
        target[list(labels)] = 1
        return target

    def _split(self, split: str) -> "_Rows":
        if split not in self._by_split:
            raise DataError(f"{self.folder} has no clip of the split {split!r}, only {', '.join(self._by_split)}")
        return self._by_split[split]

    def _bytes(self, shard: int, begin: int, end: int, clip_id: str) -> NDArray[np.uint8]:
        try:
            file = self._open(shard)
            if self.shuffle_mib is not None:
                self._read_ahead(file, shard, begin // BLOCK_BYTES)
            data = np.empty(end - begin, np.uint8)
            if os.preadv(file, [data.data], begin) == len(data):
                return data
        except OSError as error:
            raise self._damaged(shard, f"clip {clip_id} cannot be read ({error.strerror})") from error
        raise self._damaged(shard, f"it ends before clip {clip_id} does")

    def _open(self, shard: int) -> int:
        """The descriptor of a shard's file; of those opened before, the oldest is closed when there are too many."""
        file = self._files.pop(shard, None)
        if file is None:
            file = os.open(self.folder / shard_name(shard), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files[shard] = file
        return file

    def _read_ahead(self, file: int, shard: int, block: int) -> None:
        """Ask the system for a whole block when its first clip is read: its cache is the shuffle buffer."""
        if (shard, block) not in self._ahead and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, block * BLOCK_BYTES, BLOCK_BYTES, os.POSIX_FADV_WILLNEED)
            self._ahead[shard, block] = None
            if len(self._ahead) > max(1, (self.shuffle_mib or 0) * 2**20 // BLOCK_BYTES):
                self._ahead.popitem(last=False)

    def _damaged(self, shard: int, what: str) -> DatasetFailure:
        path = self.folder / shard_name(shard)
        return DatasetFailure(f"{path} is damaged: {what}; delete this file and run its `avrobust data pack` again")


class _Rows:
    """The rows of one split: numbers in arrays, that to look one up takes no time and copies none."""

    def __init__(self, rows: pa.Table, modalities: int) -> None:
        self.table = rows.combine_chunks()
        there = pc.is_null(self.table["fault"]).to_numpy()
        self.shard = pc.fill_null(self.table["shard"], 0).to_numpy()
        self.checksum = pc.fill_null(self.table["checksum"], 0).to_numpy()
        self.offsets = self._spread("offsets", there, modalities, np.int64)
        self.encodings = self._spread("encodings", there, modalities, np.int8)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def value(self, column: str, index: int) -> Any:
        return self.table[column][index].as_py()

    def texts(self, column: str) -> list[str]:
        return cast(list[str], self.table[column].to_pylist())

    def _spread(self, column: str, there: NDArray[Any], modalities: int, dtype: type) -> NDArray[Any]:
        """(N, M): -1 where a clip has no place."""
        found: NDArray[Any] = np.full((len(there), modalities), -1, dtype)
        found[there] = pc.list_flatten(self.table.filter(pa.array(there))[column]).to_numpy().reshape(-1, modalities)
        return found


def _check_shards(folder: Path, index: PackedIndex) -> None:
    """Refuse a folder of which a shard is not what the index says, as far as sizes tell.

    Raises:
        DataError: names the first such shard.
    """
    for number, size in enumerate(index.shards):
        path = folder / shard_name(number)
        try:
            found = os.stat(path).st_size
        except OSError as error:
            raise DataError(
                f"{path} is missing ({error.strerror}): copy it here, or run its `avrobust data pack` again"
            ) from error
        if found != size:
            raise DataError(
                f"{path} is of {found} bytes, and {size} were packed: copy it here again, or delete it and run its "
                "`avrobust data pack` again"
            )
