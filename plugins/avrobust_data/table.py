"""From a manifest's bytes to numbered rows of cells: encodings, delimiters, comments, and what is wrong with a CSV."""

import codecs
import csv
import io
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

_DELIMITERS: Final = ",;\t"


def read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, each with the number of the line in which it ends, the header first.

    Cells are separated by what separates most cells of the header: commas, semicolons or tabs. Blanks before a cell
    are left out, also before a quote; lines before the header may be comments, which begin with "#".

    Args:
        file: UTF-8, or UTF-16 or UTF-32 with a byte-order mark.

    Raises:
        DataError: if the file cannot be read, or is not text or not CSV; names the line and what to do.
    """
    stream = io.StringIO(_text(file), newline="")
    before = 0
    for header in stream:
        if header.strip() and not header.lstrip().startswith("#"):
            break
        before += 1
    else:
        raise DataError(f"{file} is empty; it needs a header: path,label,split")
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(itertools.chain([header], stream), delimiter=delimiter, skipinitialspace=True, strict=True)
    begins = before + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield before + reader.line_num, cells
            begins = before + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file}:{begins}: not CSV: {error}; a quoted cell begins right after a delimiter, ends right before the "
            "next one, and doubles the quotes in it"
        ) from error


def _text(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise DataError(f"the manifest {file} cannot be read: it is a folder, a pipe or a device")
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"the manifest {file} has more than 1 GiB; data.with.manifest must be a CSV file")
        data = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no manifest {file}; set data.with.manifest to a CSV file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the manifest {file} cannot be read: {reason}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"{file}:{line}" if encoding == "utf-8-sig" else f"{file}"
        raise DataError(
            f"{where}: the manifest is not {encoding.removesuffix('-sig').upper()} (byte {error.start}); save it as "
            "UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}:{line}: the manifest has a NUL, which no text has; save it as UTF-8")
    return text
