"""Exported clips read back from their files, and what a model makes of them: what an attack is worth once saved."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from avrobust_core.data.batches import Batch
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.grids import GRID_TOLERANCE
from avrobust_core.data.readings import checksums
from avrobust_core.errors import AvrobustWarning, ClipError, ComponentError, DataError, RunError
from avrobust_core.models.objectives import margin
from avrobust_core.registry.choices import configure
from avrobust_core.registry.registry import Registry
from avrobust_core.report.export_jobs import Job, JobAttack, Origin
from avrobust_core.report.exported import Row, Written

READER = "clips"
"""The data set that reads the files."""


def reader(registry: Registry, settings: Mapping[str, Any]) -> Dataset:
    """The data set that reads an export's clips.

    Args:
        registry: where it is looked up.
        settings: its configuration, as the export's data.yaml has it.

    Raises:
        RunError: if it cannot read such clips.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AvrobustWarning)  # few classes, one split: it is an extract
            dataset: Dataset = configure(registry, "dataset", READER, {**settings, "cache_mib": 0}).build()
            return dataset
    except (ComponentError, DataError) as error:
        raise RunError(f"the data set `{READER}` cannot read such clips back: {error}") from error


class SavedClips:
    """The clips of an export, as the data set `clips` reads them.

    Args:
        written: the files.
        registry: where the data set is looked up.
        expected: by id, the checksums of what must be read back bit for bit, by modality.

    Raises:
        RunError: if that data set cannot read such clips.
    """

    def __init__(self, written: Written, registry: Registry, expected: Mapping[str, Mapping[str, int]]) -> None:
        self._dataset = reader(registry, written.settings(written.folder))
        self._split = written.origin.split
        self._index = {clip_id: i for i, clip_id in enumerate(self._dataset.ids(self._split))}
        self._expected = expected

    def read(self, rows: Sequence[Row]) -> Batch:
        """The clips of these rows of the manifest.

        Raises:
            RunError: if one cannot be read, or is not what was written though its format loses nothing.
        """
        try:
            batch = Batch.stack([self._dataset.read(self._split, self._index[row.id]) for row in rows])
        except ClipError as error:
            raise RunError(f"what was written cannot be read back: {error}") from error
        found = checksums(batch)
        for i, row in enumerate(rows):
            for name, expected in self._expected[row.id].items():
                if int(found[name][i]) != expected:
                    raise RunError(f"{row.files['path']}: its {name} is not read back as it was written: PyAV's fault")
        return batch


class Measuring:
    """Asks models about clips that were read back.

    Args:
        origin: of the clips.
        saved: the clips.
    """

    def __init__(self, origin: Origin, saved: SavedClips) -> None:
        self.origin = origin
        self.saved = saved

    def clean(self, job: Job, rows: Sequence[Row]) -> dict[str, Any]:
        """What a model makes of its clean clips once saved."""
        batch = self.saved.read(rows)
        logits = torch.cat([job.victim.logits(part.inputs).cpu() for part in self._parts(batch)])
        right = margin(logits, batch.targets, job.victim.task) > 0
        return {
            "correct_saved": self._share(job, right.numpy()),
            "paths": [row.files["path"] for row in rows],
            "logits_saved": logits.tolist(),
        }

    def attacked(self, job: Job, attack: JobAttack, rows: Sequence[Row], success: Sequence[bool]) -> dict[str, Any]:
        """What an attack is worth once its clips are saved; clip by clip it is also noted in the manifest's rows.

        A clip counts as fooled as the study has it: it is classified correctly when clean, and no longer after the
        attack; or, where the goal is a class, it is classified as that. Norms are taken from the clip that was
        attacked, before it was saved.

        Args:
            job: the cell and its clips.
            attack: that was carried out.
            rows: of the clips, in order.
            success: of the attack before saving, clip by clip.
        """
        batch = self.saved.read(rows)
        reached: list[bool] = []
        beyond: list[bool] = []
        details: list[dict[str, Any]] = []
        run, label = attack.run, f"{job.label}: {attack.label}, saved"
        for clean, part in zip(job.batches(label), self._parts(batch), strict=True):
            bound = job.victim.bind(clean.to(self.origin.device), run.threat, run.goal)
            logits = job.victim.logits(part.inputs)
            norms = {name: ball.measure(part.inputs[name]) for name, ball in bound.balls.items()}
            radii = {name: ball.radius for name, ball in bound.balls.items()}
            points = {name: part.inputs[name] for name in bound.balls}
            reached += bound.goal.reached(logits).tolist()
            beyond += (bound.region.size(points) > 1 + GRID_TOLERANCE).tolist()
            for i, clip in enumerate(logits.tolist()):
                radius = {name: float(each[i]) for name, each in radii.items()}
                norm = {name: float(each[i]) for name, each in norms.items()}
                details.append({"radius": radius, "norm_saved": norm, "logits_saved": clip})
        counted = np.array([run.goal.targeted or correct for correct in job.correct])
        fooled = np.array(success) & counted
        still = fooled & np.array(reached)
        clips = []
        for i, row in enumerate(rows):
            told = {"fooled": bool(fooled[i]), "fooled_saved": bool(still[i])}
            norms_saved = {f"norm_saved/{name}": f"{value:.6g}" for name, value in details[i]["norm_saved"].items()}
            row.found |= {name: int(value) for name, value in told.items()} | norms_saved
            clips.append({"id": row.source, "path": row.files["path"], **told, **details[i]})
        return {
            "attack": attack.attack,
            "threat": attack.threat,
            "fooled": self._share(job, fooled),
            "fooled_saved": self._share(job, still),
            "still_fooled": self._share(job, still, fooled),
            "beyond_budget": int(np.sum(beyond)),
            "clips": clips,
        }

    def _parts(self, batch: Batch) -> list[Batch]:
        return [part.to(self.origin.device) for part in _split(batch, self.origin.batch_size)]

    def _share(self, job: Job, flags: Any, among: Any = None) -> dict[str, Any]:
        """A share of a job's clips, with its interval and the counts that it is of."""
        among = np.ones(len(flags), dtype=bool) if among is None else among
        intervals = self.origin.intervals.over(job.ids)
        found = intervals.share(np.asarray(flags), np.asarray(among)).to_json()
        return found | {"count": int(np.sum(np.asarray(flags)[among])), "of": int(np.sum(among))}


def _split(batch: Batch, size: int) -> list[Batch]:
    positions = torch.arange(len(batch))
    return [batch.select(positions[start : start + size]) for start in range(0, len(batch), size)]
