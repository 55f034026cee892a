"""Carrying out a spec: plan, fit, evaluate, measure, and write what was found; reusing what is there already."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from avrobust_core.attacking import AttackRun, prepared, refuse_norms
from avrobust_core.audit.auditing import caveats_of
from avrobust_core.batches import Batch
from avrobust_core.errors import AvrobustError, DataError
from avrobust_core.goals import Aim
from avrobust_core.registry import Registry
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.study import evaluation as evaluating
from avrobust_core.study import parts
from avrobust_core.study.auditing import Auditing
from avrobust_core.study.building import Builder, entry_aim, refuse_front
from avrobust_core.study.comparing import compare
from avrobust_core.study.console import Monitor
from avrobust_core.study.correlating import Evidence, correlate, gather
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.loading import Skipped, select
from avrobust_core.study.measuring import Measuring
from avrobust_core.study.plan import PlannedCell, PlannedEvaluation, plan, why_stale
from avrobust_core.study.pooling import CellKey, ClipOutcomes, pool, read_outcomes
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import lock
from avrobust_core.study.results import (
    Intervals,
    Outcome,
    summarise,
    write_per_class,
    write_samples,
)
from avrobust_core.study.store import exclusive, read_json, remove_leftovers, write_json, write_text
from avrobust_core.study.training import Fit
from avrobust_core.victim import Victim

RESULT_FORMAT = 1
"""The version of result.json."""


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
        What the run's result.json holds: `run`, `cells`, `reused`, `failed`, `contradicted`, `skipped`.

    Raises:
        DataError: if the data set cannot be used, or too many of its clips cannot be read.
        ComponentError: if a component cannot be built, or an attack does not support a norm that is asked for.
        RunError: if the folder is in use, or a file in it is damaged.
    """
    fabric = fabric_of(loaded.spec.engine)
    fabric.launch()
    root = out if out is not None else Path("runs") / loaded.spec.name
    if not fabric.is_global_zero:
        return _Run(fabric, loaded, registry, root, Monitor(silent=True)).carry_out()
    with exclusive(root):
        remove_leftovers(root)
        return _Run(fabric, loaded, registry, root, Monitor(silent=silent)).carry_out()


@dataclass(frozen=True, slots=True)
class _Seeded:
    """What a seed decides beside the attacks: initial weights, and how intervals and metrics draw."""

    builder: Builder
    intervals: Intervals
    measuring: Measuring


class _Run:
    """One process's part in a run."""

    def __init__(self, fabric: Fabric, loaded: LoadedSpec, registry: Registry, root: Path, monitor: Monitor) -> None:
        self.fabric = fabric
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

    def _seeded(self, seed: int) -> _Seeded:
        """A cell is the same whichever other seeds a study has: its own seed decides all of it."""
        intervals = Intervals.of(self.spec.evaluation, seed, self.dataset)
        metrics = [self.builder.part("metric", reference) for reference in self.spec.metrics]
        builder = self.builder if seed == self.spec.seed else Builder(self.spec.with_seed(seed), self.registry)
        return _Seeded(builder, intervals, Measuring(self.process, metrics, intervals))

    def carry_out(self) -> dict[str, Any]:
        cells = plan(self.builder, self.dataset, self.root)
        self._check(cells)
        self.fabric.barrier()  # every process has seen the same files before the first one writes
        if self.fabric.is_global_zero:
            write_text(self.root / "spec.yaml", self.loaded.text)
            write_text(self.root / "resolved.yaml", self.loaded.resolved_yaml())
            device, world = str(self.fabric.device), self.fabric.world_size
            write_json(self.root / "lock.json", lock(self.registry, cells, device, world))
        results = []
        for number, cell in enumerate(cells, start=1):
            reused = cell.done
            result = self._cell(cell, f"[{number}/{len(cells)}] {cell.label}")
            results.append(result | {"reused": reused and "error" not in result})
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
            "failed": sum("error" in result for result in results),
            "contradicted": sum(bool(result.get("audit", {}).get("contradictions")) for result in results),
            "skipped": self.process.skipped.to_json(),
        }
        if self.fabric.is_global_zero:
            write_json(self.root / "result.json", outcome)
        return outcome

    def _across_cells(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What is found from several cells together."""
        intervals = self.seeds[self.spec.seed].intervals
        return {
            "pooled": pool(results, self.outcomes, intervals) if len(self.spec.seeds) > 1 else [],
            "comparisons": compare(self.spec, results, self.outcomes, intervals) if self.spec.compare else [],
            "correlations": correlate(self.evidence, intervals),
        }

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
            self._aim(name)
            refuse_front(name, entry, self.attacks[name])
        self.seeds[self.spec.seed].measuring.refuse()

    def _cell(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        names: dict[str, Any] = {"id": cell.id, "model": cell.model, "training": cell.training, "seed": cell.seed}
        names["modalities"] = list(cell.modalities)
        try:
            result = names | self._complete(cell, label)
        except DataError:
            raise  # the data set is every cell's: none of the others can do better
        except Exception as error:
            if self.fabric.world_size > 1:
                raise  # the other processes wait for this one; only ending all of them is safe
            message = str(error) if isinstance(error, AvrobustError) else f"{type(error).__name__}: {error}"
            failure = {"error": {"message": message, "traceback": traceback.format_exc()}}
            write_json(cell.folder / "error.json", names | failure)
            self.monitor.say(f"{label}: failed: {message}")
            return names | failure
        finally:
            self.process.forget_models()
        if self.fabric.is_global_zero:
            write_json(cell.folder / "result.json", result)
            if len(self.spec.seeds) > 1 or self.spec.compare:
                found = read_outcomes(cell.folder / "samples.parquet", result)
                self.outcomes[cell.model, cell.training, cell.seed] = found
            (cell.folder / "error.json").unlink(missing_ok=True)
        return result

    def _complete(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        if self.fabric.is_global_zero:
            header = {"id": cell.id, "model": cell.model, "training": cell.training, "identity": cell.identity}
            write_json(cell.folder / "cell.json", header)
        fit = self._fit(cell, label)
        # Several threats may mean the same to a model that reads few modalities: predictions are shared by folder.
        by_folder: dict[Path, Predictions] = {}
        for evaluation in cell.evaluations:
            if evaluation.folder not in by_folder:
                by_folder[evaluation.folder] = self._evaluate(cell, evaluation, label)
        seeded = self.seeds[cell.seed]
        measured = seeded.measuring.measure(cell, by_folder, label)
        clean = by_folder[cell.evaluations[0].folder]
        outcomes = self._outcomes(cell, by_folder)
        if self.spec.correlate:
            self.evidence.append(self._evidence(cell, clean, outcomes, measured))
        if self.fabric.is_global_zero:
            write_samples(cell.folder / "samples.parquet", clean, outcomes, self.dataset)
            write_per_class(cell.folder / "per_class.csv", measured)
        audited = self.auditing.audit(cell, clean, outcomes, self._runs(cell), seeded.intervals, label)
        return {
            **summarise(clean, outcomes, seeded.intervals, caveats_of(audited)),
            "audit": audited,
            "metrics": measured,
            "fit": fit,
            "evaluation_seconds": round(sum(predictions.seconds for predictions in by_folder.values()), 3),
        }

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
            if evaluation.direction is not None:
                continue
            attack, threat = str(evaluation.attack), str(evaluation.threat)
            front = [
                (point.direction, by_folder[point.folder])
                for point in cell.evaluations
                if point.direction is not None and (point.attack, point.threat) == (attack, threat)
            ]
            outcomes.append(
                Outcome(
                    attack,
                    threat,
                    evaluation.applied.modalities if evaluation.applied is not None else (),
                    by_folder[evaluation.folder],
                    aim=self._aim(attack),
                    factors=self.spec.attacks[attack].factors,
                    minimal=self.attacks[attack].minimal,
                    bounded=self.attacks[attack].bounded,
                    front=front,
                )
            )
        return outcomes

    def _aim(self, attack: str) -> Aim:
        return entry_aim(attack, self.spec.attacks[attack], self.dataset.classes)

    def _fit(self, cell: PlannedCell, label: str) -> dict[str, Any]:
        path = cell.folder / "fit.json"
        if cell.fitted:
            record: dict[str, Any] = read_json(path)
            self.process.skipped.merge(record["skipped"])
            return record
        if self.fabric.is_global_zero:
            self.monitor.say(f"{label}: fitting ({why_stale(cell, self.root)})")
        regime = self.spec.training[cell.training]
        with self.monitor.task(f"{label}: fit"):
            fit = Fit(
                self.fabric,
                self.seeds[cell.seed].builder.model(cell.model, self.dataset),
                self.dataset,
                regime,
                self.builder.augmentations(regime),
                seed=cell.seed,
                folder=cell.folder,
                engine=self.spec.engine,
                report=self.monitor.update,
            )
            record = fit.run()
        self.process.skipped.merge(record["skipped"])
        return record

    def _evaluate(self, cell: PlannedCell, evaluation: PlannedEvaluation, label: str) -> Predictions:
        record_path, predictions_path = evaluation.folder / "record.json", evaluation.folder / "predictions.parquet"
        if not evaluation.done:
            if self.fabric.is_global_zero:
                self.monitor.say(f"{label}: {evaluation.label}")
            with self.monitor.task(f"{label}: {evaluation.label}"):
                self._predict(cell, evaluation)
            self.fabric.barrier()
            if self.fabric.is_global_zero:
                predictions, skipped = evaluating.collect(evaluation.folder, self.process.selection)
                evaluating.to_parquet(predictions_path, predictions)
                record = {
                    "identity": evaluation.identity,
                    "clips": len(predictions.ids),
                    "seconds": round(predictions.seconds, 3),
                    "skipped": {self.process.selection.split: skipped},
                }
                write_json(record_path, record)
                parts.remove(evaluation.folder)
            self.fabric.barrier()
        record = read_json(record_path)
        self.process.skipped.merge(record["skipped"])
        return evaluating.from_parquet(predictions_path, record["seconds"])

    def _predict(self, cell: PlannedCell, evaluation: PlannedEvaluation) -> None:
        section = self.spec.evaluation
        victim = Victim(
            self.process.model(cell),
            media=self.dataset.media,
            task=self.dataset.task,
            seed=cell.seed,
            samples=section.samples,
            precision=self.spec.engine.attack_precision,
        )
        run = self._run_of(evaluation)
        if run is not None:
            run = self._prepared(victim, run)
        with victim.frozen():
            self.process.in_parts(
                evaluation.folder, self.process.selection, lambda batch: evaluating.evaluate_batch(victim, batch, run)
            )

    def _run_of(self, evaluation: PlannedEvaluation) -> AttackRun | None:
        """The attack and the threat of an evaluation; None of a clean one, and where the threat touches nothing."""
        if evaluation.attack is None or evaluation.applied is None:
            return None
        name = evaluation.attack
        factors = self.spec.attacks[name].factors
        return AttackRun(name, self.attacks[name], evaluation.applied, self._aim(name), factors)

    def _runs(self, cell: PlannedCell) -> dict[tuple[str, str], AttackRun]:
        """What the cell was attacked with, by attack and threat; points of a front aside."""
        runs = {(str(e.attack), str(e.threat)): self._run_of(e) for e in cell.evaluations if e.direction is None}
        return {key: run for key, run in runs.items() if run is not None}

    def _prepared(self, victim: Victim, run: AttackRun) -> AttackRun:
        """The run with its attack shown the clips that it must see first; in every process all of them, in order."""
        preparation = run.attack.preparation
        if preparation is None:
            return run
        section = self.spec.evaluation
        split = preparation.split or section.split
        clips = self.process.selection if split == section.split else select(self.dataset, split)
        skipped = Skipped(self.dataset)

        def batches() -> Iterator[Batch]:
            for batch in self.process.read(split, clips.chunks(preparation.batch_size), skipped):
                if batch is not None:
                    yield batch.to(self.fabric.device)

        with victim.frozen():
            ready = prepared(victim, run, batches)
        self.process.skipped.merge(skipped.by_split)
        return ready
