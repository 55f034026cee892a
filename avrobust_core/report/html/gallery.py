"""A gallery of exported clips, clean and attacked: its media go into the page, as many as there is room for."""

import base64
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Gallery, Media, Part, Section, Text

FOLDERS: Final = ("gallery", "export")
"""Folders of a run that may hold exported clips."""
MANIFEST: Final = "manifest.csv"
"""Names them: a row for each, with its `path` in the folder, an `id`, and whatever else is to be told."""
ROOM: Final = 3 * 2**20
"""Bytes of media in the page, before they are encoded."""

TYPES: Mapping[str, str] = MappingProxyType(
    {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
    | {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
    | {".mp4": "video/mp4", ".webm": "video/webm"}
)
"""What a browser shows, by the ends of names."""


def gallery(run: Run) -> Section:
    """The clips of the first folder of `FOLDERS` that has a manifest; none without."""
    parts: list[Part] = []
    for name in FOLDERS:
        if (run.root / name / MANIFEST).is_file():
            try:
                parts = list(_shown(run.root / name))
            except (OSError, ValueError, csv.Error) as error:
                run.missing.append(f"{name}/{MANIFEST} cannot be read ({error}): there is no gallery")
            break
    return Section("gallery", "See and hear it", parts)


def _shown(folder: Path) -> Iterator[Part]:
    with (folder / MANIFEST).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("path")]
    clips: dict[str, tuple[str, Mapping[str, str], list[Media]]] = {}
    room, left_out = ROOM, 0
    for row in rows:
        path = (folder / row["path"]).resolve()
        kind = TYPES.get(path.suffix.lower())
        if kind is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
            left_out += 1
            continue
        size = path.stat().st_size
        if size > room:
            left_out += 1
            continue
        room -= size
        data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
        title = row.get("id") or path.stem
        facts = {str(name): str(value) for name, value in row.items() if name not in ("path", "id") and value}
        clip = clips.setdefault(f"{title}\0{facts}", (title, facts, []))
        clip[2].append(Media(kind.partition("/")[0], data, row["path"]))
    if clips:
        yield Gallery(list(clips.values()))
    if left_out:
        yield Text(
            f"{left_out} of {len(rows)} files of {folder.name}/ are not shown here: they are missing, of a kind that "
            f"browsers do not show, or more than the page has room for ({ROOM // 2**20} MiB)."
        )
