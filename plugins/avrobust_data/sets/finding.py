"""Finding the files of listed clips in a folder that is scanned once: by the names that copies of data sets have."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avrobust_core import DataError
from avrobust_data.images import is_image
from avrobust_data.sets.sheets import SHOWN

_PICTURES: Final = frozenset(
    "3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv qt ts webm wmv".split()  # noqa: SIM905  # as one reads them
)
_SOUNDS: Final = frozenset("aac aif aiff flac m4a mp2 mp3 oga ogg opus wav wma".split())  # noqa: SIM905
"""Suffixes of containers; what lies beside media (texts, thumbnails, downloads that were broken off) is passed over."""

_PREFIXES: Final = ("", "Y", "v_", "video_", "audio_")

_SEPARATORS: Final = {
    "_": r"_[0-9]+(\.[0-9]+)?$",
    "-": r"-[0-9]+(\.[0-9]+)?$",
    "": r"[0-9]{6}$",
}
"""What may stand before times, and how names end that have it; where nothing does, times have six digits."""

_NOTHING_BEFORE: Final = r"[^_-][0-9]{6}$"
"""How names end that have nothing before times, but where a video's own name ends with "_" or "-"."""

_SAMPLE: Final = 1000
"""Clips that tell which names are the commonest."""

Column = Any
"""A pyarrow array, or one in chunks."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The media files below a folder, those preferred first that hold what is asked for.

    Attributes:
        paths: relative to the folder, with "/"; of files, or of folders of images.
        bare: the same without suffix.
        stems: the last parts of them.
        refused: links that lead out of the folder, or to what is not there.
    """

    paths: pa.StringArray
    bare: pa.StringArray
    stems: pa.StringArray
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The files of clips.

    Attributes:
        paths: one for each clip, null where none was found.
        timed: true where the name of the file states the clip's times, so that it is no more than the clip.
        several: for each clip with several files, of which the first was taken, their paths.
    """

    paths: pa.StringArray
    timed: NDArray[np.bool_]
    several: tuple[str, ...]


def scan(root: Path, modalities: Sequence[str], images: bool = False) -> Folder:
    """List the media files below a folder, once. Names that begin with a dot are passed over.

    A link to a file below the folder counts as a file; one to a folder is not followed, since what is below the
    folder is listed anyway.

    Args:
        root: the folder.
        modalities: sound files are listed only where no pictures are asked for, and then come first.
        images: list the folders that have images in them, in place of files.

    Raises:
        DataError: if a folder cannot be read.
    """
    ranks = {} if images else dict.fromkeys(_PICTURES, 1)
    if "video" not in modalities:
        ranks |= dict.fromkeys(_SOUNDS, 0)
    real = os.path.realpath(root)
    found: list[tuple[int, str]] = []
    refused: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        shown = not images or not folder
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = folder + entry.name
                    if entry.is_symlink() and not _is_below(real, os.path.realpath(entry.path)):
                        refused.append(path)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    elif not shown and is_image(entry.name):
                        shown = True
                        found.append((0, folder.removesuffix("/")))
                    else:
                        rank = ranks.get(entry.name.rpartition(".")[2].lower())
                        if rank is not None and entry.is_file():
                            found.append((rank, path))
        except OSError as error:
            raise DataError(f"the folder {os.path.join(root, folder)} cannot be read: {error.strerror}") from error
    found.sort()
    paths = pa.array([path for _, path in found if _is_text(path)], pa.string())
    bare = paths if images else pc.replace_substring_regex(paths, r"\.[^./]*$", "")
    stems = pc.replace_substring_regex(bare, r"(?s)^.*/", "")
    return Folder(paths, bare, stems, tuple(sorted(refused)))


def find(folder: Folder, clips: pa.Table, template: str | None = None) -> Found:
    """Find the file of each clip.

    Without a template the names are tried that copies commonly have, in any folder, the more specific ones first:
    `ID_START_END.*` and `ID_START.*`, times in seconds (30, 000030, 30.0, 30.000) or milliseconds (30000, 030000),
    with "-" in place of "_", or with nothing before times of six digits; `ID.*`; and each of them behind "Y", "v_",
    "video_" or "audio_".

    Args:
        folder: of media.
        clips: with the columns `id`, `video` (the name that files go by), `start`, `stop` (seconds; null: none),
            `label` and `split`.
        template: a path below the folder, with {id}, {start}, {end}, {label} and {split} in it, `id` being the
            video's; a suffix `.*` stands for any.
    """
    clips = clips.select(["video", "start", "stop", "label", "split"]).combine_chunks()
    known = folder.stems
    if template is None:
        ways = _usual(clips, known)
    else:
        known = folder.bare if template.endswith(".*") else folder.paths
        names = partial(_written, template=template.removesuffix(".*"))
        ways = [_Way(names, "{start" in template or "{end" in template)]
    left, places, again = _first(known)
    found = np.full(len(clips), -1, np.int64)
    timed = np.zeros(len(clips), np.bool_)
    for way in ways:
        rows = np.flatnonzero(found < 0)
        if not len(rows) or not len(left):
            break
        at = _places(way, clips.take(pa.array(rows)), left)
        hit = at >= 0
        found[rows[hit]], timed[rows[hit]] = places[at[hit]], way.timed
        free = np.ones(len(left), np.bool_)  # what is taken need not be looked through again
        free[at[hit]] = False
        left, places = left.filter(pa.array(free)), places[free]
    paths = folder.paths.take(pa.array(found, mask=found < 0))
    return Found(paths, timed, _several(folder, known, found, again))


def _is_below(folder: str, path: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _is_text(path: str) -> bool:
    """False for a name that is not UTF-8, which no list can name."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first(names: pa.StringArray) -> tuple[pa.StringArray, NDArray[np.int64], set[int]]:
    """The different names, the place where each comes first, and the places of those that come again."""
    codes = names.dictionary_encode()
    if len(codes.dictionary) == len(names):
        return names, np.arange(len(names)), set()
    _, places, counts = np.unique(codes.indices.to_numpy(), return_index=True, return_counts=True)
    return codes.dictionary, places, set(places[counts > 1].tolist())


def _several(folder: Folder, known: pa.StringArray, found: NDArray[np.int64], again: set[int]) -> tuple[str, ...]:
    """For each clip whose file has a name that others have, their paths; of the later clips only the first path."""
    said: list[str] = []
    for place in [place for place in found.tolist() if place in again] if again else []:
        same = folder.paths.filter(pc.equal(known, known[place])) if len(said) < SHOWN else folder.paths[place:][:1]
        said.append(" and ".join(same.to_pylist()))
    return tuple(said)


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to name files: from clips to names, whether those state the clip's times, and what stands before these."""

    names: Callable[[pa.Table], Column]
    timed: bool
    separator: str = ""


def _written(clips: pa.Table, template: str) -> pa.StringArray:
    """The paths that a template gives; times that are whole seconds are written as whole numbers."""
    columns = [clips[name].to_pylist() for name in ("video", "start", "stop", "label", "split")]
    return pa.array(
        [
            template.format(id=video, start=_whole(start), end=_whole(stop), label=label, split=split)
            for video, start, stop, label, split in zip(*columns, strict=True)
        ],
        pa.string(),
    )


def _whole(seconds: float | None) -> float | int:
    seconds = seconds or 0.0
    return int(seconds) if seconds.is_integer() else seconds


def _places(way: _Way, clips: pa.Table, known: pa.StringArray) -> NDArray[np.int64]:
    """The position of each clip's name among those of files, -1 where there is none."""
    at: NDArray[np.int64] = pc.index_in(way.names(clips), value_set=known).fill_null(-1).to_numpy(zero_copy_only=False)
    return at


def _usual(clips: pa.Table, stems: pa.StringArray) -> list[_Way]:
    """The usual names, the commonest of this folder first, those with times only where there can be some."""
    prefixes = [prefix for prefix in _PREFIXES if not prefix or pc.any(pc.starts_with(stems, prefix)).as_py()]
    bare = [_Way(partial(_with_times, ends=(), written=_TIMES[0], prefix=prefix), False) for prefix in prefixes]
    shortest = pc.min(pc.utf8_length(clips["video"])).as_py() or 0
    long = stems.filter(pc.greater(pc.utf8_length(stems), shortest + 1))  # longer than an ID, or Y and an ID
    separators = [mark for mark, end in _SEPARATORS.items() if pc.any(pc.match_substring_regex(long, end)).as_py()]
    if clips["start"].null_count or not separators:
        return bare
    timed = [
        _Way(partial(_with_times, ends=ends, written=written, prefix=prefix, separator=separator), True, separator)
        for separator in separators
        for ends, written, prefix in product((("start", "stop"), ("start",)), _TIMES if separator else _SIX, prefixes)
    ]
    sample = clips.take(pa.array(np.arange(0, len(clips), max(1, len(clips) // _SAMPLE))))
    names = [way.names(sample) for way in timed]
    there = stems.filter(pc.is_in(stems, pa.concat_arrays(names)))
    hits = [pc.sum(pc.is_in(each, there, skip_nulls=True)).as_py() or 0 for each in names]
    # Names with "_" before six digits end like those with nothing there: without a hit, the latter are not worth a try.
    bare_times = pc.any(pc.match_substring_regex(long, _NOTHING_BEFORE)).as_py()
    worth = [i for i, way in enumerate(timed) if way.separator or bare_times or hits[i]]
    return [timed[i] for i in sorted(worth, key=lambda i: -hits[i])] + bare


def _with_times(
    clips: pa.Table,
    ends: Sequence[str],
    written: Callable[[pa.DoubleArray], pa.StringArray],
    prefix: str,
    separator: str = "_",
) -> pa.StringArray:
    """The names ID_START_END, with as many times as asked for; null where one of them cannot be written so."""
    parts = [clips["video"].combine_chunks(), *(written(clips[name].combine_chunks()) for name in ends)]
    names = pc.binary_join_element_wise(*parts, separator)
    return pc.binary_join_element_wise(prefix, names, "") if prefix else names


def units(times: pa.DoubleArray, per_second: int, width: int = 0, decimals: int = 0) -> pa.StringArray:
    """Times as text: numbers of units, or seconds with decimals; null where they are no whole number of units.

    Args:
        times: in seconds.
        per_second: units.
        width: digits before the point, at least.
        decimals: digits behind it; 0 writes the units themselves.
    """
    values = times.to_numpy(zero_copy_only=False) * per_second
    units = np.round(values)
    exact = np.isfinite(values) & (np.abs(values - units) < 1e-6 * per_second)
    whole = pa.array(np.where(exact, units, 0).astype(np.int64), mask=~exact)
    if not decimals:
        return pc.utf8_lpad(whole.cast(pa.string()), width, "0")
    seconds = pc.divide(whole, per_second)
    rest = pc.subtract(whole, pc.multiply(seconds, per_second))
    return pc.binary_join_element_wise(
        pc.utf8_lpad(seconds.cast(pa.string()), width, "0"), pc.utf8_lpad(rest.cast(pa.string()), decimals, "0"), "."
    )


_TIMES: Final[tuple[Callable[[pa.DoubleArray], pa.StringArray], ...]] = (
    lambda times: units(times, 1, 6),
    lambda times: units(times, 1),
    lambda times: units(times, 1000),
    lambda times: units(times, 1000, 6),
    lambda times: units(times, 10, decimals=1),
    lambda times: units(times, 1000, decimals=3),
)
"""The ways in which copies write seconds: 000030, 30, 30000, 030000 (milliseconds), 30.0, 30.000."""

_SIX: Final = (_TIMES[0], _TIMES[3])
