"""Carrying out a spec: its checks, its cells, what they show together; and the run's own files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from avrobust_core.attacks.running import refuse_norms
from avrobust_core.errors import RunError
from avrobust_core.evaluation.outcomes import Intervals, groups_by_clip
from avrobust_core.files import exclusive, file_hash, made_runs_own, remove_leftovers, write_json, write_text
from avrobust_core.notes import collected
from avrobust_core.randomness import derive_seed
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.entries import refuse_front
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.study.building import Builder
from avrobust_core.study.company import together
from avrobust_core.study.comparing import compare
from avrobust_core.study.completing import Completing, Seeded
from avrobust_core.study.console import Monitor
from avrobust_core.study.correlating import correlate
from avrobust_core.study.dispatching import Dispatching, queue_of
from avrobust_core.study.fitting import refuse_selection
from avrobust_core.study.jobs import ANSWER, folder_of
from avrobust_core.study.local_jobs import end_with_sender
from avrobust_core.study.measuring import Measuring
from avrobust_core.study.overturning import overturned
from avrobust_core.study.plan import PlannedCell, plan
from avrobust_core.study.pooling import CellKey, pool
from avrobust_core.study.problems import Problems
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import data_used, lock, records_of
from avrobust_core.study.slurm_jobs import stop_in_time
from avrobust_core.study.tracking import Tracking
from avrobust_core.tracking.tracker import TrackedRun

RESULT_FORMAT = 1
"""The version of result.json."""

T = TypeVar("T")

_SENDER = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
"""The engine of a process that sends cells to jobs, and computes nothing itself."""


def carry_out(
    loaded: LoadedSpec, registry: Registry, *, out: Path | None = None, silent: bool = False
) -> dict[str, Any]:
    """Carry out a study in its folder; what is there already is reused.

    Args:
        loaded: a valid spec.
        registry: of the components that are installed.
        out: the run's folder; by default runs/<name>.
        silent: show no progress.

    Returns:
        What the run's result.json holds: `run`, `cells`, `reused`, `failed`, `contradicted`, `skipped`, `constant`,
        `data`, `notes`, ... A cell that failed as a whole has an `error`, one of which evaluations or metrics failed
        has them under `failures`; `failed` counts both. `contradicted` counts the cells with a robust accuracy that the
        audit contradicts. `problems` is what went wrong outside of the cells.

    Raises:
        DatasetFailure: if the data set cannot be used, or too many of its clips cannot be read.
        ComponentError: if a component cannot be built, or an attack does not support a norm that is asked for.
        RunError: if the folder is in use, or, with several processes, if a step fails.
        OSError: if the folder cannot be written to.
    """
    engine = loaded.spec.engine
    root = root_of(loaded, out)
    if engine.cells is not None:
        engine = engine.model_copy(update=_SENDER)
    with together(engine) as company:
        first = company.fabric.is_global_zero
        monitor = Monitor(silent=silent or not first)
        with exclusive(root) if first else nullcontext():
            if first:
                remove_leftovers(root)
            with collected(lambda note: monitor.say(f"note: {note}")) as notes:
                asked = loaded.spec.track if first else ()
                told = TrackedRun(loaded.spec.name, root, loaded.resolved())
                with closing(Tracking(told, (choice.configured(registry) for choice in asked))) as tracking:
                    process = Process(company.fabric, Builder(loaded.spec, registry), monitor, tracking, company.watch)
                    with process.loader:
                        return _Run(process, loaded, root, notes).carry_out()


def carry_out_cell(
    loaded: LoadedSpec, registry: Registry, cell: str, *, out: Path | None = None, silent: bool = False
) -> dict[str, Any]:
    """Carry out one cell of a study in the study's folder, beside others that do so with other cells: a job's work.

    Whoever works on the same cell comes first, or waits. What concerns several cells, and the run's own files, are left
    to `carry_out`. What was found is also left in the cell's folder, for the command that has sent the job.

    Args:
        loaded: a valid spec; its `engine.cells` is passed over.
        registry: of the components that are installed.
        cell: its id, which `avrobust plan` shows.
        out: the run's folder; by default runs/<name>.
        silent: show no progress.

    Returns:
        Of what `carry_out` returns: `run`, `name`, `cells` (names of the spec that mean the same share an id),
        `reused`, `failed`, `contradicted`, `skipped`, `constant`, `padded`, `problems`, `notes`; and the `device` and
        the number of `processes`.

    Raises:
        RunError: if the study has no such cell, or, with several processes, if a step fails; else as `carry_out`.
    """
    end_with_sender()
    stop_in_time()
    root = root_of(loaded, out)
    with together(loaded.spec.engine) as company:
        first = company.fabric.is_global_zero
        monitor = Monitor(silent=silent or not first)
        if first:
            made_runs_own(root)
        with collected(lambda note: monitor.say(f"note: {note}")) as notes:
            process = Process(company.fabric, Builder(loaded.spec, registry), monitor, watch=company.watch)
            with process.loader:
                return _Run(process, loaded, root, notes).carry_out_cell(cell)


def root_of(loaded: LoadedSpec, out: Path | None) -> Path:
    """A run's folder: what is asked for, or runs/<name>."""
    return out if out is not None else Path("runs") / loaded.spec.name


class _Run:
    """One process's part in a run."""

    def __init__(self, process: Process, loaded: LoadedSpec, root: Path, notes: Sequence[str]) -> None:
        self.process = process
        self.loaded = loaded
        self.spec = loaded.spec
        self.registry = process.builder.registry
        self.root = root
        self.notes = notes
        self.problems = Problems(process.monitor)
        self.seeds = {seed: self._seeded(seed) for seed in self.spec.seeds}
        self.completing = Completing(self.process, self.seeds, self.problems, root)

    def _seeded(self, seed: int) -> Seeded:
        """A cell is the same whichever other seeds a study has: its own seed decides all of it."""
        section = self.spec.evaluation
        grouping = groups_by_clip(self.process.dataset, section.split)
        intervals = Intervals(section.confidence, section.resamples, derive_seed(seed, "bootstrap"), grouping)
        builder = self.process.builder
        if seed != self.spec.seed:
            builder = Builder(self.spec.with_seed(seed), self.registry)
        return Seeded(builder, intervals, Measuring(self.process, intervals))

    def carry_out(self) -> dict[str, Any]:
        process, fabric = self.process, self.process.fabric
        cells = plan(process.builder, process.dataset, self.root)
        self._refuse(cells)
        fabric.barrier()  # every process has seen the same files before the first one writes
        if process.first:
            write_text(self.root / "spec.yaml", self.loaded.text)
            write_text(self.root / "resolved.yaml", self.loaded.resolved_yaml())
        locked = lock(self.registry, cells, str(fabric.device), fabric.world_size)
        if process.first:
            locked["resolved"] = file_hash(self.root / "resolved.yaml")
        self._lock(locked, cells)
        results: list[dict[str, Any]] = []
        with self._completer(cells, locked) as complete:
            for cell, label in _labelled(cells):
                process.tracking.cell(cell)
                results.append(complete(cell, label))
                process.tracking.result(results[-1])
                self._lock(locked, cells)
        outcome = {
            "format": RESULT_FORMAT,
            "run": str(self.root),
            "name": self.spec.name,
            "seed": self.spec.seed_,
            "task": process.dataset.task,
            "confidence": self.spec.evaluation.confidence,
            "cells": results,
            **(self._across_cells(results) if process.first else {}),
            **_counts(results),
            "problems": self.problems.found,
            **process.skipped.to_json(),
            "data": data_used(process.dataset, process.skipped.by_split) if process.first else {},
            "notes": self.notes,
        }
        if process.first:
            self.problems.write(self.root / "result.json", outcome)
        return outcome

    def carry_out_cell(self, cell_id: str) -> dict[str, Any]:
        process, fabric = self.process, self.process.fabric
        cells = plan(process.builder, process.dataset, self.root)
        mine = [(cell, label) for cell, label in _labelled(cells) if cell.id == cell_id]
        if not mine:
            raise RunError(f"the study has no cell {cell_id!r}: `avrobust plan` shows the ids of its cells")
        self._refuse([cell for cell, _ in mine])
        fabric.barrier()  # every process has seen the same files before the first one writes
        results = [self.completing.complete(cell, label) for cell, label in mine]
        outcome = {
            "run": str(self.root),
            "name": self.spec.name,
            "cells": results,
            **_counts(results),
            "problems": self.problems.found,
            **process.skipped.to_json(),
            "notes": self.notes,
            "device": str(fabric.device),
            "processes": fabric.world_size,
        }
        if process.first:
            write_json(folder_of(self.root, cell_id) / ANSWER, outcome)
        return outcome

    @contextmanager
    def _completer(
        self, cells: Sequence[PlannedCell], locked: dict[str, Any]
    ) -> Iterator[Callable[[PlannedCell, str], dict[str, Any]]]:
        """Completes cells: one after the other here, or by jobs, whose device then stands in the lock."""
        engine = self.spec.engine
        if engine.cells is None:
            yield self.completing.complete
            return
        if self.process.fabric.world_size > 1:
            raise RunError("engine.cells sends cells to jobs: start this command once, not in several processes")
        dispatching = Dispatching(self.completing, self.root, queue_of(engine), self.loaded.resolved())

        def complete(cell: PlannedCell, label: str) -> dict[str, Any]:
            result = dispatching.complete(cell, label)
            locked.update(dispatching.machine)
            return result

        with dispatching.begun(_labelled(cells)):
            yield complete

    def _refuse(self, cells: Sequence[PlannedCell]) -> None:
        """Refuse what cannot work before anything is fitted."""
        process, measuring = self.process, self.seeds[self.spec.seed].measuring
        named = [cell.model for cell in cells if measuring.layers or not cell.fitted]
        measuring.refuse_layers(process.builder.model(model, process.dataset) for model in dict.fromkeys(named))
        for evaluation in (evaluation for cell in cells for evaluation in cell.evaluations):
            if evaluation.attack is not None and evaluation.applied is not None:
                attack = process.attacks[evaluation.attack]
                refuse_norms(evaluation.attack, attack, str(evaluation.threat), evaluation.applied)
        for name, entry in self.spec.attacks.items():
            refuse_front(name, entry, process.attacks[name])
        refuse_selection(process, cells)
        measuring.refuse()

    def _lock(self, locked: Mapping[str, Any], cells: Sequence[PlannedCell]) -> None:
        """Write lock.json: what this command runs with, where each evaluation lies, what made the records there now."""
        if self.process.first:
            told = [
                cell.names
                | {"evaluations": {each.label: each.folder.name for each in cell.evaluations}}
                | {"made_with": records_of(cell)}
                for cell in cells
            ]
            self.problems.write(self.root / "lock.json", {**locked, "cells": told})

    def _across_cells(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Results over several cells; if one of these steps fails, the cells' own results stand."""
        intervals = self.seeds[self.spec.seed].intervals
        outcomes = _in_order(results, self.completing.outcomes)
        evidence = list(_in_order(results, self.completing.evidence).values())
        found: dict[str, list[dict[str, Any]]] = {"pooled": [], "comparisons": [], "overturned": [], "correlations": []}
        if len(self.spec.seeds) > 1:
            with self.problems.noted("pooled"):
                found["pooled"] = pool(results, outcomes, intervals)
        with self.problems.noted("comparisons"):
            found["comparisons"] = compare(self.spec, results, outcomes, intervals)
        with self.problems.noted("overturned"):
            found["overturned"] = overturned(self.spec, outcomes, intervals)
        with self.problems.noted("correlations"):
            found["correlations"] = correlate(evidence, intervals)
        return found


def _labelled(cells: Sequence[PlannedCell]) -> list[tuple[PlannedCell, str]]:
    """Cells with their labels for messages: "[2/3] concat/standard"."""
    return [(cell, f"[{number}/{len(cells)}] {cell.label}") for number, cell in enumerate(cells, start=1)]


def _counts(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "reused": sum(result["reused"] for result in results),
        "failed": sum("error" in result or bool(result["failures"]) for result in results),
        "contradicted": sum(bool(result.get("audit", {}).get("contradictions")) for result in results),
    }


def _in_order(results: Sequence[Mapping[str, Any]], kept: Mapping[CellKey, T]) -> dict[CellKey, T]:
    """What is kept of cells, in the order of their results."""
    keys = [(result["model"], result["training"], result["seed"]) for result in results]
    return {key: kept[key] for key in keys if key in kept}
