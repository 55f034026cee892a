"""One cell of a study after the other: fitted, evaluated, measured and audited, and its result written."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrobust_core.audit.auditing import caveats_of
from avrobust_core.evaluation.failures import Failure, recorded
from avrobust_core.evaluation.outcomes import Intervals, Outcome, summarise
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.evaluation.samples import SAMPLES, write_per_class, write_samples
from avrobust_core.files import file_hash, without_upkeep
from avrobust_core.study.auditing import audited
from avrobust_core.study.building import Builder
from avrobust_core.study.correlating import Evidence, gather
from avrobust_core.study.fitting import fitted
from avrobust_core.study.measuring import Measuring
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.pooling import CellKey, ClipOutcomes, clip_outcomes
from avrobust_core.study.predicting import Predicting
from avrobust_core.study.problems import Problems
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import made_today, otherwise, records_of
from avrobust_core.training.fit import WEIGHTS


@dataclass(frozen=True, slots=True)
class Seeded:
    """The things that a cell's seed decides: initial weights, and the draws of intervals and metrics."""

    builder: Builder
    intervals: Intervals
    measuring: Measuring


class Completing:
    """Completes cells.

    Args:
        process: this one.
        seeds: of the study.
        problems: keeps what fails outside of the cells' own results.
        root: the run's folder.

    Attributes:
        evidence: for correlations, of each cell so far.
        outcomes: clip by clip, of each cell so far that did not fail, to be pooled and compared.
    """

    def __init__(self, process: Process, seeds: Mapping[int, Seeded], problems: Problems, root: Path) -> None:
        self.process = process
        self.seeds = seeds
        self.problems = problems
        self.root = root
        self.predicting = Predicting(process)
        self.evidence: list[Evidence] = []
        self.outcomes: dict[CellKey, ClipOutcomes] = {}

    def complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        """A cell's result; where the cell as a whole fails, its names and the `error`."""
        process = self.process
        names = cell.names | {"modalities": list(cell.modalities)}
        process.fresh = False
        errors: list[Failure] = []

        def fail(failure: Failure) -> None:
            errors.append(failure)
            process.monitor.say(f"{label}: failed: {failure['message']}")
            self.problems.write(cell.folder / "error.json", names | {"error": failure})

        result: dict[str, Any] = {}
        try:
            with recorded(fail, alone=process.alone, label=label):
                result = names | self._result(cell, label)
            if not errors and process.first:
                self.problems.write(cell.folder / "result.json", result)
                with self.problems.noted("writing"):
                    (cell.folder / "error.json").unlink(missing_ok=True)
        finally:
            process.forget_models()
        if errors:
            return names | {"error": errors[0], "failures": [], "reused": False}
        return result | {"reused": not process.fresh}

    def _result(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        process = self.process
        if process.first:
            header = {"id": cell.id, "model": cell.model, "training": cell.training, "identity": cell.identity}
            self.problems.write(cell.folder / "cell.json", header)
        seeded = self.seeds[cell.seed]
        fit = fitted(process, cell, seeded.builder, self.root, label)
        weights: str = fit["files"][WEIGHTS]
        failures: list[Failure] = []
        by_folder = self.predicting.predictions(cell, weights, label, failures)

        def keep(failure: Failure) -> None:
            process.monitor.say(f"{label}: {failure['metric']} failed: {failure['message']}")
            failures.append(failure)

        measured = seeded.measuring.measure(cell, by_folder, weights, label, keep)
        clean = by_folder[cell.evaluations[0].folder]
        outcomes = self._outcomes(cell, by_folder)
        asked = process.spec.correlate
        if asked:
            with recorded(lambda failure: keep(cell.evaluations[0].failed(failure, metric="correlate"))):
                found = [(each, seeded.measuring.per_clip(cell, each)) for each in measured if each["attack"] is None]
                sizes = seeded.measuring.class_sizes(cell, clean)
                self.evidence.append(gather(cell.names, process.dataset.classes, clean, outcomes, found, sizes, asked))
        files: dict[str, str] = {}
        if process.first:
            with self.problems.noted("writing"):
                grouping = seeded.intervals.grouping
                write_samples(cell.folder / SAMPLES, clean, outcomes, process.dataset, grouping)
                write_per_class(cell.folder / "per_class.csv", measured)
                files = {name: file_hash(cell.folder / name) for name in (SAMPLES, "per_class.csv")}
        runs = self.predicting.runs(cell)
        audit = audited(process, cell, weights, clean, outcomes, runs, seeded.intervals, label)
        summary = summarise(clean, outcomes, seeded.intervals, caveats_of(audit))
        for failure in failures:
            if failure["metric"] is None and failure["bounded"]:
                summary["worst_case"].pop(failure["threat"], None)  # it would be of fewer attacks than were asked for
        self.outcomes[cell.model, cell.training, cell.seed] = clip_outcomes(clean, outcomes, failures)
        return {
            **summary,
            "audit": audit,
            "metrics": measured,
            "failures": failures,
            "fit": without_upkeep(fit),
            "made_otherwise": otherwise(records_of(cell), made_today(process.device.type, process.builder.used())),
            "files": files,
            "evaluation_seconds": round(sum(predictions.seconds for predictions in by_folder.values()), 3),
        }

    def _outcomes(self, cell: PlannedCell, by_folder: Mapping[Path, Predictions]) -> list[Outcome]:
        """The cell's outcome under each attack and threat, with the points of its front."""
        fronts: dict[tuple[str | None, str | None], list[tuple[Mapping[str, float], Predictions]]] = defaultdict(list)
        for point in cell.evaluations:
            if point.direction is not None and point.folder in by_folder:
                fronts[point.attack, point.threat].append((point.direction, by_folder[point.folder]))
        attacks = self.process.attacks
        return [
            Outcome(
                each.attack,
                str(each.threat),
                () if each.applied is None else each.applied.modalities,
                by_folder[each.folder],
                goal=self.process.goal(each.attack),
                factors=self.process.spec.attacks[each.attack].factors,
                minimal=attacks[each.attack].minimal,
                bounded=attacks[each.attack].bounded,
                front=fronts[each.attack, each.threat],
            )
            for each in cell.evaluations
            if each.attack is not None and each.direction is None and each.folder in by_folder
        ]
