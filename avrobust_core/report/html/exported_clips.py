"""What `avrobust export` wrote, read back for the page: its findings, clip by clip, and the clips themselves."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrobust_core.data.batches import Clip
from avrobust_core.errors import RunError
from avrobust_core.files import read_json
from avrobust_core.registry.registry import Registry
from avrobust_core.report.exported import DATA, EXPORT_FORMAT, FINDINGS, MANIFEST
from avrobust_core.report.html.clip_views import ClipViews
from avrobust_core.report.html.view import ShownClip, Version
from avrobust_core.report.media_files import Form
from avrobust_core.report.saved_clips import reader
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.yaml_reader import read_yaml


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attacked clip, and what was found of it.

    Attributes:
        title: whose attack, under which threat.
        source: the clip's id in the study.
        clean: the clean clip's file.
        logits: of the clean clip, as saved.
        found: what export.json says of the attacked one.
    """

    title: str
    source: str
    clean: str
    logits: Sequence[float]
    found: Mapping[str, Any]


class ExportedClips:
    """An export's clips.

    Args:
        folder: of the export.
        registry: where the data set is looked up that reads them.

    Raises:
        RunError: if its files are damaged, or of another version, or that data set cannot read them.
    """

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.findings: Mapping[str, Any] = read_json(folder / FINDINGS)
        found = self.findings["format"]
        if found != EXPORT_FORMAT:
            raise RunError(
                f"{folder / FINDINGS}: its format is {found!r}, and this avrobust reads {EXPORT_FORMAT}; export anew"
            )
        self._dataset = reader(registry, _settings(folder))
        self._split = str(self.findings["split"])
        self._index = {clip_id: i for i, clip_id in enumerate(self._dataset.ids(self._split))}
        self._views = ClipViews(Form.of(self._dataset.media))

    @property
    def remark(self) -> str | None:
        """What is to be said of all clips."""
        return self._views.too_long()

    def attacked(self, cells: Container[str]) -> list[Attacked]:
        """The attacked clips in the order in which they are worth showing.

        That is first one of each cell under its first attack, then under the next, and so on; then a second one of
        each. Clips that were fooled come before those that were not.

        Args:
            cells: the ids of those that count.
        """
        listed = [cell for cell in self.findings["cells"] if cell["id"] in cells]
        several = len({cell["seed"] for cell in listed}) > 1
        ranked: list[tuple[tuple[int, int, int], Attacked]] = []
        for place, cell in enumerate(listed):
            name = f"{cell['model']}/{cell['training']}" + (f", seed {cell['seed']}" if several else "")
            pairs = zip(cell["clean"]["paths"], cell["clean"]["logits_saved"], strict=True)
            clean = dict(zip(cell["clips"], pairs, strict=True))
            for number, entry in enumerate(cell["attacks"]):
                title = f"{name}: {entry['attack']} on {entry['threat']}"
                for rank, clip in enumerate(sorted(entry["clips"], key=lambda each: not each["fooled"])):
                    path, logits = clean[clip["id"]]
                    ranked.append(((rank, number, place), Attacked(title, clip["id"], path, logits, clip)))
        return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]

    def clean(self, one: Attacked) -> ShownClip:
        """A clip by itself, as a place for its attacked versions.

        Raises:
            ClipError: if it cannot be read.
        """
        clip = self._read(one.clean)
        media = list(self._views.clean(clip.inputs, one.source))
        own = [int(clip.target)] if clip.target.dim() == 0 else clip.target.nonzero().flatten().tolist()
        return ShownClip(one.source, ", ".join(self._classes[label] for label in own), media, [])

    def version(self, one: Attacked) -> Version:
        """An attacked clip with its findings.

        Raises:
            ClipError: if it, or the clean one, cannot be read.
        """
        clean, attacked = self._read(one.clean).inputs, self._read(one.found["path"]).inputs
        media = list(self._views.attacked(clean, attacked, f"{one.source}, {one.title}"))
        return Version(one.title, self._facts(one) | self._views.likeness(clean, attacked), media)

    def _facts(self, one: Attacked) -> dict[str, str]:
        found = one.found
        still = "yes, and still once saved" if found["fooled_saved"] else "yes, but no longer once saved"
        sizes = (f"{name} {size:.3g} of {found['radius'][name]:.3g}" for name, size in found["norm_saved"].items())
        return {
            "prediction, clean": self._predicted(one.logits),
            "attacked": self._predicted(found["logits"]),
            "attacked and saved": self._predicted(found["logits_saved"]),
            "fooled": still if found["fooled"] else "no",
            "size once saved, of its budget": ", ".join(sizes),
        }

    def _predicted(self, logits: Sequence[float]) -> str:
        """The class that leads, and how sure the model is of it: softmax; of several labels, sigmoid."""
        scores = torch.tensor(logits, dtype=torch.float64)
        sure = scores.softmax(0) if self._dataset.task == "single-label" else scores.sigmoid()
        leading = int(scores.argmax())
        return f"{self._classes[leading]} ({100 * float(sure[leading]):.1f} %)"

    @property
    def _classes(self) -> Sequence[str]:
        return self._dataset.classes

    def _read(self, path: str) -> Clip:
        return self._dataset.read(self._split, self._index[path.rpartition(".")[0]])


def _settings(folder: Path) -> dict[str, Any]:
    """The configuration of the data set that reads the clips where they are now, and nothing outside of the folder."""
    path = folder / DATA
    try:
        reading = read_yaml(path.read_text(encoding="utf-8"), DATA)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); export anew") from error
    found = None if reading.root is None or reading.problems else plain(reading.root)
    if not isinstance(found, dict):
        raise RunError(f"{path}: is damaged; export anew")
    return {**found["data"]["with"], "manifest": str(folder / MANIFEST), "root": None, "outside_root": False}
