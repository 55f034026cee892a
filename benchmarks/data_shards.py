"""Packed clips: reading beside decoding, formats beside one another, the cost per clip, how long training waits.

Times are processor seconds of one thread where nothing else is said, since other work on the machine changes them less;
readers take turns, 25 clips each.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from avrobust_core import Clip, Dataset, MediaSpec, PackedClips, Registry, classification_loss
from avrobust_core.data.compact import ENCODINGS, decode, encode
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, epoch_order, in_batches, select
from avrobust_core.data.packing import pack
from avrobust_core.models.model import AVModel

Json = dict[str, Any]


class Generated(Dataset):
    """Clips of noise, each of a sound of 16 bits and of pictures in bytes, as decoders give them."""

    task = "single-label"
    classes = tuple("abcdefghij")

    def __init__(self, clips: int, sound: int = 400, pictures: tuple[int, ...] = (3, 2, 16, 16)) -> None:
        self.clips = clips
        self.media = {
            "audio": MediaSpec(kind="audio", shape=(1, sound), rate=16_000.0, bounds=(-1, 1), time_axis=1),
            "video": MediaSpec(kind="video", shape=pictures, rate=16.0, bounds=(0, 1), time_axis=1),
        }

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def ids(self, split: str) -> list[str]:
        return [f"{split}/a-video-of-some-site_{i:09d}.mp4" for i in range(self.clips if split == "train" else 1)]

    def read(self, split: str, index: int) -> Clip:
        drawn = torch.Generator().manual_seed(index)
        sound = torch.randint(-32768, 32768, self.media["audio"].shape, generator=drawn).float().div_(32768)
        pictures = torch.randint(0, 256, self.media["video"].shape, generator=drawn).float().div_(255)
        return Clip(self.ids_of(split, index), {"audio": sound, "video": pictures}, torch.tensor(index % 10))

    def ids_of(self, split: str, index: int) -> str:
        """One of `ids`."""
        return f"{split}/a-video-of-some-site_{index:09d}.mp4"

    def fingerprint(self) -> str:
        return f"generated {self.clips} {self.media}"


def spent(work: Callable[[], object]) -> float:
    """Processor seconds that it took."""
    began = time.process_time()
    work()
    return time.process_time() - began


def read(data: Dataset, positions: Sequence[int]) -> None:
    """Read clips of "train"."""
    for position in positions:
        data.read("train", position)


def packed_over_decoding(manifest: Path, folder: Path, clips: int = 200) -> Json:
    """Clips of media files, decoded and read from shards in turns."""
    files = make_clips(ClipsConfig(manifest=manifest, cache_mib=0))
    began = time.process_time()
    made = pack(files, folder)
    packing = time.process_time() - began
    shards = PackedClips(folder)
    count = min(clips, len(files.ids("train")))
    order = epoch_order(select(files, "train"), 0, 0)[:count]
    times = {"decoded": 0.0, "packed": 0.0}
    for start in range(0, count, 25):
        for name, data in (("decoded", files), ("packed", shards)):
            times[name] += spent(lambda data=data, some=order[start : start + 25]: read(data, some))  # type: ignore[misc]
    return {
        "clips": count,
        "decoded_clips_per_s": count / times["decoded"],
        "packed_clips_per_s": count / times["packed"],
        "packed_over_decoded": times["decoded"] / times["packed"],
        "packing_over_decoding": packing / made.clips / (times["decoded"] / count),
        "bytes_per_clip": made.bytes / made.clips,
    }


def formats(packed: Path, folder: Path, clips: int = 400) -> Json:
    """The same clips in other formats, read in one random order: microseconds per clip, to float32 tensors.

    All keep the same compact numbers. Only ours checks what it reads.
    """
    shards = PackedClips(packed)
    names = list(shards.media)
    count = min(clips, len(shards.ids("train")))
    kept = [{name: encode(x) for name, x in shards.read("train", i).inputs.items()} for i in range(count)]
    kinds = {name: kept[0][name][0] for name in names}
    shapes = {name: spec.shape for name, spec in shards.media.items()}
    table = pa.table({name: [row[name][1].numpy().tobytes() for row in kept] for name in names})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, folder / "a.parquet", compression="none", row_group_size=1, use_dictionary=False)
    save_file({f"{i} {name}": row[name][1] for i, row in enumerate(kept) for name in names}, folder / "a.safetensors")
    arrow = pa.ipc.open_file(pa.memory_map(str(folder / "a.arrow"))).read_all().combine_chunks()
    parquet = pq.ParquetFile(folder / "a.parquet")
    tensors: Any = safe_open(str(folder / "a.safetensors"), "pt")

    def from_buffer(value: Any, name: str) -> Tensor:
        numbers = torch.frombuffer(bytearray(value.as_buffer()), dtype=ENCODINGS[kinds[name]].dtype)
        return decode(numbers.reshape(shapes[name]), kinds[name])

    def from_parquet(i: int) -> list[Tensor]:
        row = parquet.read_row_group(i)
        return [from_buffer(row[name][0], name) for name in names]

    readers: dict[str, Callable[[int], object]] = {
        "shards": lambda i: shards.read("train", i),
        "arrow, memory-mapped": lambda i: [from_buffer(arrow[name][i], name) for name in names],
        "parquet, a row group per clip": from_parquet,
        "safetensors, memory-mapped": lambda i: [
            decode(tensors.get_tensor(f"{i} {name}"), kinds[name]) for name in names
        ],
    }
    order = np.random.default_rng(0).permutation(count).tolist()
    times = dict.fromkeys(readers, 0.0)
    for start in range(0, count, 25):
        for name, one in readers.items():
            some = order[start : start + 25]
            times[name] += spent(lambda one=one, some=some: [one(i) for i in some])  # type: ignore[misc]
    return {name: 1e6 * seconds / count for name, seconds in times.items()}


PROBE = """
import json, os, sys, time
import numpy as np
from pathlib import Path
from avrobust_core import PackedClips

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

PackedClips(Path(sys.argv[2]))  # what the first one loads and keeps is not the clips'
before, began = resident(), time.process_time()
data = PackedClips(Path(sys.argv[1]))
opened, holds = time.process_time() - began, resident() - before
count = len(data.ids("train"))
order = np.random.default_rng(0).integers(0, count, 2000).tolist()
began = time.process_time()
for index in order:
    data.read("train", index)
read = (time.process_time() - began) / len(order)
began = time.process_time()
data.fingerprint()
print(json.dumps({"open_us_per_clip": 1e6 * opened / count, "resident_bytes_per_clip": holds / count,
                  "read_us": 1e6 * read, "fingerprint_us_per_clip": 1e6 * (time.process_time() - began) / count}))
"""


def cost_per_clip(sizes: Sequence[int], folder: Path) -> list[Json]:
    """Packing, opening and reading sets of generated clips; each opened in a process of its own, to see its memory."""
    found = []
    pack(Generated(10), folder / "first")
    for size in sizes:
        place = folder / str(size)
        took = spent(lambda place=place, size=size: pack(Generated(size), place))  # type: ignore[misc]
        command = [sys.executable, "-c", PROBE, str(place), str(folder / "first")]
        probe = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = os.stat(place / "clips.parquet").st_size / size
        found.append({"clips": size, "pack_us": 1e6 * took / size, "index_bytes": rows, **json.loads(probe.stdout)})
    return found


def forget(folder: Path) -> None:
    """Drop the shards from the system's cache, as after the reading of a set larger than memory."""
    for path in folder.glob("*.tar"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold_reading(folder: Path) -> Json:
    """An epoch's reading from this machine's disk with nothing cached, in either order: wall seconds."""
    found: Json = {"mib": sum(path.stat().st_size for path in folder.glob("*.tar")) / 2**20}
    for name, shuffle_mib in (("any order", None), ("shuffle_mib: 64", 64)) * 2:
        data = PackedClips(folder, shuffle_mib)
        order = epoch_order(select(data, "train"), 0, 0, data.locality("train"))
        forget(folder)
        began = time.perf_counter()
        read(data, order)
        found[name] = min(found.get(name, float("inf")), time.perf_counter() - began)
    return found


def waiting(folder: Path, steps: int, batch_size: int = 2) -> Json:
    """The share of training's wall time that a step waits for its batch: `cnn14` and `slowfast_r50`, one reader.

    Clips of 10 s at 32 kHz and 32 pictures of 224 x 224.
    """
    pack(Generated(steps * batch_size, 320_000, (3, 32, 224, 224)), folder)
    data, registry = PackedClips(folder), Registry.discover()
    encoders = {}
    for modality, name, fields in (("audio", "cnn14", {}), ("video", "slowfast", {"size": "r50"})):
        (entry,) = [entry for entry in registry.entries("encoder") if entry.component.name == name]
        encoders[modality] = entry.component.make(entry.component.config(**fields), data.media[modality])
    (concat,) = [entry for entry in registry.entries("fusion") if entry.component.name == "concat"]
    dims = {modality: encoder.dims for modality, encoder in encoders.items()}
    model = AVModel(encoders, concat.component.make(concat.component.config(), dims), 10).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batches = in_batches(epoch_order(select(data, "train"), 0, 0), batch_size)
    items = Loader(data, workers=1).batches("train", batches, Skipped(data))
    waited, first, began = 0.0, 0.0, time.perf_counter()
    for number in range(len(batches)):
        asked = time.perf_counter()
        batch = next(items)
        waited += time.perf_counter() - asked
        first = waited if number == 0 else first
        assert batch is not None
        loss = classification_loss(model(batch.inputs), batch.targets, data.task).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    total = time.perf_counter() - began
    return {
        "steps": len(batches),
        "batch_size": batch_size,
        "seconds": total,
        "share_waited": waited / total,
        "share_waited_after_the_first_batch": (waited - first) / (total - first),
    }
