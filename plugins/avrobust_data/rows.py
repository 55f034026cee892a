"""A manifest's rows, and what they say together: one file in several rows, labels that look alike, empty classes."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avrobust_core import first_of

SHOWN: Final = 5
"""Rows that a message shows; the others are counted."""

_NO_VALUE: Final = frozenset({"nan", "null", "n/a", "#n/a", "<na>"})

_NUMBER: Final = re.compile(r"([+-]?[0-9]+)(\.0+)?")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a manifest, N in all.

    Attributes:
        table: with the columns of a listing.
        classes: the class names.
        lines: (N,) where each row ends in the file.
        files: (N,) the same number for just the rows of one file.
        sounds: (N,) the number of the file with the sound, if rows may have another one for it.
    """

    table: pa.Table
    classes: tuple[str, ...]
    lines: NDArray[np.int64]
    files: NDArray[np.int64]
    sounds: NDArray[np.int64] | None = None

    def at(self, keep: NDArray[np.bool_]) -> "Rows":
        """The rows for which `keep` (N,) is true."""
        kept = self.table.filter(pa.array(keep))
        sounds = None if self.sounds is None else self.sounds[keep]
        return Rows(kept, self.classes, self.lines[keep], self.files[keep], sounds)

    def text(self, column: str, row: int) -> str:
        """A cell."""
        return str(self.table[column][row].as_py())

    def label(self, row: int) -> str:
        """The labels of a row, for a message."""
        return " and ".join(repr(self.classes[i]) for i in self.table["labels"][row].as_py())

    def split_codes(self) -> NDArray[np.int64]:
        """(N,) the split of each row, as a number."""
        codes: NDArray[np.int64] = self.table["split"].combine_chunks().indices.to_numpy().astype(np.int64)
        return codes

    def times(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) each: where the clip begins and ends in its file, in seconds; the end of the file is at infinity."""
        start = np.nan_to_num(self.table["start"].to_numpy(), nan=0.0)
        return start, np.nan_to_num(self.table["stop"].to_numpy(), nan=np.inf, posinf=np.inf)


def number_of(label: str) -> int | None:
    """The whole number that a label is, also as tables of floats write it ("7.0"); None if it is none."""
    found = _NUMBER.fullmatch(label)
    return int(found[1]) if found else None


def clashes(rows: Rows) -> Iterator[tuple[int, str]]:
    """Rows of which an earlier row has the same time of the same file in another split, or with other labels.

    Yields:
        the row's line, and what is wrong with it.
    """
    for earlier, later in _shared(rows, overlapping=True):
        yield (
            int(rows.lines[later]),
            f"its file {_named(rows, earlier, later)}, which is in split {rows.text('split', earlier)!r}, not "
            f"{rows.text('split', later)!r}; keep it in one split, or what is tested was learned",
        )
    first = _first_of_clip(rows)
    split, labels = rows.split_codes(), rows.table["labels"]
    again = np.flatnonzero((first != np.arange(len(first))) & (split[first] == split))
    pairs = zip(labels.take(pa.array(first[again])).to_pylist(), labels.take(pa.array(again)).to_pylist(), strict=True)
    for later, (one, other) in zip(again.tolist(), pairs, strict=True):
        earlier = int(first[later])
        if set(one) == set(other):
            continue
        yield (
            int(rows.lines[later]),
            f"its file {_named(rows, earlier, later)}, which is labelled {rows.label(earlier)}, not "
            f"{rows.label(later)}; keep one row with all its labels",
        )


def remarks(rows: Rows) -> Iterator[str]:
    """Remarks on what looks wrong but may be meant, one sentence each."""
    labels = rows.table["labels"].combine_chunks()
    values = labels.flatten().to_numpy().astype(np.int64)
    counts = np.bincount(values, minlength=len(rows.classes))
    alike: dict[str, list[int]] = defaultdict(list)
    for i in np.flatnonzero(counts).tolist():
        alike[_look(rows.classes[i])].append(i)
    groups = [
        " and ".join(f"{rows.classes[i]!r} ({counts[i]})" for i in sorted(same, key=rows.classes.__getitem__))
        for same in alike.values()
        if len(same) > 1
    ]
    if groups:
        yield (
            "labels that differ in case, blanks, invisible characters or leading zeros alone are different classes "
            f"(clips in brackets): {first_of(groups)}"
        )
    yield from _odd_names([rows.classes[i] for i in np.flatnonzero(counts).tolist()])
    yield from _apart(rows, values, np.repeat(np.arange(len(labels)), np.diff(labels.offsets.to_numpy())))
    first = _first_of_clip(rows)
    again = np.flatnonzero(first != np.arange(len(first)))
    if len(again):
        lines = ", ".join(f"line {rows.lines[i]} has that of line {rows.lines[first[i]]}" for i in again[:SHOWN])
        more = f" and {len(again) - SHOWN} more" if len(again) > SHOWN else ""
        yield f"{len(again)} rows have a file that an earlier row has, and count again: {lines}{more}"
    apart = [
        f"{_common(rows, one, other)!r} (lines {rows.lines[one]} and {rows.lines[other]})"
        for one, other in _shared(rows, overlapping=False)
    ]
    if apart:
        yield (
            f"{len(apart)} files have segments in several splits: what is tested may resemble what was learned: "
            f"{first_of(apart)}"
        )


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
        if content and earlier.split != row.split and earlier.path != row.path:
            found.append(f"{row.path!r} in {row.split!r} and {earlier.path!r} in {earlier.split!r}")
    if found:
        copies = f"{len(found)} files are copies of one in another split"
        yield f"{copies}, as if what is tested was learned: {first_of(found)}"


def _first_of_clip(rows: Rows) -> NDArray[np.int64]:
    """(N,) for each row the first row with the same time of the same files."""
    keys = rows.files
    if rows.sounds is not None:
        keys = np.unique(keys * (1 + rows.sounds.max()) + rows.sounds, return_inverse=True)[1]
    if rows.table["start"].null_count < len(keys) or rows.table["stop"].null_count < len(keys):
        for time in rows.times():
            values, places = np.unique(time, return_inverse=True)
            keys = np.unique(keys * len(values) + places, return_inverse=True)[1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse]
    return found


def _shared(rows: Rows, *, overlapping: bool) -> Iterator[tuple[int, int]]:
    """Rows of one file in different splits, the earlier one first.

    Those whose times overlap, one pair for each later row; or one pair of each file in which none do.
    """
    split = rows.split_codes()
    order = np.argsort(rows.files, kind="stable")
    files = rows.files[order]
    if rows.sounds is not None:
        order = np.argsort(np.r_[rows.files, rows.sounds], kind="stable")
        files, order = np.r_[rows.files, rows.sounds][order], order % len(rows.files)
    starts = np.flatnonzero(np.diff(files, prepend=-1))
    if len(starts) == len(order):
        return
    lowest, highest = np.minimum.reduceat(split[order], starts), np.maximum.reduceat(split[order], starts)
    start, stop = rows.times()
    ends = np.append(starts[1:], len(order))
    for one in np.flatnonzero(lowest != highest).tolist():
        members = order[starts[one] : ends[one]]
        pairs = _overlaps(members[np.argsort(start[members], kind="stable")], split, start, stop)
        if overlapping:
            yield from ((earlier, later) for later, earlier in pairs.items())
        elif not pairs:
            other = members[split[members] != split[members[0]]][0]
            yield int(members[0]), int(other)


def _overlaps(
    members: NDArray[np.int64], split: NDArray[np.int64], start: NDArray[np.float64], stop: NDArray[np.float64]
) -> dict[int, int]:
    """Of rows in the order of their starts, those that overlap in different splits: the later to the earlier."""
    longest: dict[int, int] = {}  # of each split the row that ends last
    found: dict[int, int] = {}
    for row in members.tolist():
        for other, rival in longest.items():
            if other != split[row] and stop[rival] > start[row]:
                found.setdefault(max(row, rival), min(row, rival))
        held = longest.get(int(split[row]))
        if held is None or stop[row] > stop[held]:
            longest[int(split[row])] = row
    return found


def _odd_names(labels: Sequence[str]) -> Iterator[str]:
    """Remarks on labels that may be several, or none."""
    known = set(labels)
    joined = [
        repr(label)
        for label in labels
        if any(mark in label and known >= set(map(str.strip, label.split(mark))) for mark in "|;,/")
    ]
    if joined:
        yield (
            f"{len(joined)} labels are other labels joined together, each a class of its own here; several per "
            f"clip stand in a column labels, with data.with.separator between them: {first_of(joined)}"
        )
    none = [repr(label) for label in labels if label.casefold() in _NO_VALUE]
    if none:
        yield f"labels that tables write where a value is missing are classes as they stand: {first_of(none)}"


def _apart(rows: Rows, values: NDArray[np.int64], owners: NDArray[np.int64]) -> Iterator[str]:
    """A remark for each split with classes that "train" lacks, and one on those that it alone has."""
    names: list[str] = rows.table["split"].combine_chunks().dictionary.to_pylist()
    if "train" not in names:
        return
    keys, first = np.unique(rows.split_codes()[owners] * len(rows.classes) + values, return_index=True)
    by_split: dict[str, dict[int, int]] = defaultdict(dict)  # the first row of each class
    for key, at in zip(keys.tolist(), first.tolist(), strict=True):
        by_split[names[key // len(rows.classes)]][key % len(rows.classes)] = int(owners[at])
    learned = by_split.get("train", {})
    for split, classes in by_split.items():
        missing = sorted((row, label) for label, row in classes.items() if learned and label not in learned)
        if missing:
            named = [f"{rows.classes[label]!r} (line {rows.lines[row]})" for row, label in missing]
            yield (
                f"{len(missing)} of the {len(classes)} classes of split {split!r} have no clip in 'train', so that "
                f"none can be learned: {first_of(named)}"
            )
    untried = sorted(set(learned).difference(*(classes for split, classes in by_split.items() if split != "train")))
    if untried and len(by_split) > 1:
        named = [repr(rows.classes[label]) for label in untried]
        yield (
            f"{len(untried)} of the {len(learned)} classes of 'train' have no clip in another split, so that nothing "
            f"is measured of them: {first_of(named)}"
        )


def _named(rows: Rows, earlier: int, later: int) -> str:
    path, other = _common(rows, later, earlier), _common(rows, earlier, later)
    return f"{path!r} is that of line {rows.lines[earlier]}" + (f" ({other!r})" if other != path else "")


def _common(rows: Rows, row: int, other: int) -> str:
    """What a row calls the file that another has, too."""
    if rows.sounds is None or rows.files[row] in (rows.files[other], rows.sounds[other]):
        return rows.text("path", row)
    return rows.text("sound", row)


def _look(label: str) -> str:
    """The same text for two labels that a reader takes for one."""
    number = number_of(label)
    if number is not None:
        return str(number)
    plain = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())
