"""From a table's bytes to numbered rows of cells: encodings, delimiters, comments, and what is wrong with a CSV."""

import codecs
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from avrobust_core import DataError

_LARGEST: Final = 2**30
"""Bytes of a manifest; ten times what two million clips take."""

_MARKS: Final = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks and what they say."""

DELIMITERS: Final = ",;\t"


def read_rows(file: Path, field: str = "manifest") -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, each with the number of the line in which it ends, the header first.

    The file is read as the rows are asked for, so that its size does not matter. Cells are separated by
    what separates most cells of the header: commas, semicolons or tabs. Blanks before a cell are left out, also before
    a quote; lines before the header may be comments, which begin with "#", or Excel's "sep=;".

    Args:
        file: UTF-8, or UTF-16 or UTF-32 with a byte-order mark.
        field: the field of `data.with` that names it, for messages.

    Raises:
        DataError: if the file cannot be read, or is not text or not CSV; names the line and what to do.
    """
    stream = read_lines(file, field)
    before = 0
    for header in stream:
        if header.strip() and not header.lstrip().startswith("#") and not _is_sep(header):
            break
        before += 1
    else:
        raise DataError(f"{file} is empty; it needs a header: path,label,split")
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(itertools.chain([header], stream), delimiter=delimiter, skipinitialspace=True, strict=True)
    begins = before + 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield before + reader.line_num, cells
            begins = before + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file}:{begins}: not CSV: {error}; a quoted cell begins right after a delimiter, ends right before the "
            "next one, and doubles the quotes in it"
        ) from error


def _is_sep(line: str) -> bool:
    """A line with which Excel names the delimiter; the header shows it, too."""
    return len(line.strip("\r\n")) == len("sep=;") and line.casefold().startswith("sep=")


def read_lines(file: Path, field: str = "manifest") -> Iterator[str]:
    """The lines of a text with their ends, which may be of any kind; arguments and errors as for `read_rows`."""
    if file.exists() and not file.is_file():
        raise DataError(f"the {field} {file} cannot be read: it is a folder, a pipe or a device")
    encoding = "utf-8-sig"
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"the {field} {file} has more than 1 GiB; data.with.{field} must be a CSV file")
        with file.open("rb") as stream:
            mark = stream.read(4)
        encoding = next((name for bom, name in _MARKS if mark.startswith(bom)), encoding)
        with file.open(encoding=encoding, newline="") as text:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise DataError(f"{file}:{number}: the {field} has a NUL, which no text has; save it as UTF-8")
                yield line
    except FileNotFoundError:
        raise DataError(f"there is no {field} {file}; set data.with.{field} to a CSV file") from None
    except UnicodeDecodeError as error:
        raise DataError(_no_text(file, encoding, field)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the {field} {file} cannot be read: {reason}") from error


def _no_text(file: Path, encoding: str, field: str) -> str:
    """Where a file is not of its encoding, from its beginning: a stream's decoder counts from its last block."""
    data = file.read_bytes()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"{file}:{line}" if encoding == "utf-8-sig" else f"{file}"
        name = encoding.removesuffix("-sig").upper()
        return f"{where}: the {field} is not {name} (byte {error.start}); save it as UTF-8"
    return f"{file} changed while it was read; start again"
