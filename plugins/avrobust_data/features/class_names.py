"""Class names in their order, from a configuration or a file."""

import csv
from collections import Counter
from pathlib import Path

from avrobust_core import DataError
from avrobust_data.features.labels import read_lines

_COLUMNS = ("index", "mid", "display_name")
"""The header of AudioSet's class_labels_indices.csv."""


def class_names(given: tuple[str, ...] | None, file: Path | None, count: int) -> tuple[str, ...]:
    """The class names in the order of the targets.

    Args:
        given: names, if they are given.
        file: else a file with a name in each line, or with the columns of class_labels_indices.csv, in which the
            column `index` states the order.
        count: else how many numbers.

    Raises:
        DataError: if the file cannot be used: it names a class twice, or leaves out an index.
    """
    if given is not None:
        return given
    if file is None:
        return tuple(map(str, range(count)))
    lines = read_lines(file, "class names")
    rows = list(csv.reader(lines, skipinitialspace=True)) if tuple(lines[0].split(",")) == _COLUMNS else None
    names = lines if rows is None else _indexed(rows[1:], file)
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{file} names the class {twice[0]!r} twice")
    if len(names) < 2:
        raise DataError(f"{file} names {len(names)} class; a classifier needs two at least")
    return tuple(names)


def _indexed(rows: list[list[str]], file: Path) -> list[str]:
    names: dict[int, str] = {}
    for row in rows:
        if len(row) != len(_COLUMNS) or not row[0].strip().isdecimal() or int(row[0]) in names or not row[2].strip():
            raise DataError(f"{file}: {','.join(row)!r} is no new index, mid and display_name")
        names[int(row[0])] = row[2].strip()
    if sorted(names) != list(range(len(names))):
        gap = next(i for i in range(len(names)) if i not in names)
        raise DataError(f"{file} has {len(names)} classes, but none of index {gap}")
    return [names[i] for i in range(len(names))]
