"""Audits of a study's cells: made once, kept beside the cell's evaluations, and reused."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avrobust_core.attacking import AttackRun
from avrobust_core.audit import auditing
from avrobust_core.audit.case import Case
from avrobust_core.audit.clips import Clips
from avrobust_core.batches import Batch
from avrobust_core.errors import BatchTimeout, RunError
from avrobust_core.spec.model import AuditSection
from avrobust_core.study.deadline import limited
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.loading import Skipped
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.process import Process
from avrobust_core.study.results import Intervals, Outcome
from avrobust_core.study.store import digest, read_record, without_upkeep, write_record
from avrobust_core.victim import Victim


class Auditing:
    """Audits cells; the first process does it, on a few clips, while the others wait.

    Args:
        process: this one.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        section = process.spec.audit
        self.section: AuditSection | None = None if section == "off" else section

    def audit(
        self,
        cell: PlannedCell,
        weights: str | None,
        clean: Predictions,
        outcomes: Sequence[Outcome],
        runs: Mapping[tuple[str, str], AttackRun],
        intervals: Intervals,
        label: str,
    ) -> dict[str, Any]:
        """A cell's audit as JSON data: that which is kept, or a new one; with the seconds that it and the attacks took.

        Args:
            cell: fitted and evaluated.
            weights: a hash of its weights; None where it is not known.
            clean: its predictions on the clean clips.
            outcomes: of its attacks.
            runs: by attack and threat, what was run; what touches nothing of the model is absent.
            intervals: of its results.
            label: for messages.
        """
        process = self.process
        done = {(outcome.attack, outcome.threat) for outcome in outcomes}
        runs = {key: run for key, run in runs.items() if key in done}  # an attack that failed has nothing to judge
        if self.section is None or not runs:
            return {"verdict": "off"} | ({} if self.section is None else {"reason": "nothing was attacked"})
        identity = self._identity(cell, weights, self.section, runs, intervals)
        path = cell.folder / "audits" / f"{digest(identity)}.json"
        kept = self._kept(path, label)
        process.fabric.barrier()  # every process has seen the same files before the first one writes
        if kept is not None:
            return kept
        found: dict[str, Any] = {"verdict": "not done", "reason": "the first process says why"}
        if process.first:
            process.monitor.say(f"{label}: audit")
            begun = time.perf_counter()
            try:
                with limited(process.spec.engine.batch_timeout, lambda: f"{label}: audit"):
                    found = auditing.guarded(self.section, lambda: self._case(cell, clean, outcomes, runs, intervals))
            except BatchTimeout as error:
                found = {"verdict": "not done", "reason": str(error)}
            found["seconds"] = round(time.perf_counter() - begun, 3)
            attacked = {id(o.predictions): o.predictions for o in outcomes if (o.attack, o.threat) in runs}
            found["attack_seconds"] = round(sum(predictions.seconds for predictions in attacked.values()), 3)
            if found["verdict"] in ("passed", "failed"):
                write_record(path, found)
        process.fabric.barrier()
        return found if process.first else self._kept(path, label) or found

    def _kept(self, path: Path, label: str) -> dict[str, Any] | None:
        """The audit of an earlier run, if it is there and sound."""
        if not path.exists():
            return None
        try:
            return without_upkeep(read_record(path))
        except RunError as error:
            self.process.monitor.say(f"{label}: audited again: {error}")
            return None

    def _identity(
        self,
        cell: PlannedCell,
        weights: str | None,
        section: AuditSection,
        runs: Mapping[tuple[str, str], AttackRun],
        intervals: Intervals,
    ) -> dict[str, Any]:
        """All that decides an audit: what is judged, and how far it may go; names too, since messages hold them."""
        return {
            "version": auditing.VERSION,
            "weights": weights,
            "section": section.model_dump(mode="json"),
            "confidence": intervals.confidence,
            "resamples": intervals.resamples,
            "evaluations": [
                [e.attack, e.threat, e.folder.name]
                for e in cell.evaluations
                if e.direction is None and (e.attack is None or (e.attack, e.threat) in runs)
            ],
        }

    def _case(
        self,
        cell: PlannedCell,
        clean: Predictions,
        outcomes: Sequence[Outcome],
        runs: Mapping[tuple[str, str], AttackRun],
        intervals: Intervals,
    ) -> Case:
        process = self.process
        victim = Victim(
            process.model(cell),
            media=process.dataset.media,
            task=process.dataset.task,
            seed=cell.seed,
            samples=process.spec.evaluation.samples,
        )
        places = dict(zip(process.selection.ids, process.selection.indices, strict=True))

        def read(ids: Sequence[str]) -> Iterator[Batch]:
            size = process.spec.engine.batch_size
            positions = [places[clip_id] for clip_id in ids]
            chunks = [positions[start : start + size] for start in range(0, len(positions), size)]
            for batch in process.read(process.selection.split, chunks, Skipped(process.dataset)):
                if batch is not None:
                    yield batch

        clips = Clips(read, process.device)
        return Case(victim, clean, outcomes, runs, intervals, clips, process.spec.engine.batch_size)
