"""`folder`: media files in folders that are named as their classes."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from avrobust_core import DataError, derive_seed, first_of
from avrobust_data.listing import listing_of
from avrobust_data.manifest import ordered
from avrobust_data.media_clips import MediaClips
from avrobust_data.sets.assembling import refuse_missing, scanned, warn_of_classes
from avrobust_data.sets.configs import FolderConfig, files_of
from avrobust_data.sets.sheets import read_lines
from avrobust_data.suggesting import nearest

_NUMBERED: Final = re.compile(r"^(.*\S)\s+\d+$")
"""A line of a list with the class's number behind the path, as UCF101 has them."""


def make_folder(config: FolderConfig) -> MediaClips:
    """The files of a folder: SPLIT/CLASS/FILE; or CLASS/FILE, where lists or shares say what the splits are.

    Raises:
        DataError: if the folder or a list cannot be used, a file lies outside of a class's folder, or a class's name is
            none of those given.
    """
    media, audio = config.places()
    paths = scanned(config, media, config.modalities).paths.sort().to_pylist()
    if not paths:
        what = "folder of images" if config.has_images else "media file"
        raise DataError(f"{media} has no {what} below it that can hold {' and '.join(config.modalities)}")
    splits = _splits(config, media, paths)
    depth = 1 if config.lists is None and config.shares is None else 0
    paths = [path for path in paths if path in splits]
    sounds = _sounds(config, audio, paths) if audio is not None else dict.fromkeys(paths)
    paths = [path for path in paths if path in sounds]
    shallow = [path for path in paths if path.count("/") <= depth]
    if shallow:
        layout = "SPLIT/CLASS/FILE (or state data.with.lists or shares)" if depth else "CLASS/FILE"
        raise DataError(f"files below {media} do not lie in {layout}: {first_of(shallow)}")
    labels = [unicodedata.normalize("NFC", path.split("/")[depth]) for path in paths]
    classes = config.classes or ordered(set(labels))
    if len(classes) < 2:
        raise DataError(f"{media}: all files are of the class {classes[0]!r}; a classifier needs two at least")
    number = {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}
    unknown = [label for label in dict.fromkeys(labels) if label not in number]
    if unknown:
        near = nearest(unknown[0], classes)
        raise DataError(f"{media} has folders that data.with.classes does not name: {first_of(unknown)}{near}")
    columns: dict[str, Sequence[object]] = {
        "id": paths,
        "path": paths,
        "sound": [sounds[path] for path in paths],
        "labels": [[number[label]] for label in labels],
        "split": [splits[path] for path in paths],
    }
    listing = listing_of(columns, classes, "single-label", str(media))
    warn_of_classes("folder", classes, listing.table)
    names = list(dict.fromkeys(splits.values()))
    order = [name for name in ("train", "val", "test") if name in names]
    return MediaClips(listing, media, [*order, *(name for name in names if name not in order)], config)


def _sounds(config: FolderConfig, audio: Path, paths: Sequence[str]) -> Mapping[str, str]:
    """The file with the sound of each clip that has one.

    Raises:
        DataError: if too many have none.
    """
    folder = scanned(config, audio, ("audio",))
    by_name = dict(zip(reversed(folder.bare.to_pylist()), reversed(folder.paths.to_pylist()), strict=True))
    names = {path: path if config.has_images else str(PurePosixPath(path).with_suffix("")) for path in paths}
    missing = [path for path, name in names.items() if name not in by_name]
    hint = "; the sound of CLASS/FILE.mp4 is looked for in CLASS/FILE.wav, or with another suffix of sound"
    refuse_missing(audio, missing, len(paths), config.max_missing, hint)
    base = os.path.abspath(audio)
    return {path: f"{base}/{by_name[name]}" for path, name in names.items() if name in by_name}


def _splits(config: FolderConfig, media: Path, paths: Sequence[str]) -> Mapping[str, str]:
    """The split of each file that is in one."""
    if config.shares is not None:
        return {path: _drawn(config.shares, path) for path in paths}
    if config.lists is None:
        return {path: path.split("/")[0] for path in paths}
    by_name = {str(PurePosixPath(path).with_suffix("")): path for path in paths} | {path: path for path in paths}
    splits: dict[str, str] = {}
    named: list[tuple[str, bool]] = []
    for split, file in files_of(config.lists):
        for line in read_lines(file):
            path = next((by_name[name] for name in _names(line) if name in by_name), None)
            named.append((line, path is not None))
            if path is not None and splits.setdefault(path, split) != split:
                raise DataError(f"{file}: {path!r} is in split {splits[path]!r}, too; keep it in one of them")
    missing = [line for line, found in named if not found]
    hint = "; each line must be a path below data.with.media"
    refuse_missing(media, missing, len(named), config.max_missing, hint)
    return splits


def _names(line: str) -> Iterator[str]:
    """The paths that a line may mean."""
    yield line.removeprefix("./")
    found = _NUMBERED.match(line)
    if found:
        yield found[1].removeprefix("./")


def _drawn(shares: Mapping[str, float], path: str) -> str:
    drawn, end = derive_seed("folder", path) / 2**63, 0.0
    for split, share in shares.items():
        end += share
        if drawn < end:
            return split
    return split
