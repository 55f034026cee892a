"""From listed clips and a folder of media to a data set: its files, its parts of videos, what is missing."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avrobust_core import AvrobustWarning, DataError, Task, derive_seed, first_of
from avrobust_data.clip_files import length_of
from avrobust_data.faults import MediaError
from avrobust_data.listing import SCHEMA, Listing, read_ids
from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.configs import MediaFolderConfig, PlacedConfig
from avrobust_data.sets.finding import Folder, Found, find, scan, units

_PROBED: Final = 16
"""Files whose lengths tell whether a copy holds clips or whole videos."""

_LONGER: Final = 1.0
"""Seconds by which a file may be longer than a clip that it is said to be."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The clips that a data set's lists name.

    Attributes:
        name: of the data set.
        source: the lists, for messages.
        clips: `id`, unique; `video`, the name that files go by; `start`, `stop` (seconds in the video; null where a
            file always is the clip); `labels` (list<int32>, ascending positions in `classes`); `split`; `label`, a
            folder's name that files may lie in.
        classes: the class names, in the order of the targets.
        task: single-label or multi-label.
        published: the number of clips that the publishers state for each split; None where nothing is known.
        order: where the order of the classes comes from.
    """

    name: str
    source: str
    clips: pa.Table
    classes: tuple[str, ...]
    task: Task
    published: Mapping[str, int | None] = field(default_factory=dict)
    order: str = ""


def labels_of(rows: NDArray[np.int64], classes: NDArray[np.int64], count: int) -> pa.ListArray:
    """Lists of labels, ascending, none twice, from pairs.

    Args:
        rows: (n,) clips.
        classes: (n,) their labels.
        count: the number of clips.
    """
    span = int(classes.max(initial=0)) + 1
    pairs = np.sort(rows * span + classes, kind="stable")  # nearly sorted already
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    ends = np.searchsorted(pairs, np.arange(count + 1) * span)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array((pairs % span).astype(np.int32)))


def with_times(video: pa.StringArray, *seconds: pa.DoubleArray) -> pa.StringArray:
    """Clips' ids: the video's with times of six digits behind it: "x_000030", or "x_000030.500" where it must be."""
    times = [pc.coalesce(units(each, 1, width=6), units(each, 1000, width=6, decimals=3)) for each in seconds]
    return pc.binary_join_element_wise(video, *times, "_")


def media_clips(config: MediaFolderConfig, listed: Listed) -> MediaClips:
    """The clips of a data set whose files are in a folder.

    What looks wrong but may be meant is an `AvrobustWarning`: files that are missing, clips with several files, links
    that are refused, classes without a clip to learn from, videos in several splits.

    Raises:
        DataError: if the folder cannot be read, more clips than allowed have no file, no clip is left, or files that
            hold clips and files that hold whole videos are mixed.
    """
    media, audio = config.places()
    clips = listed.clips if config.ids is None else _chosen(listed.clips, config.ids)
    if not len(clips):
        raise DataError(f"{listed.source} lists no clip" + (f" that {config.ids} names" if config.ids else ""))
    files = config.files if "video" in config.modalities or config.audio is None else config.audio_files
    found = _found(config, media, config.modalities, clips, files)
    there = pc.is_valid(found.paths)
    parts = _parts(config, media, clips, found)
    sound = pa.nulls(len(clips), pa.string())
    if audio is not None:
        heard = _found(config, audio, ("audio",), clips, config.audio_files)
        there = pc.and_(there, pc.is_valid(heard.paths))
        _refuse_other_parts(clips, parts, _parts(config, audio, clips, heard), there)
        sound = pc.binary_join_element_wise(os.path.abspath(audio), heard.paths, "/")
    table = _table(clips, found.paths, sound, parts).filter(there).combine_chunks()
    said = _said(listed, clips, table)
    warn_of_classes(listed.name, listed.classes, table)
    _warn_of_leaks(listed, clips.filter(there))
    listing = Listing(table, listed.classes, listed.task, listed.source)
    splits = pc.unique(clips["split"]).to_pylist()
    order = [name for name in ("train", "val", "test") if name in splits]
    return MediaClips(listing, media, [*order, *(name for name in splits if name not in order)], config, said)


def scanned(config: PlacedConfig, place: Path, modalities: Sequence[str]) -> Folder:
    """The media files below one of a configuration's folders; of links that are refused is warned.

    Args:
        config: says whether pictures are folders of images.
        place: the folder.
        modalities: looked for in it.

    Raises:
        DataError: if it is no folder, or cannot be read.
    """
    if not place.is_dir():
        field = "media" if place == config.media else "audio"
        raise DataError(f"data.with.{field} is {place}, which is not a folder")
    folder = scan(place, modalities, images=config.has_images and "video" in modalities)
    if folder.refused:
        _warn(
            f"{len(folder.refused)} links below {place} lead out of it or nowhere and are not followed: "
            f"{first_of(folder.refused)}; give data.with the folder that they lead to"
        )
    return folder


def _found(
    config: MediaFolderConfig, place: Path, modalities: Sequence[str], clips: pa.Table, files: str | None
) -> Found:
    """The files of clips in one of the folders.

    Raises:
        DataError: if too many have none.
    """
    found = find(scanned(config, place, modalities), clips, files)
    if found.several:
        _warn(f"{len(found.several)} clips have several files, the first of which is read: {first_of(found.several)}")
    missing = clips["id"].filter(pc.is_null(found.paths)).combine_chunks()
    field = "files" if place == config.media else "audio_files"
    hint = f"; say in data.with.{field} how files are named, e.g. '{{id}}_{{start:06d}}.mp4'"
    refuse_missing(place, missing, len(clips), config.max_missing, hint)
    return found


def _refuse_other_parts(
    clips: pa.Table, parts: NDArray[np.bool_], heard: NDArray[np.bool_], there: pa.BooleanArray
) -> None:
    """Refuse pictures that are cut beside sound that is whole, or the reverse."""
    other = np.flatnonzero((parts != heard) & np.asarray(there))
    if len(other):
        ids = clips["id"].take(pa.array(other[:1000])).to_pylist()
        raise DataError(
            f"of {len(other)} clips the pictures' file is a whole video and the sound's no more than the clip, or the "
            f"reverse: {first_of(ids)}; cut both or neither, and say data.with.segments: cut or whole"
        )


def _warn_of_leaks(listed: Listed, clips: pa.Table) -> None:
    """Warn of videos that have clips in several splits."""
    pairs = clips.select(["video", "split"]).group_by(["video", "split"], use_threads=False).aggregate([])
    if len(pairs) == pc.count_distinct(pairs["video"]).as_py():
        return
    counts = pairs.group_by("video", use_threads=False).aggregate([("split", "count")])
    videos = counts.filter(pc.greater(counts["split_count"], 1))["video"].to_pylist()
    _warn(
        f"{listed.name}: {len(videos)} videos have clips in several splits, as if what is tested was learned: "
        f"{first_of(videos)}"
    )


def _chosen(clips: pa.Table, file: Path) -> pa.Table:
    """The clips that a file names by their ids, or by their videos'."""
    names = pa.array(dict.fromkeys(read_ids(file)), pa.string())
    keep = pc.or_(pc.is_in(clips["id"], names), pc.is_in(clips["video"], names))
    known = pc.or_(pc.is_in(names, clips["id"].combine_chunks()), pc.is_in(names, clips["video"].combine_chunks()))
    unknown = names.filter(pc.invert(known))
    if len(unknown):
        _warn(f"{len(unknown)} of the {len(names)} ids in {file} are in no list: {first_of(unknown.to_pylist())}")
    return clips.filter(keep)


def refuse_missing(media: Path, missing: Sequence[object], total: int, allowed: float, hint: str) -> None:
    """Warn of listed clips that have no file.

    Args:
        media: the folder that was searched.
        missing: their ids.
        total: listed clips.
        allowed: the share of them that may be missing.
        hint: what else to do: "; ...".

    Raises:
        DataError: if more are missing, or all.
    """
    if not len(missing):
        return
    named = ", ".join(str(each) for each in missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    what = f"{len(missing)} of the {total} listed clips have no file below {media}: {named}"
    if len(missing) == total:
        raise DataError(f"{what}{hint}")
    if len(missing) > allowed * total:
        raise DataError(
            f"{what}; that is more than the allowed share of {allowed:g}: raise max_missing if this copy has no "
            f"more{hint}"
        )
    _warn(f"{what}; they are left out")


def warn_of_classes(name: str, classes: Sequence[str], table: pa.Table) -> None:
    """Warn of classes that no clip of the split "train" has, if there is such a split."""
    learned = table.filter(pc.equal(table["split"].cast(pa.string()), "train"))["labels"]
    counts = np.bincount(pc.list_flatten(learned).to_numpy(), minlength=len(classes))
    missing = [repr(classes[i]) for i in np.flatnonzero(counts == 0).tolist()]
    if len(learned) and missing:
        _warn(
            f"{name}: {len(missing)} of the {len(classes)} classes have no clip in 'train', so that none can be "
            f"learned: {first_of(missing)}"
        )


def _parts(config: MediaFolderConfig, place: Path, clips: pa.Table, found: Found) -> NDArray[np.bool_]:
    """For each clip, whether its file is a video that it is a part of."""
    parts: NDArray[np.bool_] = np.asarray(clips["start"].is_valid())
    if config.segments == "auto":
        parts = parts & ~found.timed & np.asarray(found.paths.is_valid())
        whole = _are_whole(config, place, clips, found, np.flatnonzero(parts))
    else:
        whole = config.segments == "whole"
    return parts if whole else np.zeros_like(parts)


def _are_whole(config: MediaFolderConfig, place: Path, clips: pa.Table, found: Found, rows: NDArray[np.int64]) -> bool:
    """Whether files are longer than their clips, asked of a few whose clips begin late.

    Raises:
        DataError: if some are and some are not.
    """
    start, stop = (clips[name].to_numpy() for name in ("start", "stop"))
    late = rows[start[rows] > np.nan_to_num(stop[rows] - start[rows]) + _LONGER]
    ids = clips["id"]
    chosen = sorted((late if len(late) else rows).tolist(), key=lambda row: derive_seed("probe", ids[row].as_py()))
    longer: dict[bool, list[str]] = {True: [], False: []}
    for row in chosen[:_PROBED]:
        path = found.paths[row].as_py()
        try:
            seconds = length_of(place / path, config)
        except MediaError:  # reading will tell
            continue
        if seconds is None:
            continue
        longer[seconds > stop[row] - start[row] + _LONGER].append(f"{path} ({seconds:.1f} s)")
    if longer[True] and longer[False]:
        raise DataError(
            f"some files below {place} are longer than their clips, as if they were whole videos "
            f"({first_of(longer[True])}), others are not ({first_of(longer[False])}): say data.with.segments: cut or "
            "whole, and keep the two in different folders"
        )
    return bool(longer[True])


def _table(clips: pa.Table, paths: pa.StringArray, sound: pa.StringArray, parts: NDArray[np.bool_]) -> pa.Table:
    none = pa.scalar(None, pa.float64())
    part = pa.array(parts)
    alone = pc.count_distinct(clips["video"]).as_py() == len(clips)
    columns = {
        "id": clips["id"],
        "path": paths,
        "sound": sound,
        "start": pc.if_else(part, clips["start"], none),
        "stop": pc.if_else(part, clips["stop"], none),
        "labels": clips["labels"],
        "split": clips["split"],
        "group": pa.nulls(len(clips), pa.string()) if alone else clips["video"],
    }
    return pa.table({name: column.cast(SCHEMA.field(name).type) for name, column in columns.items()}, schema=SCHEMA)


def _said(listed: Listed, clips: pa.Table, table: pa.Table) -> dict[str, Any]:
    """What is published, listed, found and missing, for `Dataset.provenance`."""
    counts = {"listed": _by_split(clips), "found": _by_split(table)}
    counts["missing"] = {split: n - counts["found"].get(split, 0) for split, n in counts["listed"].items()}
    words = []
    for split, count in counts["listed"].items():
        known = listed.published.get(split)
        published = f", {known} published" if known is not None else ""
        words.append(f"{split}: {count - counts['missing'][split]} found ({count} listed{published})")
    return {
        "summary": f"{listed.name}: {'; '.join(words)}",
        "published": dict(listed.published),
        **counts,
        "class_order": listed.order,
    }


def _by_split(table: pa.Table) -> dict[str, int]:
    counts = pc.value_counts(table["split"].cast(pa.string()).combine_chunks()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def _warn(message: str) -> None:
    warnings.warn(message, AvrobustWarning, stacklevel=3)
