"""Reading the lists of published data sets: millions of lines into columns, and file:line for what is wrong in them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from avrobust_core import DataError

_LARGEST: Final = 2**30
"""Bytes of a list; ten times what AudioSet's two million lines take."""

SHOWN: Final = 5
"""Faulty lines that an error shows."""

_NUMBER: Final = r"^[0-9]+(\.[0-9]*)?$"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The rows of a list.

    Attributes:
        file: it was read from.
        table: columns of text, none null, without blanks at their ends.
        before: lines before the first row.
    """

    file: Path
    table: pa.Table
    before: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.StringArray:
        """One column."""
        return self.table[name].combine_chunks()

    def seconds(self, name: str) -> pa.DoubleArray:
        """A column of times that are not negative.

        Raises:
            DataError: names the first line that holds something else.
        """
        text = self.column(name)
        wrong = pc.indices_nonzero(pc.invert(pc.match_substring_regex(text, _NUMBER))).to_pylist()
        self.refuse(wrong, [f"the {name} {text[row].as_py()!r} is no time in seconds" for row in wrong[:SHOWN]])
        return text.cast(pa.float64())

    def refuse(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Refuse rows, if there are any.

        Args:
            rows: the faulty ones.
            texts: what is wrong, of the first `SHOWN` of them at least.

        Raises:
            DataError: shows the first of them as file:line.
        """
        if rows:
            raise _faults(self.file, _lines(self.file, rows[:SHOWN], self.before), texts[:SHOWN], len(rows))

    def where(self, row: int) -> str:
        """The place of a row, as file:line."""
        return f"{self.file}:{_lines(self.file, [row], self.before)[0]}"


@dataclass(frozen=True, slots=True)
class Part:
    """The clips that one list names.

    Attributes:
        sheet: the list.
        split: that it is of.
        rows: (n,) the clips' rows in it.
        clips: (n) rows; at least the column `id`.
    """

    sheet: Sheet
    split: str
    rows: NDArray[np.int64]
    clips: pa.Table


def joined(parts: Sequence[Part]) -> pa.Table:
    """The clips of several lists, in order.

    Raises:
        DataError: if a clip is named twice; names its id, both places and, where they differ, both splits.
    """
    clips = pa.concat_tables([part.clips for part in parts])
    ids = clips["id"]
    codes = ids.combine_chunks().dictionary_encode()
    if len(codes.dictionary) == len(ids):
        return clips
    places = codes.indices.to_numpy()
    first = np.unique(places, return_index=True)[1]
    again = np.flatnonzero(first[places] != np.arange(len(places)))
    begins = np.cumsum([0, *(len(part.rows) for part in parts)])

    def at(row: int) -> tuple[str, str]:
        number = int(np.searchsorted(begins, row, side="right")) - 1
        part = parts[number]
        return part.sheet.where(int(part.rows[row - begins[number]])), part.split

    row = int(again[0])
    (here, split), (there, other) = at(row), at(int(first[places[row]]))
    learned = f", of split {other!r}: what is tested would be learned" if split != other else ""
    more = f"; {len(again) - 1} more come again" if len(again) > 1 else ""
    raise DataError(f"{here}: the clip {ids[row].as_py()!r} is that of {there}{learned}; keep one of them{more}")


def read_sheet(
    file: Path,
    columns: Sequence[str],
    *,
    header: bool | None,
    optional: Sequence[str] = (),
    delimiter: str = ",",
    tight: bool = False,
    hint: str = "",
) -> Sheet:
    """Read a list.

    Args:
        file: UTF-8, with or without a byte-order mark. Lines before the rows that begin with "#" are passed over.
        columns: their names; with a header those that are looked for in it, whatever its case, else all there are.
        header: whether the first line names the columns; None if it may.
        optional: columns that a header may have beside.
        delimiter: between cells. Cells are quoted as in CSV where it is a comma.
        tight: drop blanks behind commas, before a quote and inside cells alike.
        hint: what to do where the header lacks columns: "; ...".

    Raises:
        DataError: if the file cannot be read, has no row, or has lines with other numbers of cells; names the lines.
    """
    data = _bytes(file)
    before = begin = 0
    while data.startswith(b"#", begin):
        begin = data.find(b"\n", begin) + 1 or len(data)
        before += 1
    data = data[begin:]
    named = list(columns)
    if header is not False:
        head, _, rest = data.lstrip(b"\r\n").partition(b"\n")
        first = [cell.strip().casefold() for cell in next(csv.reader([_text(file, head)], delimiter=delimiter), [])]
        if header or first == [name.casefold() for name in columns]:
            before += len(data[: len(data) - len(data.lstrip(b"\r\n"))].splitlines()) + 1
            named, data = _named(file, before, first, columns, optional, hint), rest
    if tight:
        while b", " in data:
            data = data.replace(b", ", b",")
    if not data.strip():
        raise DataError(f"{file} has no rows; it must list clips, {delimiter.join(columns)} in each line")
    table = _parsed(file, data, named, delimiter, before)
    wanted = [*columns, *(name for name in optional if name in named)]
    texts = [pc.utf8_trim_whitespace(table[name]) for name in wanted]
    return Sheet(file, pa.Table.from_arrays(texts, names=wanted), before)


def read_lines(file: Path) -> list[str]:
    """The lines of a text without blanks at their ends; empty ones, and those that begin with "#", are left out.

    Raises:
        DataError: if the file cannot be read.
    """
    lines = (line.strip() for line in _text(file, _bytes(file)).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _parsed(file: Path, data: bytes, names: Sequence[str], delimiter: str, before: int) -> pa.Table:
    faulty: list[arrow_csv.InvalidRow] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        faulty.append(row)
        return "skip"

    quoted = '"' if delimiter == "," else False
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(data),
            arrow_csv.ReadOptions(column_names=list(names), use_threads=False),  # with threads rows have no number
            arrow_csv.ParseOptions(delimiter=delimiter, quote_char=quoted, invalid_row_handler=note),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        _text(file, data)
        raise DataError(f"{file} is no list with cells separated by {delimiter!r}: {error}") from error
    if faulty:
        rows = [row.number - 1 for row in faulty[:SHOWN]]
        texts = [f"has {row.actual_columns} cells where {len(names)} are expected" for row in faulty[:SHOWN]]
        raise _faults(file, _lines(file, rows, before), texts, len(faulty))
    for name in names:
        broken = pc.index(pc.match_substring(table[name], "\n"), True).as_py()
        if broken >= 0:
            raise DataError(f"{file}:{_lines(file, [broken], before)[0]}: a quote opens that the line does not close")
    return table


def _named(
    file: Path, line: int, header: Sequence[str], columns: Sequence[str], optional: Sequence[str], hint: str
) -> list[str]:
    """The names of a header's columns, those that are read as the caller spells them."""
    spelled = {name.casefold(): name for name in (*columns, *optional)}
    missing = [name for name in columns if name.casefold() not in header]
    if missing:
        raise DataError(f"{file}:{line}: the header is {', '.join(header)}; it lacks {' and '.join(missing)}{hint}")
    twice = [name for name in spelled.values() if header.count(name.casefold()) > 1]
    if twice:
        raise DataError(f"{file}:{line}: the header names the column {twice[0]} twice")
    return [spelled.get(name, f"{i}: {name}") for i, name in enumerate(header)]


def _bytes(file: Path) -> bytes:
    if file.exists() and not file.is_file():
        raise DataError(f"the list {file} cannot be read: it is a folder, a pipe or a device")
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"the list {file} has more than 1 GiB; give a text with a line for each clip")
        data = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no list {file}; correct its path in data.with") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the list {file} cannot be read: {reason}") from error
    if b"\0" in data:
        raise DataError(f"the list {file} has a NUL, which no text in UTF-8 has; save it as UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the list {file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _lines(file: Path, rows: Sequence[int], before: int) -> list[int]:
    """The numbers of the lines, from 1, in which rows stand; each row is one line that is not empty."""
    wanted, found = set(rows), {}
    row = 0
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if number > before and line.rstrip(b"\r"):
            if row in wanted:
                found[row] = number
            row += 1
    return [found.get(row, before + row + 1) for row in rows]


def _faults(file: Path, lines: Sequence[int], texts: Sequence[str], count: int) -> DataError:
    shown = "\n".join(f"  {file}:{line}: {text}" for line, text in zip(lines, texts, strict=True))
    more = f"\n  and {count - len(texts)} more" if count > len(texts) else ""
    return DataError(f"the list {file} has {count} fault{'s' if count > 1 else ''}:\n{shown}{more}")
