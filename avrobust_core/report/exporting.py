"""Attacked clips of a run as media files, beside the clean ones, and what they are still worth once saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avrobust_core.attacks.running import attack_batch
from avrobust_core.data.batches import Batch, Clip
from avrobust_core.data.readings import checksums
from avrobust_core.errors import RunError
from avrobust_core.evaluation.outcomes import Intervals, groups_by_clip
from avrobust_core.files import whole_folder
from avrobust_core.notes import collected
from avrobust_core.registry.registry import Registry
from avrobust_core.report.export_choice import Asked, jobs_of
from avrobust_core.report.export_jobs import Job, JobAttack, Origin, refuse_taken
from avrobust_core.report.exported import EXPORT_FORMAT, FileNames, Row, Written
from avrobust_core.report.media_files import Form, Writer
from avrobust_core.report.saved_clips import Measuring, SavedClips
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.study.building import Builder
from avrobust_core.study.console import Monitor
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.process import Process


def export(
    loaded: LoadedSpec,
    registry: Registry,
    root: Path,
    out: Path,
    asked: Asked,
    writer_of: Callable[[Form], Writer],
    *,
    silent: bool = False,
) -> dict[str, Any]:
    """Attack clips of a run once more, write them as media files, read these back, and ask the models again.

    A run keeps no perturbations: attacks repeat themselves, from the seed and the clip's id. The folder appears whole,
    or not at all.

    Args:
        loaded: the run's resolved spec.
        registry: of the components that are installed.
        root: the run's folder.
        out: the folder to make.
        asked: which clips.
        writer_of: from the form of the clips to what writes them.
        silent: show no progress.

    Returns:
        What export.json holds, which docs/export.md describes, and `out`.

    Raises:
        RunError: if there is no such cell, attack or clip, the run has not come so far, `out` is not empty, the clips
            are nothing that media files hold, or a file without loss is not read back as it was written.
        DataError: if a clip is not what it was in the run.
    """
    refuse_taken(out)
    engine, monitor = loaded.spec.engine, Monitor(silent=silent)
    devices = engine.devices[:1] if isinstance(engine.devices, list) else 1
    fabric = fabric_of(engine.model_copy(update={"devices": devices}))
    fabric.launch()
    with collected(lambda note: monitor.say(f"note: {note}")):
        process = Process(fabric, Builder(loaded.spec, registry), monitor)
        with process.loader:
            writer = writer_of(Form.of(process.dataset.media))
            jobs = jobs_of(process, asked, root)
            return write_export(out, _origin(process), jobs, writer, {"run": str(root), "chosen": str(asked)})


def _origin(process: Process) -> Origin:
    section, dataset = process.spec.evaluation, process.dataset
    grouping = groups_by_clip(dataset, section.split)
    return Origin(
        media=dataset.media,
        classes=dataset.classes,
        task=dataset.task,
        split=section.split,
        intervals=Intervals(section.confidence, section.resamples, process.spec.seed, grouping),
        registry=process.builder.registry,
        device=process.device,
        batch_size=process.spec.engine.stated_batch_size,
        monitor=process.monitor,
    )


def write_export(
    out: Path, origin: Origin, jobs: Sequence[Job], writer: Writer, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Attack clips once more, write them as media files, read these back, and ask the models again.

    The folder appears whole, or not at all.

    Args:
        out: the folder to make, new or empty.
        origin: of the clips.
        jobs: the models, clips and attacks.
        writer: of the files.
        about: what else export.json holds.

    Returns:
        What export.json holds, and `out`.

    Raises:
        RunError: if a file without loss is not read back as it was written.
    """
    with whole_folder(out) as folder:
        exporting = _Exporting(origin, writer, Written(folder, writer.form, origin))
        findings = {
            "format": EXPORT_FORMAT,
            **about,
            "sound": str(writer.sound),
            "pictures": str(writer.pictures),
            **exporting.carry_out(jobs),
        }
        exporting.written.write_rest(out, findings)
    return findings | {"out": str(out)}


class _Exporting:
    """Writes clips, and has them measured.

    Args:
        origin: of the clips.
        writer: of the files.
        written: what is there of them.
    """

    def __init__(self, origin: Origin, writer: Writer, written: Written) -> None:
        self.origin = origin
        self.writer = writer
        self.written = written
        self.names = FileNames()
        self.clean: dict[str, Row] = {}
        self.expected: dict[str, dict[str, int]] = {}

    def carry_out(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Write the clips of these models, read them back, and sum up."""
        attacked = [[self._attack(job, attack) for attack in job.attacks] for job in jobs]
        self.written.rows[:] = [*self.clean.values(), *(row for job in attacked for rows, _ in job for row in rows)]
        self.written.write_manifest()
        saved = SavedClips(self.written, self.origin.registry, self.expected)
        measuring = Measuring(self.origin, saved)
        cells = []
        for job, results in zip(jobs, attacked, strict=True):
            self.origin.monitor.say(f"{job.label}: read back from the files")
            entry: dict[str, Any] = {**job.names, "clips": list(job.ids), "attacks": []}
            with job.victim.frozen():
                entry["clean"] = measuring.clean(job, [self.clean[clip_id] for clip_id in job.ids])
                for attack, (rows, before) in zip(job.attacks, results, strict=True):
                    found = measuring.attacked(job, attack, rows, [each["success"] for each in before])
                    for clip, known in zip(found["clips"], before, strict=True):
                        clip |= {"norm": known["norm"], "logits": known["logits"]}
                    entry["attacks"].append(
                        found | {"success_rate_in_run": attack.rate} | _otherwise(job, attack, before)
                    )
            cells.append(entry)
        self.written.write_manifest()  # with what was found
        about = {"split": self.origin.split, "confidence": self.origin.intervals.confidence}
        return about | {"classes": list(self.origin.classes), "cells": cells}

    def _attack(self, job: Job, attack: JobAttack) -> tuple[list[Row], list[dict[str, Any]]]:
        """Attack a model's clips and write them, and the clean ones that are not there yet.

        Returns:
            A row for each clip; and `success`, `norm` and `logits` of each before it was saved.
        """
        label = f"{job.label}: {attack.label}"
        self.origin.monitor.say(f"{label}: {len(job.ids)} clips attacked again")
        rows: list[Row] = []
        before: list[dict[str, Any]] = []
        monitor = self.origin.monitor
        with job.victim.frozen(), monitor.task(label):
            run = job.ready(attack.run)
            for batch in job.batches(label):
                found = attack_batch(job.victim, batch.to(self.origin.device), run)
                after = replace(batch, inputs={**batch.inputs, **{k: x.cpu() for k, x in found.inputs.items()}})
                norms = {name: each.tolist() for name, each in found.norms.items()}
                logits, success = found.logits.tolist(), found.success.tolist()
                for i, clip_id in enumerate(batch.ids):
                    if clip_id not in self.clean:
                        self.clean[clip_id] = self._row(batch, i, ("clean",))
                    rows.append(self._row(after, i, (job.label, attack.attack, attack.threat)))
                    norm = {name: each[i] for name, each in norms.items()}
                    before.append({"success": success[i], "norm": norm, "logits": logits[i]})
                monitor.update(len(rows), len(job.ids))
        return rows, before

    def _row(self, batch: Batch, i: int, where: tuple[str, ...]) -> Row:
        """Write a clip of a batch, and note it for the manifest."""
        clip = Clip(batch.ids[i], {name: x[i] for name, x in batch.inputs.items()}, batch.targets[i])
        lacking = [name for name, x in clip.inputs.items() if not bool(torch.isfinite(x).all())]
        if lacking:
            raise RunError(f"clip {clip.id!r} cannot be exported, for it has no {lacking[0]}; name others with --ids")
        place, _, name = self.names.of((*where, clip.id)).rpartition("/")
        files = self.writer.write(clip.inputs, self.written.folder / place, name)
        form, writer = self.writer.form, self.writer
        kept = checksums(Batch.stack([Clip(clip.id, form.kept(clip.inputs, writer.sound), clip.target)]))
        exact = {form.sound: writer.sound.lossless, form.pictures: writer.pictures.lossless}
        row_id = f"{place}/{name}"
        self.expected[row_id] = {each: int(kept[each][0]) for each in clip.inputs if exact[each]}
        own = [int(clip.target)] if clip.target.dim() == 0 else clip.target.nonzero().flatten().tolist()
        cell, attack, threat = where if len(where) == 3 else ("", "", "")
        return Row(
            id=row_id,
            source=clip.id,
            labels=[self.origin.classes[label] for label in own],
            group=self.origin.intervals.grouping.get(clip.id, clip.id),
            files={kind: f"{place}/{file}" if file else "" for kind, file in files.items()},
            version="attacked" if attack else "clean",
            cell=cell,
            attack=attack,
            threat=threat,
        )


def _otherwise(job: Job, attack: JobAttack, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many clips the attack, carried out again, left otherwise than before; None where that is not known."""
    if attack.success is None:
        return {"otherwise_than_in_run": None}
    pairs = zip(job.ids, before, strict=True)
    return {"otherwise_than_in_run": sum(attack.success.get(clip_id) != each["success"] for clip_id, each in pairs)}
