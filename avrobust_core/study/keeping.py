"""Tables of what was found for each clip, beside a run: named by all that decides them, kept, and taken again."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avrobust_core.evaluation import shards
from avrobust_core.files import digest, remove_leftovers, write_atomically, write_record
from avrobust_core.registry.choices import Configured
from avrobust_core.study.process import Process

RECORD = "record.json"
TABLE = "clips.parquet"
"""The files of a folder: the record that completes it, and the table."""


def kept_table(
    process: Process,
    place: Path,
    identity: Mapping[str, Any],
    label: str,
    fill: Callable[[Path], None],
    made_by: Iterable[Configured],
) -> tuple[pa.Table, dict[str, Any] | None]:
    """A table that an earlier call has left, or a new one; what a killed call has done of it is not done again.

    Args:
        process: the only one of this call, which holds `place`.
        place: the folder of all such tables.
        identity: all that decides the table, as JSON data: one of anything else lies elsewhere.
        label: for messages.
        fill: writes the shards that are lacking into the table's folder.
        made_by: the components whose work it is.

    Returns:
        The table, one row per clip that could be read, in the selection's order; and the record of an earlier call that
        has made it, None if this one has.
    """
    folder = place / digest(identity)
    remove_leftovers(folder)
    record = process.kept(folder / RECORD, f"{label} is done again")
    if record is None:
        fill(folder)
        table = shards.collected(folder, process.selection)
        write_atomically(folder / TABLE, lambda file: pq.write_table(table, file))
        write_record(folder / RECORD, {"identity": identity, **process.made_with(made_by)}, [folder / TABLE])
    shards.remove(folder)
    return pq.read_table(folder / TABLE), record
