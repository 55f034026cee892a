"""`ave`: ten-second videos of events that are heard and seen, of 28 classes (Tian et al. 2018)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import AvrobustWarning, first_of
from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.assembling import Listed, labels_of, media_clips
from avrobust_data.sets.class_lists import class_lines
from avrobust_data.sets.configs import AVEConfig
from avrobust_data.sets.sheets import SHOWN, Part, read_sheet
from avrobust_data.suggesting import nearest

CLASSES: Final = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
"""In the order in which Annotations.txt first names them, which is that of the labels in later use."""

PUBLISHED: Final = {"trainSet.txt": 3_339, "valSet.txt": 402, "testSet.txt": 402}
"""Rows of the official lists, 4,143 in all."""

_COLUMNS: Final = ("Category", "VideoID", "Quality", "StartTime", "EndTime")


def make_ave(config: AVEConfig) -> MediaClips:
    """The videos that a copy has.

    A video in several rows of one class and one split is one clip; in rows of several classes or splits, it is a clip
    of each, the second with the id "VIDEO#2", and a warning says so.

    Raises:
        DataError: if lists or media cannot be used; a class that is not among the known ones is named with file:line.
    """
    classes: tuple[str, ...] = CLASSES
    order = "as Annotations.txt first names them"
    if config.class_list is not None:
        classes, order = class_lines(config.class_list), config.class_list.name
    parts = [_videos(file, split, classes) for split, file in config.listed()]
    clips = _numbered(pa.concat_tables([part.clips for part in parts]), config.source)
    published: dict[str, int | None] = {}
    for part in parts:
        known, so_far = PUBLISHED.get(part.sheet.file.name), published.get(part.split, 0)
        published[part.split] = None if known is None or so_far is None else so_far + known
    return media_clips(config, Listed("ave", config.source, clips, classes, "single-label", published, order))


def _videos(file: Path, split: str, classes: Sequence[str]) -> Part:
    sheet = read_sheet(file, _COLUMNS, header=None, delimiter="&")
    names = sheet.column("Category")
    numbers = pc.index_in(names, pa.array(classes, pa.string()))
    unknown = pc.indices_nonzero(pc.is_null(numbers)).to_pylist()
    wrong = [names[row].as_py() for row in unknown[:SHOWN]]
    texts = [f"the class {name!r} is unknown{nearest(name, classes)}" for name in wrong]
    sheet.refuse(unknown, texts)
    rows = np.arange(len(sheet))
    none = pa.nulls(len(sheet), pa.float64())
    columns = {
        "id": sheet.column("VideoID"),
        "video": sheet.column("VideoID"),
        "start": none,
        "stop": none,
        "labels": labels_of(rows, numbers.to_numpy().astype(np.int64), len(rows)),
        "split": pa.repeat(split, len(rows)),
        "label": names,
    }
    return Part(sheet, split, rows, pa.table(columns))


def _numbered(clips: pa.Table, source: str) -> pa.Table:
    """The rows that are clips, each with an id of its own."""
    keys = zip(*(clips[name].to_pylist() for name in ("video", "label", "split")), strict=True)
    seen: dict[str, list[tuple[str, str]]] = {}
    keep, ids = [], []
    for row, (video, label, split) in enumerate(keys):
        earlier = seen.setdefault(video, [])
        if (label, split) not in earlier:
            earlier.append((label, split))
            keep.append(row)
            ids.append(video if len(earlier) == 1 else f"{video}#{len(earlier)}")
    several = [video for video, given in seen.items() if len({label for label, _ in given}) > 1]
    if several:
        warnings.warn(
            f"{source}: {len(several)} videos have several classes, and count as a clip of each: {first_of(several)}",
            AvrobustWarning,
            stacklevel=3,
        )
    return clips.take(pa.array(keep)).set_column(0, "id", pa.array(ids, pa.string()))
