"""Reading a manifest: a CSV of media files with their labels and splits."""

import difflib
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from avrobust_core import AvrobustWarning, DataError, Task
from avrobust_data.configs import ClipsConfig
from avrobust_data.rows import Row, clashes, files_of, number_of, remarks
from avrobust_data.table import read_rows

SHOWN: Final = 5
"""Faulty rows that an error shows; the others are counted."""

_LONGEST: Final = {"path": 4096, "labels": 4096}
"""Characters that a cell of a column may have, where it is not the usual limit."""

_USUAL_LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a manifest: its rows in order, the task, and the class names in the order of the targets."""

    rows: tuple[Row, ...]
    task: Task
    classes: tuple[str, ...]


def read_manifest(config: ClipsConfig) -> Manifest:
    """Read a CSV with the columns `path`, `label` or `labels`, `split`, and optionally `id` and `group`.

    The header's case does not matter. Cells are stripped of blanks; blank lines and other columns are ignored. What
    looks wrong but may be meant is an `AvrobustWarning`: labels that differ in case or blanks alone, classes without a
    clip to learn from, files that count twice.

    Args:
        config: the file, the separator between labels, the classes and the splits that may occur. Without `classes`
            they are those that do, in the order of `ordered`.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has faulty rows; all of them are counted and the
            first few are shown as file:line. A file that is in two splits, or has different labels in two rows, is a
            fault of the later row, by whatever path it is named.
    """
    file = config.manifest
    lines = read_rows(file)
    header_line, header = next(lines)
    columns = _columns(file, header_line, header)
    task: Task = "multi-label" if "labels" in columns else "single-label"
    allowed = _composed(config.classes) if config.classes is not None else None
    faults: list[str] = []
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            faults.append(f"{file}:{line}: has {len(cells)} cells where the header has {len(header)} (quote commas)")
            continue
        row, wrong = _row({name: cells[at] for name, at in columns.items()}, line, config, allowed)
        if row.id in first_line:
            wrong.append(f"its id {row.id!r} is that of line {first_line[row.id]}; give the rows a column 'id'")
        if row.id:
            first_line.setdefault(row.id, line)
        faults += [f"{file}:{line}: {fault}" for fault in wrong]
        rows.append(row)
    files = files_of(rows, config.root or file.parent) if not faults else []
    if not faults:
        faults = [f"{file}:{line}: {fault}" for line, fault in clashes(rows, files)]
    if faults:
        raise DataError(_summary(file, faults))
    if not rows:
        raise DataError(f"{file} has a header and no rows; add one per clip")
    names = allowed if allowed is not None else ordered({label for row in rows for label in row.labels})
    if len(names) < 2:
        raise DataError(f"{file}: all clips are of the class {names[0]!r}; a classifier needs two classes at least")
    for remark in remarks(rows, files):
        warnings.warn(f"{file}: {remark}", AvrobustWarning, stacklevel=2)
    return Manifest(tuple(rows), task, names)


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the targets: by number if all of them are whole numbers, else by Unicode."""
    names = sorted(labels)
    numbers = {name: number for name in names if (number := number_of(name)) is not None}
    return tuple(sorted(names, key=numbers.__getitem__) if len(numbers) == len(names) else names)


def _composed(classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(unicodedata.normalize("NFC", name) for name in classes)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"data.with.classes names {twice!r} twice, in two spellings of Unicode; keep one")
    return names


def _columns(file: Path, line: int, header: Sequence[str]) -> Mapping[str, int]:
    """The positions of the columns that are read, by name."""
    names = [name.strip().casefold() for name in header]
    shown = ", ".join(name.strip() if name.isprintable() else repr(name) for name in header)
    where = f"{file}:{line}: the header is {shown if len(shown) <= 200 else shown[:200] + '...'}"
    missing = [name for name in ("path", "split") if name not in names]
    if "label" not in names and "labels" not in names:
        missing.insert(1, "label (or labels, for several per clip)")
    if missing:
        raise DataError(f"{where}; it lacks {' and '.join(missing)}")
    if "label" in names and "labels" in names:
        raise DataError(f"{where}; keep either label (one per clip) or labels (several), and rename the other")
    columns: dict[str, int] = {
        name: names.index(name) for name in ("id", "path", "label", "labels", "split", "group") if name in names
    }
    for name in columns:
        if names.count(name) > 1:
            raise DataError(f"{where}; the column {name} is there {names.count(name)} times")
    return columns


def _row(
    raw: Mapping[str, str], line: int, config: ClipsConfig, classes: Sequence[str] | None
) -> tuple[Row, list[str]]:
    """The row, and what is wrong with it."""
    cells = {name: cell.strip() for name, cell in raw.items()}
    faults = {name: _fault(cell, _LONGEST.get(name, _USUAL_LONGEST)) for name, cell in raw.items()}
    wrong = [f"the {name} {fault}" for name, fault in faults.items() if fault is not None]
    if wrong:
        return Row("", "", (), "", line=line), wrong
    if "labels" in cells:
        parts = (unicodedata.normalize("NFC", part).strip() for part in cells["labels"].split(config.separator))
        labels = tuple(dict.fromkeys(part for part in parts if part))
    else:
        labels = (unicodedata.normalize("NFC", cells["label"]),) if cells["label"] else ()
    row = Row(cells.get("id", cells["path"]), cells["path"], labels, cells["split"], cells.get("group"), line)
    wrong += [f"the {name} is empty" for name in ("path", "group") if cells.get(name) == ""]
    if not row.id and "id" in cells:
        wrong.append("the id is empty; fill it, or drop the column to use the paths")
    if not labels:
        wrong.append("the label is empty")
    if classes is not None:
        wrong += [
            f"the label {label!r} is not in data.with.classes{_nearest(label, classes)}"
            for label in labels
            if label not in classes
        ]
    if row.split not in config.splits:
        wrong.append(
            f"the split {row.split!r} is none of {', '.join(config.splits)}{_nearest(row.split, config.splits)}; "
            "correct it, or name it in data.with.splits"
        )
    return row, wrong


def _fault(cell: str, limit: int) -> str | None:
    """The fault of a cell as a text, whatever it is for; None if there is none."""
    if len(cell) > limit:
        return f"has {len(cell)} characters, more than {limit}; a quote or a delimiter may be missing"
    if not cell.isprintable() and any(unicodedata.category(character) == "Cc" for character in cell.strip()):
        return f"{cell!r} has a control character; remove it"
    if cell.strip().startswith('"') and cell != cell.strip():
        return f"{cell!r} has something before its quote that looks like a blank; remove it"
    return None


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _summary(file: Path, faults: Sequence[str]) -> str:
    shown = "\n".join(f"  {fault}" for fault in faults[:SHOWN])
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"the manifest {file} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n{shown}{more}"
