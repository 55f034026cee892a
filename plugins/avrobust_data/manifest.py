"""Reading a manifest: a CSV of media files with their labels and splits."""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from avrobust_core import DataError, Task

SHOWN: Final = 5
"""How many faulty rows an error shows; the others are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of a manifest.

    Attributes:
        id: the column `id`, or the path where there is none.
        path: as written in the manifest.
        labels: class names; one if the task is single-label.
        split: its split.
    """

    id: str
    path: str
    labels: tuple[str, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says: its rows in order, the task, and the class names in the order of the targets."""

    rows: tuple[Row, ...]
    task: Task
    classes: tuple[str, ...]


def read_manifest(
    file: Path, *, separator: str = "|", classes: Sequence[str] | None = None, splits: Sequence[str] = ("train", "test")
) -> Manifest:
    """Read a CSV with the columns `path`, `label` or `labels`, `split`, and optionally `id`.

    Cells are stripped of spaces; blank lines and other columns are ignored.

    Args:
        file: UTF-8, with or without a byte-order mark.
        separator: between the labels of one cell of `labels`.
        classes: the labels that may occur; None for those that do, sorted.
        splits: the splits that may occur.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has faulty rows; all of them are counted and the
            first few are shown as file:line.
    """
    lines = _lines(file)
    try:
        header_line, header = next(lines)
    except StopIteration:
        raise DataError(f"{file} is empty; it needs a header: path,label,split") from None
    columns = _columns(file, header_line, header)
    task: Task = "multi-label" if "labels" in columns else "single-label"
    faults: list[str] = []
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            faults.append(f"{file}:{line}: has {len(cells)} cells where the header has {len(header)} (quote commas)")
            continue
        row, wrong = _row({name: cells[at].strip() for name, at in columns.items()}, separator, classes, splits)
        if row.id in first_line:
            wrong.append(f"its id {row.id!r} is that of line {first_line[row.id]}; give the rows a column 'id'")
        if row.id:
            first_line.setdefault(row.id, line)
        faults += [f"{file}:{line}: {fault}" for fault in wrong]
        rows.append(row)
    if faults:
        raise DataError(_summary(file, faults))
    if not rows:
        raise DataError(f"{file} has a header and no rows; add one per clip")
    names = tuple(classes) if classes is not None else tuple(sorted({label for row in rows for label in row.labels}))
    if len(names) < 2:
        raise DataError(f"{file}: all clips are of the class {names[0]!r}; a classifier needs two classes at least")
    return Manifest(tuple(rows), task, names)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank: number and cells."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except FileNotFoundError:
        raise DataError(f"there is no manifest {file}; set data.with.manifest to a CSV file") from None
    except OSError as error:
        raise DataError(f"the manifest {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the manifest {file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not CSV: {error}") from error


def _columns(file: Path, line: int, header: Sequence[str]) -> Mapping[str, int]:
    """Where the columns stand that are read: by name."""
    names = [name.strip() for name in header]
    where = f"{file}:{line}: the header is {', '.join(names)}"
    missing = [name for name in ("path", "split") if name not in names]
    if "label" not in names and "labels" not in names:
        missing.insert(1, "label (or labels, for several per clip)")
    if missing:
        raise DataError(f"{where}; it lacks {' and '.join(missing)}")
    if "label" in names and "labels" in names:
        raise DataError(f"{where}; keep either label (one per clip) or labels (several), and rename the other")
    columns: dict[str, int] = {
        name: names.index(name) for name in ("id", "path", "label", "labels", "split") if name in names
    }
    for name in columns:
        if names.count(name) > 1:
            raise DataError(f"{where}; the column {name} is there {names.count(name)} times")
    return columns


def _row(
    cells: Mapping[str, str], separator: str, classes: Sequence[str] | None, splits: Sequence[str]
) -> tuple[Row, list[str]]:
    """The row, and what is wrong with it."""
    wrong = []
    if "labels" in cells:
        labels = tuple(dict.fromkeys(part.strip() for part in cells["labels"].split(separator) if part.strip()))
    else:
        labels = (cells["label"],) if cells["label"] else ()
    row = Row(id=cells.get("id", cells["path"]), path=cells["path"], labels=labels, split=cells["split"])
    if not row.path:
        wrong.append("the path is empty")
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
    if row.split not in splits:
        wrong.append(
            f"the split {row.split!r} is none of {', '.join(splits)}{_nearest(row.split, splits)}; "
            "correct it, or name it in data.with.splits"
        )
    return row, wrong


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _summary(file: Path, faults: Sequence[str]) -> str:
    shown = "\n".join(f"  {fault}" for fault in faults[:SHOWN])
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"the manifest {file} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n{shown}{more}"
