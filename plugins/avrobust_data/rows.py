"""A manifest's rows, and what they say together: one file in several rows, labels that look alike, empty classes."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from avrobust_core import first_of

_NUMBER: Final = re.compile(r"([+-]?[0-9]+)(\.0+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of a manifest.

    Attributes:
        id: the column `id`, or the path where there is none.
        path: as written in the manifest.
        labels: class names in Unicode's composed form (NFC); one if the task is single-label.
        split: its split.
        group: the column `group`; None where there is none.
        line: where it ends in the file.
    """

    id: str
    path: str
    labels: tuple[str, ...]
    split: str
    group: str | None = None
    line: int = field(default=0, compare=False)


def number_of(label: str) -> int | None:
    """The whole number that a label is, also as tables of floats write it ("7.0"); None if it is none."""
    found = _NUMBER.fullmatch(label)
    return int(found[1]) if found else None


def files_of(rows: Iterable[Row], root: Path) -> list[Hashable]:
    """For each row something that it shares with just the rows of the same file, by whatever path: links, too.

    Args:
        rows: of a manifest.
        root: what relative paths are relative to.
    """
    folder = os.fspath(root)
    return [_file(os.path.join(folder, row.path)) for row in rows]


def clashes(rows: Iterable[Row], files: Iterable[Hashable]) -> Iterator[tuple[int, str]]:
    """Rows whose file an earlier row has in another split or with other labels: line, and what is wrong with it.

    Args:
        rows: of a manifest.
        files: of the rows, as `files_of` gives them.
    """
    first: dict[Hashable, Row] = {}
    for row, file in zip(rows, files, strict=True):
        earlier = first.setdefault(file, row)
        if earlier is row:
            continue
        named = f"that of line {earlier.line}" + (f" ({earlier.path!r})" if earlier.path != row.path else "")
        if earlier.split != row.split:
            yield (
                row.line,
                f"its file {row.path!r} is {named}, which is in split {earlier.split!r}, not {row.split!r}; keep it in "
                "one split, or what is tested was learned",
            )
        elif set(earlier.labels) != set(row.labels):
            yield (
                row.line,
                f"its file {row.path!r} is {named}, which is labelled {' and '.join(map(repr, earlier.labels))}, not "
                f"{' and '.join(map(repr, row.labels))}; keep one row with all its labels",
            )


def remarks(rows: Sequence[Row], files: Sequence[Hashable]) -> Iterator[str]:
    """Remarks on what looks wrong but may be meant, one sentence each; arguments as for `clashes`."""
    counts: dict[str, int] = defaultdict(int)
    by_split: dict[str, dict[str, int]] = defaultdict(dict)  # the first line of each class
    first: dict[Hashable, int] = {}
    again: list[tuple[int, int]] = []
    for row, file in zip(rows, files, strict=True):
        earlier = first.setdefault(file, row.line)
        if earlier != row.line:
            again.append((row.line, earlier))
        for label in row.labels:
            counts[label] += 1
            by_split[row.split].setdefault(label, row.line)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        alike[_look(label)].append(label)
    groups = [
        " and ".join(f"{label!r} ({counts[label]})" for label in sorted(labels))
        for labels in alike.values()
        if len(labels) > 1
    ]
    if groups:
        yield (
            "labels that differ in case, blanks, invisible characters or leading zeros alone are different classes "
            f"(clips in brackets): {first_of(groups)}"
        )
    learned = by_split.get("train")
    for split, labels in by_split.items():
        missing = [f"{label!r} (line {line})" for label, line in labels.items() if learned and label not in learned]
        if missing:
            yield (
                f"{len(missing)} of the {len(labels)} classes of split {split!r} have no clip in 'train', so that none "
                f"can be learned: {first_of(missing)}"
            )
    if again:
        lines = [f"line {line} has that of line {earlier}" for line, earlier in again]
        yield f"{len(again)} rows have a file that an earlier row has, and count again: {first_of(lines)}"


class Placed(Protocol):
    """A clip's file, and the split that it is in."""

    @property
    def path(self) -> str: ...
    @property
    def split(self) -> str: ...


def copies(rows: Iterable[Placed], contents: Iterable[str]) -> Iterator[str]:
    """A remark on files with the same content in two splits: one sentence, if there are any.

    Args:
        rows: of a listing, none of whose files is in two splits by itself.
        contents: a digest for each, "" where there is none.
    """
    first: dict[str, Placed] = {}
    found = []
    for row, content in zip(rows, contents, strict=True):
        earlier = first.setdefault(content, row)
        if content and earlier.split != row.split:
            found.append(f"{row.path!r} in {row.split!r} and {earlier.path!r} in {earlier.split!r}")
    if found:
        copies = f"{len(found)} files are copies of one in another split"
        yield f"{copies}, as if what is tested was learned: {first_of(found)}"


def _file(path: str) -> Hashable:
    """Device and number of a file; of one that is not there its path, without going down and up again."""
    for candidate in (path, os.path.normpath(path)):  # the second goes up from a folder that may not be there
        try:
            found = os.stat(candidate)
        except (OSError, ValueError):
            continue
        if found.st_ino:  # else the file system has no numbers
            return found.st_dev, found.st_ino
    return os.path.normpath(path)


def _look(label: str) -> str:
    """The same text for two labels that a reader takes for one."""
    number = number_of(label)
    if number is not None:
        return str(number)
    plain = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())
