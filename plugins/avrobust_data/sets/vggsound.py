"""`vggsound`: ten seconds of videos in which a sound's source is seen (Chen et al. 2020); VGGSounder's labels, too."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import AvrobustWarning, DataError, Task, first_of
from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.assembling import Listed, labels_of, media_clips, with_times
from avrobust_data.sets.class_lists import class_lines
from avrobust_data.sets.configs import VGGSoundConfig
from avrobust_data.sets.sheets import Part, joined, read_sheet
from avrobust_data.suggesting import nearest

CLASSES: Final = 309
"""Published; the class lists in use are alphabetical."""

_SECONDS: Final = 10.0
_TAGS: Final = {"any": ("A", "V", "AV"), "audible": ("A", "AV"), "visible": ("V", "AV"), "both": ("AV",)}


def make_vggsound(config: VGGSoundConfig) -> MediaClips:
    """The clips that a copy has.

    Raises:
        DataError: if lists or media cannot be used.
    """
    sheet = read_sheet(config.clips, ("video", "start", "label", "split"), header=False)
    label, video, start = sheet.column("label"), sheet.column("video"), sheet.seconds("start")
    classes, order = _classes(config, label)
    numbers = pc.index_in(label, pa.array(classes, pa.string()))
    unknown = pc.indices_nonzero(pc.is_null(numbers)).to_pylist()
    texts = [f"the label {label[row].as_py()!r} is no class{nearest(label[row].as_py(), classes)}" for row in unknown]
    sheet.refuse(unknown, texts)
    rows = np.arange(len(sheet))
    columns = {
        "id": with_times(video, start),
        "video": video,
        "start": start,
        "stop": pc.add(start, _SECONDS),
        "split": sheet.column("split"),
        "label": label,
        "labels": labels_of(rows, numbers.to_numpy().astype(np.int64), len(rows)),
    }
    clips = joined([Part(sheet, "", rows, pa.table(columns))])
    task: Task = "single-label"
    if config.vggsounder is not None:
        clips, task = _relabelled(clips, classes, config.vggsounder, _TAGS[config.tags]), "multi-label"
    return media_clips(config, Listed("vggsound", str(config.clips), clips, classes, task, {}, order))


def _classes(config: VGGSoundConfig, labels: pa.StringArray) -> tuple[tuple[str, ...], str]:
    """The class names, and where their order comes from."""
    if config.class_list is not None:
        return class_lines(config.class_list), config.class_list.name
    classes = tuple(sorted(labels.unique().to_pylist()))
    if len(classes) < 2:
        raise DataError(f"{config.clips}: all clips are of the class {classes[0]!r}; a classifier needs two at least")
    if len(classes) != CLASSES:
        _warn(
            f"{config.clips} has {len(classes)} labels, not the {CLASSES} that are published; their numbers are not "
            "those of models of the whole set: give data.with.class_list"
        )
    return classes, "alphabetical"


def _relabelled(clips: pa.Table, classes: Sequence[str], file: Path, tags: Sequence[str]) -> pa.Table:
    """The clips with VGGSounder's labels in the split "test"; test clips without one are left out."""
    sheet = read_sheet(file, ("video_id", "label", "modality"), header=True)
    modality, label = sheet.column("modality"), sheet.column("label")
    wrong = pc.indices_nonzero(pc.invert(pc.is_in(modality, pa.array(_TAGS["any"])))).to_pylist()
    sheet.refuse(wrong, [f"the modality {modality[row].as_py()!r} is none of A, V, AV" for row in wrong])
    test = np.flatnonzero(pc.equal(clips["split"], "test"))
    row = pc.index_in(sheet.column("video_id"), clips["id"].take(pa.array(test)).combine_chunks())
    number = pc.index_in(label, pa.array(classes, pa.string()))
    counted = pc.is_in(modality, pa.array(tags))
    strange = label.filter(pc.and_(counted, pc.is_null(number))).unique().to_pylist()
    if strange:
        _warn(f"{file}: labels that are none of the {len(classes)} classes are passed over: {first_of(strange)}")
    keep = np.flatnonzero(pc.and_(counted, pc.and_(pc.is_valid(row), pc.is_valid(number))))
    found = test[row.take(pa.array(keep)).to_numpy()], number.take(pa.array(keep)).to_numpy().astype(np.int64)
    others = np.setdiff1d(np.arange(len(clips)), test)
    old = pc.list_flatten(clips["labels"]).to_numpy()[others]
    labels = labels_of(np.r_[others, found[0]], np.r_[old, found[1]], len(clips))
    labelled: Any = pc.greater(pc.list_value_length(labels), 0)
    without = len(clips) - pc.sum(labelled).as_py()
    if without:
        _warn(f"{without} of the {len(test)} test clips have no label in {file} that counts, and are left out")
    if without == len(test):
        raise DataError(f"{file} labels no test clip of VGGSound; give VGGSounder's own vggsounder.csv")
    columns = clips.drop_columns("labels").append_column("labels", labels)
    return columns.filter(labelled)


def _warn(message: str) -> None:
    warnings.warn(message, AvrobustWarning, stacklevel=3)
