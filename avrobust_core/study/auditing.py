"""Audits of a study's cells: made once, kept beside the cell's evaluations, and reused."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avrobust_core.attacks.running import AttackRun
from avrobust_core.audit import auditing
from avrobust_core.audit.case import Case
from avrobust_core.audit.clips import Clips
from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import Skipped
from avrobust_core.deadline import limited
from avrobust_core.errors import BatchTimeout
from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.files import digest, without_upkeep, write_record
from avrobust_core.spec.model import AuditSection
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.process import Process


def audited(
    process: Process,
    cell: PlannedCell,
    weights: str,
    clean: Predictions,
    outcomes: Sequence[Outcome],
    runs: Mapping[tuple[str, str], AttackRun],
    intervals: Intervals,
    label: str,
) -> dict[str, Any]:
    """A cell's audit as JSON data: that which is kept, or a new one; with the seconds that it and the attacks took.

    Args:
        process: this one; the first audits, on a few clips, while the others wait.
        cell: fitted and evaluated.
        weights: a hash of its weights.
        clean: its predictions on the clean clips.
        outcomes: of its attacks.
        runs: by attack and threat, what was run; what touches nothing of the model is absent.
        intervals: of its results.
        label: for messages.
    """
    section = process.spec.audit
    done = {(outcome.attack, outcome.threat) for outcome in outcomes}
    runs = {key: run for key, run in runs.items() if key in done}  # an attack that failed has nothing to judge
    if section == "off" or not runs:
        return {"verdict": "off"} | ({} if section == "off" else {"reason": "nothing was attacked"})
    evaluations = [  # names too, since messages hold them
        [e.attack, e.threat, e.folder.name]
        for e in cell.evaluations
        if e.direction is None and (e.attack is None or (e.attack, e.threat) in runs)
    ]
    path = _path(cell, section, weights, intervals, evaluations)
    kept = process.kept(path, f"{label}: audited again")
    process.fabric.barrier()  # every process has seen the same files before the first one writes
    if kept is not None:
        return without_upkeep(kept)
    process.begin()

    def read(ids: Sequence[str]) -> Iterator[Batch]:
        chosen = set(ids)
        selection = process.selection.where(clip_id in chosen for clip_id in process.selection.ids)
        chunks = selection.chunks(process.batch_size(cell))
        return filter(None, process.read(selection.split, chunks, Skipped(process.dataset)))

    def case() -> Case:
        clips = Clips(read, process.device)
        return Case(process.victim(cell), clean, outcomes, runs, intervals, clips, process.batch_size(cell))

    found: dict[str, Any] = {"verdict": "not done", "reason": "the first process says why"}
    if process.first:
        process.monitor.say(f"{label}: audit")
        begun = time.perf_counter()
        try:
            with limited(process.spec.engine.batch_timeout, lambda: f"{label}: audit"):
                found = auditing.guarded(section, case)
        except BatchTimeout as error:
            found = {"verdict": "not done", "reason": str(error)}
        found["seconds"] = round(time.perf_counter() - begun, 3)
        attacked = {id(o.predictions): o.predictions for o in outcomes if (o.attack, o.threat) in runs}
        found["attack_seconds"] = round(sum(predictions.seconds for predictions in attacked.values()), 3)
        if found["verdict"] in ("passed", "failed"):
            write_record(path, found)
    process.fabric.barrier()
    if not process.first:
        kept = process.kept(path, f"{label}: audited again")
    return found if kept is None else without_upkeep(kept)


def _path(
    cell: PlannedCell, section: AuditSection, weights: str, intervals: Intervals, evaluations: Sequence[Sequence[Any]]
) -> Path:
    """The file of an audit, named by all that decides it."""
    identity = {
        "version": auditing.VERSION,
        "weights": weights,
        "section": section.model_dump(mode="json"),
        "confidence": intervals.confidence,
        "resamples": intervals.resamples,
        "evaluations": evaluations,
    }
    return cell.folder / "audits" / f"{digest(identity)}.json"
