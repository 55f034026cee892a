"""The files beside exported clips: the manifest that `clips` reads, the spec's part that reads it, and the findings."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from avrobust_core.errors import RunError
from avrobust_core.files import write_json, write_text
from avrobust_core.report.export_jobs import Origin
from avrobust_core.report.media_files import Form
from avrobust_core.spec.yaml_writer import write_yaml

EXPORT_FORMAT: Final = 1
"""The version of what stands in export.json, and of the files beside it."""

MANIFEST: Final = "manifest.csv"
FINDINGS: Final = "export.json"
DATA: Final = "data.yaml"

_SEPARATORS: Final = "|;#~^"
"""The separators between labels, of which the first is taken that no class has in its name."""

_LONGEST: Final = 60


@dataclass(slots=True)
class Row:
    """A clip in the manifest.

    Attributes:
        id: of the exported clip.
        source: the clip's id in the study's data set.
        labels: its classes' names.
        group: what it was drawn with: all versions of one source belong together.
        files: `path`, `wav` and `png`, below the export's folder.
        version: "clean" or "attacked".
        cell, attack, threat: whose attack; empty for clean clips.
        found: further columns, known once the file was read back.
    """

    id: str
    source: str
    labels: Sequence[str]
    group: str
    files: Mapping[str, str]
    version: str
    cell: str = ""
    attack: str = ""
    threat: str = ""
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an export, as they are being written.

    Attributes:
        folder: that they are written into.
        form: of the clips.
        origin: of the clips.
        rows: of the manifest.
    """

    folder: Path
    form: Form
    origin: Origin
    rows: list[Row] = field(default_factory=list)

    @property
    def separator(self) -> str:
        """The separator between labels.

        Raises:
            RunError: if the classes' names leave none.
        """
        free = [mark for mark in _SEPARATORS if not any(mark in name for name in self.origin.classes)]
        if not free:
            raise RunError(
                f"the classes' names hold every one of {_SEPARATORS}, so that nothing can stand between them"
            )
        return free[0]

    def write_manifest(self) -> None:
        """Write the manifest: a row per clip, in the order of `rows`."""
        several = self.origin.task == "multi-label"
        columns = dict.fromkeys(name for row in self.rows for name in row.found)
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        head = ("path", "labels" if several else "label", "split", "id", "group", "source", "version", "cell")
        out.writerow((*head, "attack", "threat", "wav", "png", *columns))
        for row in self.rows:
            labels = self.separator.join(row.labels)
            first = (row.files["path"], labels, self.origin.split, row.id, row.group, row.source, row.version, row.cell)
            rest = (row.attack, row.threat, row.files["wav"], row.files["png"])
            out.writerow((*first, *rest, *(row.found.get(name, "") for name in columns)))
        write_text(self.folder / MANIFEST, text.getvalue())

    def settings(self, folder: Path) -> dict[str, Any]:
        """The configuration of `clips` that reads the manifest in this folder."""
        settings = {"manifest": str(folder / MANIFEST), **self.form.settings(), "classes": list(self.origin.classes)}
        if self.origin.task == "multi-label":
            settings["separator"] = self.separator
        if self.origin.split not in ("train", "val", "test"):
            settings["splits"] = [self.origin.split]
        return settings

    def write_rest(self, folder: Path, findings: Mapping[str, Any]) -> None:
        """Write the spec's part for a manifest in this folder, where the files will be, and what was found."""
        text = write_yaml({"data": {"use": "clips", "with": self.settings(folder)}})
        if self.origin.split != "test":
            text += write_yaml({"evaluation": {"split": self.origin.split}})
        write_text(self.folder / DATA, text)
        write_json(self.folder / FINDINGS, findings)


class FileNames:
    """Names of files and folders made of ids and of names in a spec: plain, short, and none given twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, parts: Iterable[str]) -> str:
        """The name for these parts, a folder each; the same for the same parts."""
        key = tuple(parts)
        if key not in self._known:
            plain = "/".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part)[-_LONGEST:].strip("._-") or "clip" for part in key)
            name, number = plain, 1
            while name.casefold() in self._taken:
                number += 1
                name = f"{plain}-{number}"
            self._taken.add(name.casefold())
            self._known[key] = name
        return self._known[key]
