"""Data: decoding, packed clips, what training waits for, the cost of many clips.

    python benchmarks/data.py --manifest CSV [--only PART ...] [--clips 200] [--repeats 5] [--rows 2000000]

The last line is one JSON object.

| part | what is measured |
|---|---|
| `decoding` | clips per second of one process, over loops of PyAV that check nothing, and torchcodec where it loads |
| `seeking` | a window of one second far into a long file, over a loop that seeks and decodes from the keyframe on |
| `packed` | clips per second from shards, over decoding the same files |
| `formats` | the same clips in other formats: microseconds per clip |
| `cold` | an epoch's reading with nothing in the system's cache |
| `per-clip` | packing, opening and reading sets of 1,000 to 100,000 generated clips, and their memory |
| `waiting` | the share of training that waits for shards, with `cnn14` and `slowfast` (r50) at full size |
| `listing` | a manifest of two million rows, listed in a fresh process |
"""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import data_decoding, data_listing, data_shards

Json = dict[str, Any]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="of short clips, with a column path")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; all by default")
    parser.add_argument("--clips", type=int, default=200, help="of the manifest, to decode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", type=float, default=600.0, help="length of the long file in seconds")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000], help="of generated sets")
    parser.add_argument("--steps", type=int, default=3, help="of training with cnn14 and slowfast_r50")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the manifest that is listed")
    parser.add_argument("--out", type=Path, help="receives the JSON object, too")
    asked = parser.parse_args()
    if not asked.manifest.is_file():
        sys.exit(f"no manifest {asked.manifest}: name one of short clips with --manifest")
    torch.set_num_threads(1)
    found: Json = {}
    with tempfile.TemporaryDirectory() as folder:
        parts = _parts(asked, Path(folder))
        for name in asked.only:
            found[name] = parts[name]()
            print(f"{name}: {found[name]}", flush=True)
    line = json.dumps(found)
    if asked.out is not None:
        asked.out.write_text(f"{line}\n", encoding="utf-8")
    print(line)


PARTS = ("decoding", "seeking", "packed", "formats", "cold", "per-clip", "waiting", "listing")


def _parts(asked: argparse.Namespace, folder: Path) -> dict[str, Callable[[], object]]:
    """What measures each part."""

    @cache
    def packed() -> Json:
        return data_shards.packed_over_decoding(asked.manifest, folder / "packed", asked.clips)

    def shards() -> Path:
        packed()
        return folder / "packed"

    def decoding() -> Json:
        with asked.manifest.open(newline="", encoding="utf-8") as file:
            paths = [asked.manifest.parent / row["path"] for row in csv.DictReader(file)][: asked.clips]
        return data_decoding.decoding(paths, asked.repeats)

    return {
        "decoding": decoding,
        "seeking": lambda: data_decoding.seeking(folder, asked.long, asked.repeats),
        "packed": packed,
        "formats": lambda: data_shards.formats(shards(), folder),
        "cold": lambda: data_shards.cold_reading(shards()),
        "per-clip": lambda: data_shards.cost_per_clip(asked.sizes, folder),
        "waiting": lambda: data_shards.waiting(folder / "large", asked.steps),
        "listing": lambda: data_listing.listing(folder, asked.rows),
    }


if __name__ == "__main__":
    main()
