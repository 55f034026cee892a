"""Carrying out a spec: plan, fit, evaluate, measure, and write what was found; reusing what is there already."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.running import refuse_norms
from avrobust_core.audit.auditing import caveats_of
from avrobust_core.errors import RunError
from avrobust_core.evaluation.failures import Failure, recorded
from avrobust_core.evaluation.outcomes import (
    Intervals,
    Outcome,
    groups_by_clip,
    summarise,
    write_per_class,
    write_samples,
)
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.files import (
    exclusive,
    file_hash,
    read_record,
    remove_leftovers,
    without_upkeep,
    write_json,
    write_text,
)
from avrobust_core.notes import collected
from avrobust_core.randomness import derive_seed
from avrobust_core.registry.choices import Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.entries import entry_goal, refuse_front
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.study.auditing import Auditing
from avrobust_core.study.building import Builder
from avrobust_core.study.comparing import compare
from avrobust_core.study.console import Monitor
from avrobust_core.study.correlating import Evidence, correlate, gather
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.measuring import Measuring
from avrobust_core.study.plan import PlannedCell, plan, why_stale
from avrobust_core.study.pooling import CellKey, ClipOutcomes, pool, read_outcomes
from avrobust_core.study.predicting import Predicting
from avrobust_core.study.process import Process, end_others
from avrobust_core.study.provenance import lock, made_today, made_with, otherwise, records_of
from avrobust_core.training.fit import WEIGHTS, Fit

RESULT_FORMAT = 1
"""The version of result.json."""

_CORRELATE: Failure = {
    "metric": "correlate",
    "attack": None,
    "threat": None,
    "direction": None,
    "evaluation": "clean",
    "bounded": False,
}


def carry_out(
    loaded: LoadedSpec, registry: Registry, *, out: Path | None = None, silent: bool = False
) -> dict[str, Any]:
    """Carry out a study in its folder; what is there already is reused.

    Args:
        loaded: a valid spec.
        registry: where its components are found.
        out: the run's folder; by default runs/<name>.
        silent: show no progress.

    Returns:
        What the run's result.json holds: `run`, `cells`, `reused`, `failed`, `contradicted`, `skipped`, `constant`,
        `notes`, ... A cell that failed as a whole has an `error`, one of which evaluations or metrics failed has them
        under `failures`; `failed` counts both. `contradicted` counts the cells with a robust accuracy that the audit
        contradicts. `problems` is what went wrong outside of the cells.

    Raises:
        DatasetFailure: if the data set cannot be used, or too many of its clips cannot be read.
        ComponentError: if a component cannot be built, or an attack does not support a norm that is asked for.
        RunError: if the folder is in use, or, with several processes, if a step fails.
        OSError: if the folder cannot be written to.
    """
    fabric = fabric_of(loaded.spec.engine)
    root = out if out is not None else Path("runs") / loaded.spec.name
    try:
        fabric.launch()
        if not fabric.is_global_zero:
            with collected(lambda note: None) as notes:
                return _Run(fabric, loaded, registry, root, Monitor(silent=True), notes).carry_out()
        with exclusive(root):
            remove_leftovers(root)
            monitor = Monitor(silent=silent)
            with collected(lambda note: monitor.say(f"note: {note}")) as notes:
                return _Run(fabric, loaded, registry, root, monitor, notes).carry_out()
    except BaseException:
        end_others(fabric)
        raise


@dataclass(frozen=True, slots=True)
class _Seeded:
    """What a seed decides beside the attacks: initial weights, and how intervals and metrics draw."""

    builder: Builder
    intervals: Intervals
    measuring: Measuring


class _Run:
    """One process's part in a run."""

    def __init__(
        self,
        fabric: Fabric,
        loaded: LoadedSpec,
        registry: Registry,
        root: Path,
        monitor: Monitor,
        notes: Sequence[str],
    ) -> None:
        self.fabric = fabric
        self.notes = notes
        self.loaded = loaded
        self.spec = loaded.spec
        self.registry = registry
        self.root = root
        self.monitor = monitor
        self.builder = Builder(loaded.spec, registry)
        self.process = Process(fabric, self.builder, monitor)
        self.dataset = self.process.dataset
        self.seeds = {seed: self._seeded(seed) for seed in self.spec.seeds}
        self.evidence: list[Evidence] = []
        self.outcomes: dict[CellKey, ClipOutcomes] = {}
        self.auditing = Auditing(self.process)
        self.attacks = {name: self.builder.attack(name) for name in self.spec.attacks}
        self.predicting = Predicting(self.process, self.attacks, self._goal)
        self.problems: list[dict[str, Any]] = []
        """What went wrong outside of the cells."""
        self.fresh = False
        """Whether something of the present cell has been computed, not reused."""

    def _seeded(self, seed: int) -> _Seeded:
        """A cell is the same whichever other seeds a study has: its own seed decides all of it."""
        section = self.spec.evaluation
        grouping = groups_by_clip(self.dataset, section.split)
        intervals = Intervals(section.confidence, section.resamples, derive_seed(seed, "bootstrap"), grouping)
        metrics = [self.builder.component(reference) for reference in self.spec.metrics]
        builder = self.builder if seed == self.spec.seed else Builder(self.spec.with_seed(seed), self.registry)
        return _Seeded(builder, intervals, Measuring(self.process, metrics, intervals))

    def carry_out(self) -> dict[str, Any]:
        cells = plan(self.builder, self.dataset, self.root)
        self._check(cells)
        self.fabric.barrier()  # every process has seen the same files before the first one writes
        if self.process.first:
            write_text(self.root / "spec.yaml", self.loaded.text)
            write_text(self.root / "resolved.yaml", self.loaded.resolved_yaml())
        locked = lock(self.registry, cells, str(self.fabric.device), self.fabric.world_size)
        self._lock(locked, cells)
        results = []
        for number, cell in enumerate(cells, start=1):
            results.append(self._cell(cell, f"[{number}/{len(cells)}] {cell.label}"))
            self._lock(locked, cells)
        outcome = {
            "format": RESULT_FORMAT,
            "run": str(self.root),
            "name": self.spec.name,
            "seed": self.spec.seed_,
            "task": self.dataset.task,
            "confidence": self.spec.evaluation.confidence,
            "cells": results,
            **(self._across_cells(results) if self.process.first else {}),
            "reused": sum(result["reused"] for result in results),
            "failed": sum("error" in result or bool(result["failures"]) for result in results),
            "contradicted": sum(bool(result.get("audit", {}).get("contradictions")) for result in results),
            "problems": self.problems,
            "skipped": self.process.skipped.to_json(),
            "constant": self.process.skipped.constant_json(),
            "notes": self.notes,
        }
        if self.process.first:
            self._write(self.root / "result.json", outcome)
        return outcome

    def _write(self, path: Path, data: object) -> None:
        """Write JSON; where that fails, the run goes on: what it has found is printed at the end."""
        with self._noted("writing"):
            write_json(path, data)

    def _noted(self, step: str) -> AbstractContextManager[None]:
        """Note what fails outside of the cells' own results, once, and go on."""

        def keep(failure: Failure) -> None:
            if failure["message"] not in [problem["message"] for problem in self.problems]:
                self.monitor.say(f"{step} failed: {failure['message']}")
                self.problems.append({"step": step, **failure})

        return recorded(keep)

    def _lock(self, locked: Mapping[str, Any], cells: Sequence[PlannedCell]) -> None:
        """Write lock.json: what this command runs with, and what the records that lie there now were made with."""
        if self.process.first:
            told = [
                {"id": cell.id, "model": cell.model, "training": cell.training, "seed": cell.seed}
                | {"made_with": records_of(cell)}
                for cell in cells
            ]
            self._write(self.root / "lock.json", {**locked, "cells": told})

    def _across_cells(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What is found from several cells together; if one of these steps fails, the cells' results stand."""
        intervals = self.seeds[self.spec.seed].intervals
        steps: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "pooled": lambda: pool(results, self.outcomes, intervals) if len(self.spec.seeds) > 1 else [],
            "comparisons": lambda: compare(self.spec, results, self.outcomes, intervals) if self.spec.compare else [],
            "correlations": lambda: correlate(self.evidence, intervals),
        }
        found: dict[str, Any] = {}
        for name, step in steps.items():
            found[name] = []
            with self._noted(name):
                found[name] = step()
        return found

    def _check(self, cells: tuple[PlannedCell, ...]) -> None:
        """Refuse what cannot work before anything is fitted."""
        for model in dict.fromkeys(cell.model for cell in cells if not cell.fitted):
            self.builder.model(model, self.dataset)
        for cell in cells:
            for evaluation in cell.evaluations:
                if evaluation.attack is not None and evaluation.applied is not None:
                    attack = self.attacks[evaluation.attack]
                    refuse_norms(evaluation.attack, attack, str(evaluation.threat), evaluation.applied)
        for name, entry in self.spec.attacks.items():
            self._goal(name)
            refuse_front(name, entry, self.attacks[name])
        self.seeds[self.spec.seed].measuring.refuse()

    def _cell(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        names: dict[str, Any] = {"id": cell.id, "model": cell.model, "training": cell.training, "seed": cell.seed}
        names["modalities"] = list(cell.modalities)
        self.fresh = self.predicting.fresh = False
        errors: list[Failure] = []

        def fail(failure: Failure) -> None:
            errors.append(failure)
            self.monitor.say(f"{label}: failed: {failure['message']}")
            self._write(cell.folder / "error.json", names | {"error": failure})

        result: dict[str, Any] = {}
        try:
            with recorded(fail, alone=self.fabric.world_size == 1, label=label):
                result = names | self._complete(cell, label)
            if not errors and self.process.first:
                self._write(cell.folder / "result.json", result)
                # Without `files` what lies there is not this result's.
                if result["files"] and (len(self.spec.seeds) > 1 or self.spec.compare):
                    with self._noted("reading"):
                        found = read_outcomes(cell.folder / "samples.parquet", result)
                        self.outcomes[cell.model, cell.training, cell.seed] = found
                with self._noted("writing"):
                    (cell.folder / "error.json").unlink(missing_ok=True)
        finally:
            self.process.forget_models()
        if errors:
            return names | {"error": errors[0], "failures": [], "reused": False}
        return result | {"reused": not (self.fresh or self.predicting.fresh)}

    def _complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        if self.process.first:
            header = {"id": cell.id, "model": cell.model, "training": cell.training, "identity": cell.identity}
            self._write(cell.folder / "cell.json", header)
        fit = self._fit(cell, label)
        weights: str | None = fit.get("files", {}).get(WEIGHTS)
        failures: list[Failure] = []
        by_folder = self.predicting.predictions(cell, weights, label, failures)
        seeded = self.seeds[cell.seed]

        def keep(failure: Failure) -> None:
            self.monitor.say(f"{label}: {failure['metric']} failed: {failure['message']}")
            failures.append(failure)

        measured = seeded.measuring.measure(cell, by_folder, weights, label, keep)
        clean = by_folder[cell.evaluations[0].folder]
        outcomes = self._outcomes(cell, by_folder)
        if self.spec.correlate:
            with recorded(lambda failure: keep({**_CORRELATE, **failure})):
                self.evidence.append(self._evidence(cell, clean, outcomes, measured))
        files: dict[str, str] = {}
        if self.process.first:
            with self._noted("writing"):
                write_samples(cell.folder / "samples.parquet", clean, outcomes, self.dataset)
                write_per_class(cell.folder / "per_class.csv", measured)
                files = {name: file_hash(cell.folder / name) for name in ("samples.parquet", "per_class.csv")}
        runs = self.predicting.runs(cell)
        audited = self.auditing.audit(cell, weights, clean, outcomes, runs, seeded.intervals, label)
        summary = summarise(clean, outcomes, seeded.intervals, caveats_of(audited))
        for failure in failures:
            if failure["metric"] is None and failure["bounded"]:
                summary["worst_case"].pop(failure["threat"], None)  # it would be of fewer attacks than were asked for
        return {
            **summary,
            "audit": audited,
            "metrics": measured,
            "failures": failures,
            "fit": without_upkeep(fit),
            "made_otherwise": otherwise(records_of(cell), self._made_today()),
            "files": files,
            "evaluation_seconds": round(sum(predictions.seconds for predictions in by_folder.values()), 3),
        }

    def _made_today(self) -> dict[str, Any]:
        """The versions of all that the study is made with now."""
        spec, builder = self.spec, self.builder
        used = [part for name in spec.models for part in self._parts_of_model(name)]
        used += [part for name in spec.training for part in self._parts_of_regime(name)]
        used += [builder.component(entry) for entry in spec.attacks.values()]
        used += [builder.component(reference) for reference in spec.metrics]
        return made_today(self.fabric.device.type, used)

    def _parts_of_model(self, name: str) -> list[Configured]:
        encoders, fusion = self.builder.model_components(self.spec.models[name])
        return [*encoders.values(), *([] if fusion is None else [fusion])]

    def _parts_of_regime(self, name: str) -> list[Configured]:
        augmentations = [self.builder.component(use) for use in self.spec.training[name].augment]
        return [self.builder.component(self.spec.data), *augmentations]

    def _evidence(
        self, cell: PlannedCell, clean: Predictions, outcomes: Sequence[Outcome], measured: Sequence[dict[str, Any]]
    ) -> Evidence:
        measuring = self.seeds[cell.seed].measuring
        found = [(entry, measuring.per_clip(cell, entry)) for entry in measured if entry["attack"] is None]
        return gather(
            {"model": cell.model, "training": cell.training, "seed": cell.seed},
            self.dataset.classes,
            clean,
            outcomes,
            found,
            measuring.class_sizes(cell, clean),
            self.spec.correlate,
        )

    def _outcomes(self, cell: PlannedCell, by_folder: Mapping[Path, Predictions]) -> list[Outcome]:
        """What became of the cell under each attack and threat, points of a front gathered under theirs."""
        outcomes = []
        for evaluation in cell.evaluations[1:]:
            if evaluation.direction is not None or evaluation.folder not in by_folder:
                continue
            attack, threat = str(evaluation.attack), str(evaluation.threat)
            front = [
                (point.direction, by_folder[point.folder])
                for point in cell.evaluations
                if point.direction is not None and (point.attack, point.threat) == (attack, threat)
                if point.folder in by_folder
            ]
            outcomes.append(
                Outcome(
                    attack,
                    threat,
                    evaluation.applied.modalities if evaluation.applied is not None else (),
                    by_folder[evaluation.folder],
                    goal=self._goal(attack),
                    factors=self.spec.attacks[attack].factors,
                    minimal=self.attacks[attack].minimal,
                    bounded=self.attacks[attack].bounded,
                    front=front,
                )
            )
        return outcomes

    def _goal(self, attack: str) -> Goal:
        return entry_goal(attack, self.spec.attacks[attack], self.dataset.classes)

    def _fit(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        if cell.fitted:
            try:
                record = read_record(cell.folder / "fit.json", check=[WEIGHTS])
            except RunError as error:
                raise RunError(f"{error}. Put back a copy, or delete {cell.folder} to fit this model again") from error
            self.process.skipped.merge(record["skipped"], record.get("constant"))
            return record
        self.fresh = True
        if self.process.first:
            self.monitor.say(f"{label}: fitting ({why_stale(cell, self.root)})")
        regime, engine = self.spec.training[cell.training], self.spec.engine
        used = [*self._parts_of_model(cell.model), *self._parts_of_regime(cell.training)]
        with self.monitor.task(f"{label}: fit"):
            fit = Fit(
                self.fabric,
                self.seeds[cell.seed].builder.model(cell.model, self.dataset),
                self.dataset,
                regime,
                self.builder.augmentations(regime),
                seed=cell.seed,
                folder=cell.folder,
                report=self.monitor.update,
                workers=engine.workers,
                batch_size=engine.batch_size,
                batch_timeout=engine.batch_timeout,
                made_with=lambda: made_with(self.fabric.device.type, used),
            )
            record = fit.run()
        self.process.skipped.merge(record["skipped"], record.get("constant"))
        return record
