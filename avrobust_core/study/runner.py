"""Carrying out a spec: its checks, its cells, what they show together; and the run's own files."""

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from avrobust_core.attacks.running import refuse_norms
from avrobust_core.evaluation.outcomes import Intervals, groups_by_clip
from avrobust_core.files import exclusive, file_hash, remove_leftovers, write_text
from avrobust_core.notes import collected
from avrobust_core.randomness import derive_seed
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.entries import refuse_front
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.study.building import Builder
from avrobust_core.study.comparing import compare
from avrobust_core.study.completing import Completing, Seeded
from avrobust_core.study.console import Monitor
from avrobust_core.study.correlating import correlate
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.fitting import refuse_selection
from avrobust_core.study.measuring import Measuring
from avrobust_core.study.overturning import overturned
from avrobust_core.study.plan import PlannedCell, plan
from avrobust_core.study.pooling import pool
from avrobust_core.study.problems import Problems
from avrobust_core.study.process import Process, end_others
from avrobust_core.study.provenance import data_used, lock, records_of
from avrobust_core.study.tracking import Tracking
from avrobust_core.tracking.tracker import TrackedRun

RESULT_FORMAT = 1
"""The version of result.json."""


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
    fabric = fabric_of(loaded.spec.engine)
    root = out if out is not None else Path("runs") / loaded.spec.name
    try:
        fabric.launch()
        first = fabric.is_global_zero
        monitor = Monitor(silent=silent or not first)
        with exclusive(root) if first else nullcontext():
            if first:
                remove_leftovers(root)
            with collected(lambda note: monitor.say(f"note: {note}")) as notes:
                asked = loaded.spec.track if first else ()
                told = TrackedRun(loaded.spec.name, root, loaded.resolved())
                with closing(Tracking(told, (choice.configured(registry) for choice in asked))) as tracking:
                    process = Process(fabric, Builder(loaded.spec, registry), monitor, tracking)
                    with process.loader:
                        return _Run(process, loaded, root, notes).carry_out()
    except BaseException:
        end_others(fabric)
        raise


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
        results = []
        for number, cell in enumerate(cells, start=1):
            process.tracking.cell(cell)
            results.append(self.completing.complete(cell, f"[{number}/{len(cells)}] {cell.label}"))
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
            "reused": sum(result["reused"] for result in results),
            "failed": sum("error" in result or bool(result["failures"]) for result in results),
            "contradicted": sum(bool(result.get("audit", {}).get("contradictions")) for result in results),
            "problems": self.problems.found,
            **process.skipped.to_json(),
            "data": data_used(process.dataset, process.skipped.by_split) if process.first else {},
            "notes": self.notes,
        }
        if process.first:
            self.problems.write(self.root / "result.json", outcome)
        return outcome

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
        intervals, outcomes = self.seeds[self.spec.seed].intervals, self.completing.outcomes
        found: dict[str, list[dict[str, Any]]] = {"pooled": [], "comparisons": [], "overturned": [], "correlations": []}
        if len(self.spec.seeds) > 1:
            with self.problems.noted("pooled"):
                found["pooled"] = pool(results, outcomes, intervals)
        with self.problems.noted("comparisons"):
            found["comparisons"] = compare(self.spec, results, outcomes, intervals)
        with self.problems.noted("overturned"):
            found["overturned"] = overturned(self.spec, outcomes, intervals)
        with self.problems.noted("correlations"):
            found["correlations"] = correlate(self.completing.evidence, intervals)
        return found
