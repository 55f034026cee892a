"""Reading a manifest: a CSV of media files with their labels and splits."""

import itertools
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avrobust_core import AvrobustWarning, DataError, Task, first_of
from avrobust_data.cells import Cells, Faults, Labels
from avrobust_data.configs import ClipsConfig
from avrobust_data.listing import SCHEMA, Listing, listed
from avrobust_data.rows import Rows, clashes, number_of, remarks
from avrobust_data.same_files import files_of, misspelt
from avrobust_data.table import read_rows

_CHUNK: Final = 2000
"""Rows that are looked at together; so few that Python's collector of garbage never meets them."""

_ENDS: Final = frozenset({"end", "end_seconds", "stop_seconds", "end_time"})
"""Names under which the ends of segments are known elsewhere."""

_COLUMNS: Final = ("id", "path", "start", "stop", "label", "labels", "split", "group")


def read_manifest(config: ClipsConfig) -> Listing:
    """Read a CSV with the columns `path`, `label` or `labels`, `split`, and optionally `id`, `group`, `start`, `stop`.

    `video` and `audio` may stand in place of `path`, with a file each, or the same where `audio` is empty.
    The header's case does not matter. Cells are stripped of blanks; blank lines and other columns are ignored. `start`
    and `stop` are seconds in the file, of which an empty cell means its beginning or its end. What looks wrong but may
    be meant is an `AvrobustWarning`: labels that differ in case or blanks alone, classes without a clip to learn from,
    clips that count twice, a file with segments in several splits, paths that are spelled otherwise than the files.

    Args:
        config: the file, the separator between labels, the classes and the splits that may occur. Without `classes`
            they are those that do, in the order of `ordered`, whichever ids are then read.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has faulty rows; all of them are counted and the
            first few are shown as file:line. A clip that is in two splits, or has different labels in two rows, is a
            fault of the later row, by whatever path it is named.
    """
    file, root = config.manifest, config.root or config.manifest.parent
    lines = read_rows(file)
    header_line, header = next(lines)
    columns = _columns(file, header_line, header, config.modalities)
    task: Task = "multi-label" if "labels" in columns else "single-label"
    stated = _composed(config.classes) if config.classes is not None else None
    labels = Labels(stated, config.separator if task == "multi-label" else None)
    faults = Faults(file)
    cells = Cells(columns, _width(header), config, labels, faults)
    table = _taken(lines, cells)
    if table is None:
        raise DataError(f"{file} has a header and no rows; add one per clip")
    _note_repeated_ids(table, faults)
    _raise(faults)
    names = stated if stated is not None else ordered(labels.classes)
    rows = _rows(table, labels, names, config, root)
    for line, fault in clashes(rows):
        faults.add(line, [fault])
    _raise(faults)
    if len(names) < 2:
        raise DataError(f"{file}: all clips are of the class {names[0]!r}; a classifier needs two classes at least")
    if config.ids is not None:
        rows = rows.at(listed(rows.table["id"], config.ids, str(file)).to_numpy(zero_copy_only=False))
    for remark in (*remarks(rows), *_spellings(rows, root), *_lost_ends(columns, header)):
        warnings.warn(f"{file}: {remark}", AvrobustWarning, stacklevel=2)
    return Listing(rows.table, names, task, str(file))


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


def _columns(file: Path, line: int, header: Sequence[str], modalities: Sequence[str]) -> Mapping[str, int]:
    """The positions of the columns that are read, by name."""
    names = [name.strip().casefold() for name in header]
    called = _file_columns(names, modalities)
    shown = ", ".join(name.strip() if name.isprintable() else repr(name) for name in header)
    where = f"{file}:{line}: the header is {shown if len(shown) <= 200 else shown[:200] + '...'}"
    ways = {"path": "path (or audio and video, for two files per clip)", "split": "split"}
    missing = [way for name, way in ways.items() if called.get(name, name) not in names]
    if "label" not in names and "labels" not in names:
        missing.insert(1, "label (or labels, for several per clip)")
    if missing:
        raise DataError(f"{where}; it lacks {' and '.join(missing)}")
    if "label" in names and "labels" in names:
        raise DataError(f"{where}; keep either label (one per clip) or labels (several), and rename the other")
    called |= {name: name for name in _COLUMNS if name in names}
    for name in called.values():
        if names.count(name) > 1:
            raise DataError(f"{where}; the column {name} is there {names.count(name)} times")
    return {name: names.index(column) for name, column in called.items()}


def _file_columns(names: Sequence[str], modalities: Sequence[str]) -> dict[str, str]:
    """What the columns of files are called, in a manifest that has one for each modality in place of `path`."""
    if "path" in names or any(name not in names for name in modalities):
        return {}
    return {"path": "video", "sound": "audio"} if len(modalities) > 1 else {"path": modalities[0]}


def _width(header: Sequence[str]) -> int:
    """The columns up to the last that has a name."""
    return max(i for i, name in enumerate(header, 1) if name.strip())


def _lost_ends(columns: Mapping[str, int], header: Sequence[str]) -> Iterator[str]:
    """A remark on the ends of segments in a column that is not read."""
    ends = [name.strip() for name in header if name.strip().casefold() in _ENDS]
    if "start" in columns and "stop" not in columns and ends:
        yield (
            f"clips begin at their start and end with their files, for the column {ends[0]!r} is not read; call it "
            "stop if they end there"
        )


def _taken(lines: Iterator[tuple[int, list[str]]], cells: Cells) -> pa.Table | None:
    """The columns of all rows, `id` among them; None if there is no row."""
    parts = [cells.take(chunk) for chunk in iter(lambda: list(itertools.islice(lines, _CHUNK)), [])]
    if not parts:
        return None
    table = pa.concat_tables(parts).combine_chunks()
    return table if "id" in table.column_names else table.append_column("id", table["path"])


def _rows(table: pa.Table, labels: Labels, names: tuple[str, ...], config: ClipsConfig, root: Path) -> Rows:
    """The rows in the columns of a listing."""
    number = {name: i for i, name in enumerate(names)}
    position = pa.array([number[name] for name in labels.classes], pa.int32())
    found = table["labels"].combine_chunks()
    split = table["split"].combine_chunks()
    count = table.num_rows
    columns = {
        **{name: table[name] for name in table.column_names if name != "line"},
        "split": pa.DictionaryArray.from_arrays(split, pa.array(config.splits, pa.string())),
        "labels": pa.ListArray.from_arrays(found.offsets, position.take(found.values)),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA]
    listing = pa.Table.from_arrays(arrays, schema=SCHEMA)
    line = table["line"].to_numpy().astype(np.int64)
    if "sound" not in table.column_names:
        return Rows(listing, names, line, files_of(table["path"].combine_chunks(), root))
    both = files_of(pa.concat_arrays([listing["path"].combine_chunks(), _sounds(listing)]), root)
    return Rows(listing, names, line, both[:count], both[count:])


def _sounds(listing: pa.Table) -> pa.Array:
    """The files with the sound."""
    return pc.coalesce(listing["sound"], listing["path"]).combine_chunks()


def _note_repeated_ids(table: pa.Table, faults: Faults) -> None:
    ids = table["id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    if len(ids.dictionary) == len(codes):
        return
    lines = table["line"].to_numpy()
    first = np.full(len(ids.dictionary), -1)
    for row, code in enumerate(codes.tolist()):
        if first[code] < 0:
            first[code] = row
            continue
        name = ids.dictionary[code].as_py()
        if name:  # that it is empty is said already
            fault = f"its id {name!r} is that of line {lines[first[code]]}; give the rows a column 'id'"
            faults.add(int(lines[row]), [fault])


def _spellings(rows: Rows, root: Path) -> Iterator[str]:
    """A remark on paths that name no file, where one of another spelling is there."""
    paths = itertools.chain(*(misspelt(rows.table[name].drop_null(), root) for name in ("path", "sound")))
    found = [f"{path!r} ({other!r} is there)" for path, other in paths]
    if found:
        yield f"paths name no file, where one that is spelled otherwise is there: {first_of(found)}"


def _raise(faults: Faults) -> None:
    if faults.count:
        raise DataError(str(faults))
