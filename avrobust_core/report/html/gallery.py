"""A gallery of exported clips, clean and attacked: their media go into the page, as many as there is room for."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from avrobust_core.errors import AvrobustError, ClipError
from avrobust_core.registry.registry import Registry
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Gallery, Media, Part, Section, ShownClip, Text

if TYPE_CHECKING:
    from avrobust_core.report.html.exported_clips import Attacked, ExportedClips

FOLDER: Final = "export"
"""The folder of a run that `avrobust export` writes."""
MOST: Final = 24
"""The most attacked clips in a page."""
ROOM: Final = 6 * 2**20
"""Bytes of media in the page, as they stand in it."""


def gallery(run: Run, registry: Registry) -> Section:
    """The clips of the run's export; nothing without one."""
    parts: list[Part] = []
    folder = run.root / FOLDER
    if folder.is_dir():
        from avrobust_core.report.html.exported_clips import ExportedClips  # torch, which takes a second to import

        try:
            parts = list(_parts(run, ExportedClips(folder, registry)))
        except AvrobustError as error:
            run.missing.append(f"{FOLDER}/ is not shown: {error}")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            run.missing.append(
                f"{FOLDER}/ is not shown: it is not as avrobust writes it ({type(error).__name__}: {error}); delete "
                "it, and export anew"
            )
    return Section("gallery", "See and hear it", parts)


def _parts(run: Run, exported: "ExportedClips") -> Iterator[Part]:
    findings = exported.findings
    of_run = {cell["id"] for cell in run.cells}
    others = [cell for cell in findings["cells"] if cell["id"] not in of_run]
    if others:
        run.missing.append(
            f"{FOLDER}/ has clips of {len(others)} cells that this run no longer has: they are not shown; delete it, "
            "and export anew"
        )
    listed = exported.attacked(of_run)
    clips, shown, full = _chosen(run, exported, listed)
    if not shown:
        return
    yield Text(
        f"Clips as `avrobust export` wrote them ({findings['sound']}, {findings['pictures']}; {findings['chosen']}), "
        "read back from the files. SNR, PSNR and differences are between the two saved files; beside each prediction "
        "stands the model's confidence."
    )
    if shown < len(listed):
        why = f"the page has room for {ROOM // 2**20} MiB of them" if full else f"a page has at most {MOST}"
        yield Text(
            f"Shown are {shown} of {len(listed)} attacked clips ({why}): of each model, attack and threat first one "
            f"that was fooled, if there is one. {FOLDER}/manifest.csv lists all."
        )
    if exported.remark:
        yield Text(exported.remark)
    yield Gallery(clips)


def _chosen(run: Run, exported: "ExportedClips", listed: Sequence["Attacked"]) -> tuple[list[ShownClip], int, bool]:
    """The clips with their attacked versions, how many these are, and whether the room was what ended it."""
    clips: dict[str, ShownClip] = {}
    room, shown = ROOM, 0
    for one in listed:
        if shown == MOST:
            return list(clips.values()), shown, False
        try:
            clip = clips.get(one.source) or exported.clean(one)
            version = exported.version(one)
        except ClipError as error:
            run.missing.append(f"a clip of {FOLDER}/ is not shown: {error}")
            continue
        new = [*version.media, *(() if one.source in clips else clip.media)]
        if (size := _size(new)) > room:
            return list(clips.values()), shown, True
        room -= size
        shown += 1
        clip.versions.append(version)
        clips[one.source] = clip
    return list(clips.values()), shown, False


def _size(media: list[Media]) -> int:
    return sum(len(each.data) for each in media)
