"""From a manifest's cells to columns, many rows at a time; a row is looked at by itself where its chunk has a fault."""

import itertools
import math
import os
import re
import unicodedata
from bisect import insort
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avrobust_data.configs import ClipsConfig
from avrobust_data.rows import SHOWN
from avrobust_data.suggesting import nearest
from avrobust_data.table import DELIMITERS

_LONGEST: Final = {"path": 4096, "sound": 4096, "labels": 4096}
"""Characters that a cell of a column may have, where it is not the usual limit."""

_USUAL_LONGEST: Final = 500

_FILES: Final = ("path", "sound")
"""Columns of files."""

_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


class Faults:
    """What is wrong with a file: all of it is counted, and what comes first in the file is kept."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._first: list[tuple[int, int, str]] = []
        self.count = 0

    def add(self, line: int, faults: Sequence[str]) -> None:
        """Note what is wrong with the row that ends in a line."""
        for fault in faults:
            self.count += 1
            insort(self._first, (line, self.count, fault))
        del self._first[SHOWN:]

    def shows(self, line: int) -> bool:
        """Whether a fault of that line would be among those that are shown."""
        return len(self._first) < SHOWN or line < self._first[-1][0]

    def __str__(self) -> str:
        shown = "\n".join(f"  {self._file}:{line}: {fault}" for line, _, fault in self._first)
        more = f"\n  and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return f"the manifest {self._file} has {self.count} fault{'s' if self.count > 1 else ''}:\n{shown}{more}"


class Labels:
    """The labels of a manifest, as positions of classes: each spelling is looked at once.

    Args:
        names: the classes that may occur; None for any.
        separator: between the labels of a cell; None if a cell is one label.
    """

    def __init__(self, names: Sequence[str] | None, separator: str | None) -> None:
        self._closed = names is not None
        self._separator = separator
        self._known: dict[str, int] = {}  # of spellings; -1: no label, -2: a fault
        self.classes = {name: i for i, name in enumerate(names or ())}
        """The positions of the classes; where any may occur, in the order in which they do."""

    def positions(self, cells: Sequence[str]) -> tuple[pa.Array, bool]:
        """The classes of each cell, list<int32>, each once; and whether all cells are without fault."""
        known, separator = self._known, self._separator
        parts = [[cell] if separator is None else cell.split(separator) for cell in cells]
        flat = list(itertools.chain.from_iterable(parts))
        for spelling in set(flat).difference(known):
            known[spelling] = self._look_at(spelling)
        values = np.fromiter(map(known.__getitem__, flat), np.int32, len(flat))
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        owners = np.repeat(np.arange(len(parts)), np.diff(ends, prepend=0))
        sound = not (values == -2).any()
        keep = values >= 0
        if separator is not None:
            keys = owners * (len(self.classes) + 2) + values
            first = np.zeros(len(keys), bool)
            first[np.unique(keys, return_index=True)[1]] = True
            keep &= first
        counts = np.bincount(owners[keep], minlength=len(parts))
        offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(values[keep])), bool(sound and counts.all())

    def faults(self, cell: str, suggest: bool) -> list[str]:
        """What is wrong with the labels of a cell, as a list of sentences."""
        parts = [cell] if self._separator is None else cell.split(self._separator)
        labels = list(dict.fromkeys(label for part in parts if (label := _composed(part))))
        if not labels:
            return ["the label is empty"]
        names = tuple(self.classes) if suggest else ()
        return [
            f"the label {label!r} is not in data.with.classes{nearest(label, names)}"
            for label in labels
            if self._closed and label not in self.classes
        ]

    def _look_at(self, spelling: str) -> int:
        label = _composed(spelling)
        if not label:
            return -1
        return self.classes.get(label, -2) if self._closed else self.classes.setdefault(label, len(self.classes))


class Cells:
    """Turns a manifest's rows into columns.

    Args:
        columns: where the columns that are read stand in a row.
        width: cells of a row; more may follow if they are empty.
        config: the splits and paths that may occur.
        labels: where labels are taken in.
        faults: where what is wrong is noted.
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        width: int,
        config: ClipsConfig,
        labels: Labels,
        faults: Faults,
    ) -> None:
        self._columns = columns
        self._width = width
        self._splits = {name: i for i, name in enumerate(config.splits)}
        self._labels = labels
        self._faults = faults
        self._label = "labels" if "labels" in columns else "label"
        self._fence = None if config.outside_root else Fence(config.root or config.manifest.parent)

    def take(self, rows: Sequence[tuple[int, list[str]]]) -> pa.Table:
        """The columns of rows, each with its line; of those that have a fault some may be left out.

        Returns:
            `path`, `split` (position in the configuration's), `labels` (positions in `Labels.classes`), `line`, and
            `id`, `sound`, `group`, `start` and `stop` where they are there.
        """
        if any(len(cells) != self._width for _, cells in rows):
            fitted = [(line, self._fitted(line, found)) for line, found in rows]
            rows = [(line, found) for line, found in fitted if found is not None]
        raw, cells = self._columns_of(rows)
        labels, known = self._labels.positions(cells[self._label])
        if not (known and self._sound(raw, cells)):
            rows = [row for row in rows if self._readable(*row)]
            raw, cells = self._columns_of(rows)
            labels, _ = self._labels.positions(cells[self._label])
        found: dict[str, pa.Array] = {
            name: pa.array(cells[name], pa.string()) for name in ("id", "path", "group") if name in cells
        }
        if "sound" in cells:
            found["sound"] = pa.array([cell or None for cell in cells["sound"]], pa.string())
        found["split"] = pa.array([self._splits.get(cell) for cell in cells["split"]], pa.int32())
        found["labels"] = labels
        for name in ("start", "stop"):
            if name in cells:
                found[name] = pa.array(_times(cells[name]), pa.float64())
        return pa.table(found | {"line": pa.array([line for line, _ in rows], pa.int32())})

    def _columns_of(
        self, rows: Sequence[tuple[int, list[str]]]
    ) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """The cells of each column that is read, as they stand and without blanks around them."""
        columns: list[tuple[str, ...]] = list(zip(*(cells for _, cells in rows), strict=True)) or [()] * self._width
        raw: dict[str, Sequence[str]] = {name: columns[at] for name, at in self._columns.items()}
        return raw, {name: list(map(str.strip, column)) for name, column in raw.items()}

    def _fitted(self, line: int, cells: list[str]) -> list[str] | None:
        """The cells without empty ones after the last that the header names; None if they are not as many."""
        while len(cells) > self._width and not cells[-1].strip():
            cells = cells[:-1]
        if len(cells) == self._width:
            return cells
        other = next((d for d in DELIMITERS if "".join(cells).count(d) == self._width - 1), None)
        cure = f"they seem to be separated by {other!r}, unlike the header's" if other else "quote commas"
        self._faults.add(line, [f"has {len(cells)} cells where the header has {self._width} ({cure})"])
        return None

    def _sound(self, raw: Mapping[str, Sequence[str]], cells: Mapping[str, Sequence[str]]) -> bool:
        """False if a row may have a fault, other than in its labels."""
        for name, column in raw.items():
            together, limit = "".join(column), _LONGEST.get(name, _USUAL_LONGEST)
            plain = together.isprintable() and '"' not in together and max(map(len, column), default=0) <= limit
            if not plain and any(_fault(cell, limit) for cell in column):
                return False
        if not self._splits.keys() >= set(cells["split"]):
            return False
        if any("" in cells[name] for name in ("id", "path", "group") if name in cells):
            return False
        paths = [cells[name] for name in _FILES if name in cells]
        if any(self._misplaced(path) for column in paths if not _plain_paths(column) for path in column):
            return False
        if "start" not in cells and "stop" not in cells:
            return True
        empty = [""] * len(cells["path"])
        starts, stops = cells.get("start", empty), cells.get("stop", empty)
        return _plain_times(starts, stops) or not any(map(any, map(_wrong_times, starts, stops)))

    def _readable(self, line: int, raw: list[str]) -> bool:
        """Note what is wrong with a row; False if it cannot even be named."""
        given = {name: raw[at] for name, at in self._columns.items()}
        found = {name: _fault(cell, _LONGEST.get(name, _USUAL_LONGEST)) for name, cell in given.items()}
        wrong = [f"the {name} {fault}" for name, fault in found.items() if fault is not None]
        if wrong:
            self._faults.add(line, wrong)
            return False
        cells = {name: cell.strip() for name, cell in given.items()}
        suggest = self._faults.shows(line)
        wrong += [f"the {name} is empty" for name in ("path", "group") if cells.get(name) == ""]
        if cells.get("id") == "":
            wrong.append("the id is empty; fill it, or drop the column to use the paths")
        wrong += self._labels.faults(cells[self._label], suggest)
        if cells["split"] not in self._splits:
            names = tuple(self._splits)
            wrong.append(
                f"the split {cells['split']!r} is none of {', '.join(names)}"
                f"{nearest(cells['split'], names if suggest else ())}; correct it, or name it in data.with.splits"
            )
        wrong += [
            f"the path {cells[name]!r} {fault}"
            for name in _FILES
            if name in cells and (fault := self._misplaced(cells[name]))
        ]
        wrong += _wrong_times(cells.get("start", ""), cells.get("stop", ""))
        self._faults.add(line, wrong)
        return True

    def _misplaced(self, path: str) -> str | None:
        """What is wrong with the place that a path names; None if nothing is."""
        if path.startswith("~") and path[1:2] in ("", "/", "\\"):
            return "begins with ~, which is not expanded; write the whole path"
        if ":" in path and _SCHEME.match(path):
            return "is an address of the network; download the file, and name it"
        if ":" in path and os.name != "nt" and _DRIVE.match(path):
            return "is a path of Windows; write it as this system does"
        return None if self._fence is None else self._fence.fault(path)


class Fence:
    """The folder that paths must not leave."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._within = tuple({os.path.join(os.path.abspath(root), ""), os.path.join(os.path.realpath(root), "")})

    def fault(self, path: str) -> str | None:
        """What is wrong with a path that leads out of the folder; links in it are the user's own, and followed."""
        absolute = os.path.isabs(path)
        if not absolute and ".." not in path:
            return None
        normal = os.path.normpath(os.path.join(self._root, path))
        if normal.startswith(self._within):
            return None
        return (
            f"is outside of the root {self._root}; name a folder that holds all files in data.with.root, or set "
            "data.with.outside_root: true if you trust the manifest"
        )


def _composed(label: str) -> str:
    return unicodedata.normalize("NFC", label).strip()


def _plain_paths(paths: Sequence[str]) -> bool:
    """True if none of the paths has anything that could make it lead elsewhere; many are looked at at once."""
    together = "\n" + "\n".join(paths)
    return os.name != "nt" and not any(sign in together for sign in ("\n/", "\n~", "..", ":"))


def _plain_times(starts: Sequence[str], stops: Sequence[str]) -> bool:
    """True if each cell is a time, and each stop after its start; many are looked at at once."""
    begins, ends = _numbers(starts), _numbers(stops)
    return begins is not None and ends is not None and bool((begins < ends).all())


def _times(column: Sequence[str]) -> Sequence[float | None] | NDArray[np.float64]:
    """The times of cells, None where one is empty, or no time."""
    found = _numbers(column)
    return found if found is not None else [_seconds(cell) for cell in column]


def _numbers(column: Sequence[str]) -> NDArray[np.float64] | None:
    """The numbers of cells that are all times; None if any is not."""
    if "_" in "".join(column):  # which `float` would read
        return None
    try:
        found = np.fromiter(map(float, column), np.float64, len(column))
    except ValueError:
        return None
    return found if bool((np.isfinite(found) & (found >= 0)).all()) else None


def _seconds(cell: str) -> float | None:
    """A time; None where it is empty, or no time."""
    try:
        found = float(cell) if "_" not in cell else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _wrong_times(start: str, stop: str) -> list[str]:
    wrong = [
        f"the {name} {cell!r} is no time; write seconds from the file's beginning, such as 12.5"
        for name, cell in (("start", start), ("stop", stop))
        if cell and _seconds(cell) is None
    ]
    if not wrong and stop and (_seconds(stop) or 0) <= (_seconds(start) or 0):
        wrong.append(f"the stop {stop!r} is not after the start {start or '0'!r}")
    return wrong


def _fault(cell: str, limit: int) -> str | None:
    """The fault of a cell as a text, whatever it is for; None if there is none."""
    if len(cell) > limit:
        return f"has {len(cell)} characters, more than {limit}; a quote or a delimiter may be missing"
    if not cell.isprintable() and any(unicodedata.category(character) == "Cc" for character in cell.strip()):
        return f"{cell!r} has a control character; remove it"
    if cell.strip().startswith('"') and cell != cell.strip():
        return f"{cell!r} has something before its quote that looks like a blank; remove it"
    return None
