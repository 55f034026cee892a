"""Lists of class names in the order of the targets."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from avrobust_core import DataError
from avrobust_data.sets.sheets import read_lines, read_sheet

COLUMNS: Final = ("index", "mid", "display_name")
"""The header of class_labels_indices.csv."""


def read_classes(file: Path) -> tuple[str, ...]:
    """The class names of class_labels_indices.csv, or of a text with one in each line.

    Raises:
        DataError: as `indexed_classes` and `class_lines`.
    """
    head = next(csv.reader(read_lines(file)[:1]), [])
    return indexed_classes(file)[1] if tuple(cell.strip().casefold() for cell in head) == COLUMNS else class_lines(file)


def class_lines(file: Path) -> tuple[str, ...]:
    """The class names of a text, one in each line.

    Raises:
        DataError: if it cannot be read, names a class twice, or fewer than two.
    """
    classes = tuple(read_lines(file))
    if len(set(classes)) < max(2, len(classes)):
        raise DataError(f"{file} names a class twice, or fewer than two; give each a line of its own")
    return classes


def indexed_classes(file: Path) -> tuple[pa.StringArray, tuple[str, ...]]:
    """Ids and names of AudioSet's labels, in the order of the column `index` of class_labels_indices.csv.

    Raises:
        DataError: if the file cannot be read; an index that is wrong, or a label given twice, is named as file:line.
    """
    sheet = read_sheet(file, COLUMNS, header=True)
    index = sheet.column("index").to_pylist()
    numbers = [str(i) for i in range(len(sheet))]
    if sorted(index) != sorted(numbers):
        wrong = next(i for i, number in enumerate(index) if number not in numbers or number in index[:i])
        raise DataError(
            f"{sheet.where(wrong)}: the index {index[wrong]!r} is not one of 0 to {len(sheet) - 1}, each given once"
        )
    ordered = sheet.table.take(pa.array(np.argsort([int(number) for number in index])))
    names = tuple(ordered["display_name"].to_pylist())
    for what in ("mid", "display_name"):
        values: Sequence[str] = sheet.table[what].to_pylist()
        twice = [row for row, value in enumerate(values) if value in values[:row] or not value]
        sheet.refuse(twice, [f"the {what} {values[row]!r} is empty or was given before" for row in twice])
    return ordered["mid"].combine_chunks(), names
