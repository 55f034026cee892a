"""Listing a manifest of many rows: processor seconds and memory of a fresh process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))

LISTER = """
import json, sys, time, warnings
from pathlib import Path
import torch
from benchmarks.encoder_sides import peak_resident
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig

warnings.simplefilter("ignore")
config = ClipsConfig(manifest=Path(sys.argv[1]), separator="|")
before, began = peak_resident(), time.process_time()
data = make_clips(config)
listed, peak = time.process_time() - began, peak_resident()
ids = {split: data.ids(split) for split in data.splits}
print(json.dumps({"rows": sum(map(len, ids.values())), "classes": len(data.classes), "cpu_s": listed,
                  "peak_mib": peak, "peak_beside_imports_mib": peak - before}))
"""


def write_rows(file: Path, rows: int) -> None:
    """A manifest as AudioSet's: ids of eleven letters, one to three of 527 labels, segments of ten seconds."""
    rng = np.random.default_rng(0)
    with file.open("w", encoding="utf-8") as out:
        out.write("id,path,start,stop,labels,split\n")
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            ids = ["".join(letters) for letters in _LETTERS[rng.integers(0, 64, (count, 11))]]
            begins, labels = rng.integers(0, 600, count).tolist(), rng.integers(0, 527, (count, 3)).tolist()
            numbers = rng.integers(1, 4, count).tolist()
            for i, (name, begin, some, number) in enumerate(zip(ids, begins, labels, numbers, strict=True), start):
                split = "train" if i % 100 else "test"
                named = "|".join(f"label {label}" for label in some[:number])
                out.write(f"{name}_{begin},{name[:2]}/{name}.mp4,{begin},{begin + 10},{named},{split}\n")


def listing(folder: Path, rows: int) -> dict[str, Any]:
    """Write a manifest of so many rows, whose files are not there, and list it in a process of its own."""
    file = folder / "rows.csv"
    write_rows(file, rows)
    done = subprocess.run([sys.executable, "-c", LISTER, str(file)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"manifest_mib": file.stat().st_size / 2**20}
