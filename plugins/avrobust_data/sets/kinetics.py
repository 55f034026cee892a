"""`kinetics-sounds`: the clips of Kinetics-400 whose labels can be heard and seen (Arandjelovic and Zisserman 2017)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import DataError, first_of
from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.assembling import Listed, labels_of, media_clips, with_times
from avrobust_data.sets.configs import KineticsSoundsConfig
from avrobust_data.sets.sheets import Part, Sheet, joined, read_sheet
from avrobust_data.suggesting import nearest

_INSTRUMENTS: Final = (
    "accordion, bagpipes, bass guitar, clarinet, drums, guitar, harmonica, keyboard, organ, piano, saxophone, "
    "trombone, trumpet, violin, xylophone"
)

KS_27: Final = (
    *["blowing nose", "bowling", "chopping wood", "laughing"],
    *(f"playing {instrument}" for instrument in _INSTRUMENTS.split(", ")),
    *["ripping paper", "shoveling snow", "shuffling cards", "singing", "tap dancing", "tapping guitar", "tapping pen"],
    "tickling",
)
"""The 27 of the original 34 whose names Kinetics-400 kept."""

RENAMED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "blowing out": ("blowing out candles",),
        "dribbling ball": ("dribbling basketball",),
        "fingerpicking": ("strumming guitar",),
        "mowing the lawn by pushing lawnmower": ("mowing lawn",),
        "patting": (),
        "stomping": ("stomping grapes",),
        "typing": (),
    }
)
"""The 7 of the original 34 (arXiv 1705.08168, appendix A.1, written before Kinetics-400 was released) that Kinetics-400
(arXiv 1705.06950, appendix) names otherwise, and its names. Those are what the 31 and 32 classes in later use have
beside the 27; that "strumming guitar" stands for "fingerpicking" is inferred from that alone. Kinetics-400 has nothing
for "patting" and "typing"."""

_KS_31: Final = (*KS_27, "blowing out candles", "dribbling basketball", "mowing lawn", "stomping grapes")

CLASSES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ks-27": tuple(sorted(KS_27)),
        "ks-31": tuple(sorted(_KS_31)),
        "ks-32": tuple(sorted((*_KS_31, "strumming guitar"))),
        "ks-34": tuple(sorted((*KS_27, *RENAMED))),
    }
)
"""The lists of classes in use, in alphabetical order: the publishers state none."""

_COLUMNS: Final = ("label", "youtube_id", "time_start", "time_end")
_HINT: Final = "; a test list of Kinetics has no labels: take validate.csv to test on, and train.csv to learn from"


def make_kinetics_sounds(config: KineticsSoundsConfig) -> MediaClips:
    """The clips of Kinetics-400 that a copy has, as far as their labels are among the classes.

    Raises:
        DataError: if lists or media cannot be used, or one of your own classes is no label in any list.
    """
    classes = CLASSES[config.classes] if isinstance(config.classes, str) else tuple(map(_blank, config.classes))
    sheets = [(split, read_sheet(file, _COLUMNS, header=True, hint=_HINT)) for split, file in config.listed()]
    if not isinstance(config.classes, str):
        labels = pa.concat_arrays([_labels(sheet) for _, sheet in sheets]).unique().to_pylist()
        for name in classes:
            if name not in labels:
                near = nearest(name, labels)
                raise DataError(f"no clip of {config.source} has the label {name!r}, one of data.with.classes{near}")
    by_label = {name: number for number, name in enumerate(classes)}
    if config.classes == "ks-34":
        by_label |= {label: by_label[name] for name, labels in RENAMED.items() for label in labels}
    clips = joined([_clips(sheet, split, by_label) for split, sheet in sheets])
    if not len(clips):
        raise DataError(f"no clip of {config.source} has one of the {len(classes)} labels {first_of(classes)}")
    order = f"{config.classes}, alphabetical" if isinstance(config.classes, str) else "as given in data.with.classes"
    return media_clips(config, Listed("kinetics-sounds", config.source, clips, classes, "single-label", {}, order))


def _labels(sheet: Sheet) -> pa.StringArray:
    """The labels as the publishers write them; some copies of the lists have underscores for blanks."""
    return pc.replace_substring(sheet.column("label"), "_", " ")


def _blank(name: str) -> str:
    return name.replace("_", " ")


def _clips(sheet: Sheet, split: str, by_label: Mapping[str, int]) -> Part:
    at = pc.index_in(_labels(sheet), pa.array(by_label))
    start, stop = sheet.seconds("time_start"), sheet.seconds("time_end")
    early = pc.indices_nonzero(pc.and_(pc.is_valid(at), pc.less_equal(stop, start))).to_pylist()
    sheet.refuse(early, ["the clip ends before it begins"] * len(early))
    video = sheet.column("youtube_id")
    table = pa.table(
        {
            "id": with_times(video, start, stop),
            "video": video,
            "start": start,
            "stop": stop,
            "split": pa.repeat(split, len(sheet)),
            "label": sheet.column("label"),
        }
    ).filter(pc.is_valid(at))
    chosen = np.array(list(by_label.values()), np.int64)[at.drop_null().to_numpy()]
    labels = labels_of(np.arange(len(chosen)), chosen, len(chosen))
    return Part(sheet, split, np.flatnonzero(at.is_valid()), table.append_column("labels", labels))
