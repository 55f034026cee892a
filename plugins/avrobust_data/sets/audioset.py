"""`audioset`: ten-second segments of YouTube videos with one or more of 527 labels (Gemmeke et al. 2017)."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.assembling import Listed, labels_of, media_clips
from avrobust_data.sets.class_lists import indexed_classes
from avrobust_data.sets.configs import AudioSetConfig
from avrobust_data.sets.sheets import SHOWN, Part, joined, read_sheet

PUBLISHED: Final = {
    "balanced_train_segments.csv": 22_160,
    "eval_segments.csv": 20_371,
    "unbalanced_train_segments.csv": 2_041_789,
}
"""Segments in the official lists, as their second lines state."""

_COLUMNS: Final = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def make_audioset(config: AudioSetConfig) -> MediaClips:
    """The segments that a copy has.

    Raises:
        DataError: if lists or media cannot be used; a label that the class list lacks is named with file:line.
    """
    mids, classes = indexed_classes(config.class_list)
    parts = [_segments(file, split, mids, config.class_list) for split, file in config.listed()]
    published: dict[str, int | None] = {}
    for part in parts:
        known, so_far = PUBLISHED.get(part.sheet.file.name), published.get(part.split, 0)
        published[part.split] = None if known is None or so_far is None else so_far + known
    order = f"the index column of {config.class_list.name}"
    listed = Listed("audioset", config.source, joined(parts), classes, "multi-label", published, order)
    return media_clips(config, listed)


def _segments(file: Path, split: str, mids: pa.StringArray, class_list: Path) -> Part:
    sheet = read_sheet(file, _COLUMNS, header=None, tight=True)
    given = pc.split_pattern(sheet.column("positive_labels"), ",")
    rows, names = pc.list_parent_indices(given).to_numpy(), pc.utf8_trim_whitespace(pc.list_flatten(given))
    labels = pc.index_in(names, mids)
    unknown = pc.indices_nonzero(pc.is_null(labels)).to_pylist()
    texts = [f"the label {names[i].as_py()!r} is not in {class_list}" for i in unknown[:SHOWN]]
    sheet.refuse([int(rows[i]) for i in unknown], texts)
    start, stop = sheet.seconds("start_seconds"), sheet.seconds("end_seconds")
    early = pc.indices_nonzero(pc.less_equal(stop, start)).to_pylist()
    sheet.refuse(early, ["the segment ends before it begins"] * len(early))
    ids = sheet.column("YTID")
    nameless = pc.indices_nonzero(pc.equal(ids, "")).to_pylist()
    sheet.refuse(nameless, ["the YTID is empty"] * len(nameless))
    clips = pa.table(
        {
            "id": ids,
            "video": ids,
            "start": start,
            "stop": stop,
            "labels": labels_of(rows, labels.to_numpy().astype(np.int64), len(sheet)),
            "split": pa.repeat(split, len(sheet)),
            "label": pc.list_element(given, 0),
        }
    )
    return Part(sheet, split, np.arange(len(sheet)), clips)
