"""One cell of a study after the other: fitted, evaluated, measured and audited, and its result written; or taken in."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrobust_core.audit.auditing import caveats_of
from avrobust_core.evaluation.failures import Failure, Keep, Unfinished, recorded
from avrobust_core.evaluation.outcomes import Intervals, Outcome, summarise
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.evaluation.samples import SAMPLES, write_per_class, write_samples
from avrobust_core.files import InUse, file_hash, in_turn, without_upkeep
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
        self.evidence: dict[CellKey, Evidence] = {}
        self.outcomes: dict[CellKey, ClipOutcomes] = {}

    def complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        """A cell's result; where the cell as a whole fails, its names and the `error`.

        If another process works on the cell, this one waits for it.

        Raises:
            Unfinished: in a process that only reads, if something is still to be computed, or another works on it.
        """
        process = self.process
        process.fresh = False
        failed: list[dict[str, Any]] = []

        def fail(failure: Failure) -> None:
            failed.append(self.failed(cell, label, failure))

        result: dict[str, Any] = {}
        try:
            with recorded(fail, settle=process.settle, label=label), self._in_turn(cell, label):
                result = _names(cell) | self._result(cell, label)
                if process.first:
                    self.problems.write(cell.folder / "result.json", result)
                    with self.problems.noted("writing"):
                        (cell.folder / "error.json").unlink(missing_ok=True)
        finally:
            process.forget_models()
        return failed[0] if failed else result | {"reused": not process.fresh}

    def failed(self, cell: PlannedCell, label: str, failure: Failure) -> dict[str, Any]:
        """The result of a cell that failed as a whole, which is said and noted in its folder."""
        self.process.monitor.say(f"{label}: failed: {failure['message']}")
        self.problems.write(cell.folder / "error.json", _names(cell) | {"error": failure})
        return _names(cell) | {"error": failure, "failures": [], "reused": False}

    def take_in(self, cell: PlannedCell, label: str, result: dict[str, Any]) -> dict[str, Any]:
        """Take in the result that another process has found for a cell: what is computed from several needs it."""
        if "error" in result:
            return result
        failed: list[dict[str, Any]] = []
        with recorded(lambda failure: failed.append(self.failed(cell, label, failure))):
            failures = result["failures"]
            lacking = {failure["evaluation"] for failure in failures if failure["metric"] is None}
            evaluations = (each for each in cell.evaluations if each.label not in lacking)
            by_folder = {each.folder: self.predicting.made(each) for each in evaluations}
            clean, outcomes = by_folder[cell.evaluations[0].folder], self._outcomes(cell, by_folder)
            if not any(failure["metric"] == "correlate" for failure in failures):
                self._gather(cell, clean, outcomes, result["metrics"], failures.append)
            self.outcomes[_key(cell)] = clip_outcomes(clean, outcomes, failures)
        return failed[0] if failed else result

    @contextmanager
    def _in_turn(self, cell: PlannedCell, label: str) -> Iterator[None]:
        """Let no two processes work on a cell at the same time, but for those that work on it together."""
        process = self.process

        def waiting(holder: str) -> None:
            process.monitor.say(f"{label}: waits for {holder}, which works on it")

        with ExitStack() as held:
            if process.first:
                try:
                    held.enter_context(in_turn(cell.folder, None if process.only_reads else waiting))
                except InUse as error:
                    raise Unfinished from error
            process.fabric.barrier()
            yield

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
        self._gather(cell, clean, outcomes, measured, keep)
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
        self.outcomes[_key(cell)] = clip_outcomes(clean, outcomes, failures)
        return {
            **summary,
            "audit": audit,
            "metrics": measured,
            "failures": failures,
            "fit": without_upkeep(fit),
            "made_otherwise": otherwise(records_of(cell), self._today()),
            "files": files,
            "evaluation_seconds": round(sum(predictions.seconds for predictions in by_folder.values()), 3),
        }

    def _today(self) -> dict[str, Any]:
        """What records would be made with now; of the device a process that only reads says nothing."""
        today = made_today(self.process.device.type, self.process.builder.used())
        return {name: value for name, value in today.items() if name != "device" or not self.process.only_reads}

    def _gather(
        self,
        cell: PlannedCell,
        clean: Predictions,
        outcomes: Sequence[Outcome],
        measured: Sequence[Mapping[str, Any]],
        keep: Keep,
    ) -> None:
        """Keep the evidence that a cell gives, if the spec asks for correlations; `keep` is told of a failure."""
        asked, measuring = self.process.spec.correlate, self.seeds[cell.seed].measuring
        if asked:
            with recorded(lambda failure: keep(cell.evaluations[0].failed(failure, metric="correlate"))):
                found = [(each, measuring.per_clip(cell, each)) for each in measured if each["attack"] is None]
                sizes, classes = measuring.class_sizes(cell, clean), self.process.dataset.classes
                self.evidence[_key(cell)] = gather(cell.names, classes, clean, outcomes, found, sizes, asked)

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


def _names(cell: PlannedCell) -> dict[str, Any]:
    return cell.names | {"modalities": list(cell.modalities)}


def _key(cell: PlannedCell) -> CellKey:
    return cell.model, cell.training, cell.seed
