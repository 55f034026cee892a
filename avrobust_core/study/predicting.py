"""Predictions of a study's cells, clean and under each attack: made, kept, checked when they are used again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from avrobust_core.attacks.running import AttackRun, prepared
from avrobust_core.attacks.victim import Victim
from avrobust_core.blame import sentence
from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import Skipped, select
from avrobust_core.data.readings import FirstReading, checksums
from avrobust_core.deadline import limited
from avrobust_core.errors import RunError
from avrobust_core.evaluation import predictions as evaluating
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.failures import Failure, recorded
from avrobust_core.evaluation.outcomes import same_clips
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.files import read_record, write_record
from avrobust_core.models.tuning import Setting, tune
from avrobust_core.study.plan import PlannedCell, PlannedEvaluation
from avrobust_core.study.process import Process

RECORD = "record.json"
"""The file that completes an evaluation."""


class Predicting:
    """Predicts cells.

    Args:
        process: this one.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def predictions(
        self, cell: PlannedCell, weights: str, label: str, failures: list[Failure]
    ) -> dict[Path, Predictions]:
        """The predictions by folder: threats may mean the same to a model that reads few modalities, and share one.

        Attacks that fail are added to `failures`; without clean predictions nothing can be said of the cell.
        """
        clean = self._evaluate(cell, cell.evaluations[0], weights, label, None)
        first = FirstReading(clean.ids, clean.checksums)
        found = {cell.evaluations[0].folder: clean}
        failed: dict[Path, Failure] = {}
        for evaluation in cell.evaluations[1:]:
            folder, where = evaluation.folder, f"{label}: {evaluation.label}"
            if folder not in found and folder not in failed:
                with recorded(partial(failed.__setitem__, folder), settle=self.process.settle, label=where):
                    predictions = self._evaluate(cell, evaluation, weights, label, first)
                    same_clips(clean, predictions, evaluation.label)  # what an earlier run has left, too
                    found[folder] = predictions
            if folder in failed:
                self.process.monitor.say(f"{where} failed: {failed[folder]['message']}")
                bounded = self.process.attacks[str(evaluation.attack)].bounded
                failures.append(evaluation.failed(failed[folder], bounded=bounded))
        return found

    def _evaluate(
        self, cell: PlannedCell, evaluation: PlannedEvaluation, weights: str, label: str, first: FirstReading | None
    ) -> Predictions:
        process, where = self.process, f"{label}: {evaluation.label}"
        kept = self._kept(evaluation, weights, where)
        process.fabric.barrier()  # every process has seen the same files before the first one writes
        if kept is not None:
            return kept
        process.begin()
        process.fresh = True
        process.monitor.say(where)
        with process.monitor.task(where):
            self._predict(cell, evaluation, first)
        process.fabric.barrier()
        found = self._keep(cell, evaluation, weights) if process.first else None
        process.fabric.barrier()
        return self._read(evaluation, read_record(evaluation.folder / RECORD, check=()), found)

    def made(self, evaluation: PlannedEvaluation) -> Predictions:
        """The predictions of an evaluation that is done.

        Raises:
            RunError: if its record is damaged.
        """
        return self._read(evaluation, read_record(evaluation.folder / RECORD))

    def _read(
        self, evaluation: PlannedEvaluation, record: dict[str, Any], predictions: Predictions | None = None
    ) -> Predictions:
        """The predictions of a record, read from its folder unless this process holds them."""
        if predictions is None:
            predictions = evaluating.from_parquet(evaluation.folder / evaluating.PREDICTIONS, record["seconds"])
        self.process.skipped.merge(record)
        return predictions

    def _keep(self, cell: PlannedCell, evaluation: PlannedEvaluation, weights: str) -> Predictions:
        """Put together what all processes have found, and write it with its record."""
        folder, selection = evaluation.folder, self.process.selection
        predictions = evaluating.collect(folder, selection)
        evaluating.to_parquet(folder / evaluating.PREDICTIONS, predictions)
        attack = [] if evaluation.attack is None else [self.process.spec.attacks[evaluation.attack]]
        found: dict[str, Any] = {
            "identity": evaluation.identity,
            "weights": weights,
            "clips": len(predictions.ids),
            "seconds": round(predictions.seconds, 3),
            **shards.notes_of(folder, selection),
        }
        if cell.id in self.process.tuned:
            found["tuned"] = {
                setting: {name: tried.to_json() for name, tried in by_name.items()}
                for setting, by_name in self.process.tuned[cell.id].items()
            }
        if self.process.spec.engine.batch_size == "auto":
            found["batch_size"] = self.process.batch_size(cell)
        made_with = self.process.made_with(map(self.process.builder.component, attack))
        write_record(folder / RECORD, found | made_with, [folder / evaluating.PREDICTIONS])
        shards.remove(folder)
        return replace(predictions, seconds=found["seconds"])

    def _kept(self, evaluation: PlannedEvaluation, weights: str, where: str) -> Predictions | None:
        """The predictions of an earlier run, if they are there, sound, and of these weights."""
        if not evaluation.done:
            return None
        try:
            record = read_record(evaluation.folder / RECORD)
            if record["weights"] != weights:
                self.process.monitor.say(f"{where} is computed again: the weights are others now")
                return None
            return self._read(evaluation, record)
        except (RunError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self.process.monitor.say(f"{where} is computed again: {sentence(error)}")
            return None

    def _predict(self, cell: PlannedCell, evaluation: PlannedEvaluation, first: FirstReading | None) -> None:
        victim = self.process.attacked(cell)
        run = self._run(evaluation)
        if run is not None:
            run = self.ready(victim, run, first)

        def work(batch: Batch) -> shards.Columns:
            self._tune(cell, victim, batch)
            return evaluating.evaluate_batch(victim, batch, run)

        size = self.process.batch_size(cell)
        with victim.frozen():
            self.process.in_shards(
                evaluation.folder, self.process.selection, work, evaluation.label, size, first, victim.spare
            )

    def _tune(self, cell: PlannedCell, victim: Victim, batch: Batch) -> None:
        """At the first batch of a model, measure and choose what the engine leaves to measuring, and say it."""
        process, engine = self.process, self.process.spec.engine
        asked: Mapping[Setting, object] = {
            "channels_last": engine.channels_last,
            "compile": engine.attack_compile,
            "cudnn_benchmark": engine.cudnn_benchmark,
        }
        left = [setting for setting, value in asked.items() if value == "auto"]
        if not left or cell.id in process.tuned:
            return
        model, compiled = process.model(cell), process.compiled(cell)
        process.tuned[cell.id] = tune(model, batch.inputs, left, victim.lowered, compiled)
        for setting, by_name in process.tuned[cell.id].items():
            for name, tried in by_name.items():
                process.monitor.say(f"{setting} of {name}: {tried}")

    def runs(self, cell: PlannedCell) -> dict[tuple[str, str], AttackRun]:
        """The attacks on a cell, by attack and threat, without the points of fronts and threats that touch nothing."""
        runs = {(str(e.attack), str(e.threat)): self._run(e) for e in cell.evaluations if e.direction is None}
        return {key: run for key, run in runs.items() if run is not None}

    def _run(self, evaluation: PlannedEvaluation) -> AttackRun | None:
        """The attack and the threat of an evaluation; None of a clean one, and where the threat touches nothing."""
        if evaluation.attack is None or evaluation.applied is None:
            return None
        name = evaluation.attack
        factors = self.process.spec.attacks[name].factors
        return AttackRun(name, self.process.attacks[name], evaluation.applied, self.process.goal(name), factors)

    def ready(self, victim: Victim, run: AttackRun, first: FirstReading | None) -> AttackRun:
        """The run after its attack has seen the clips that it prepares from: in every process all of them, in order."""
        preparation = run.attack.preparation
        if preparation is None:
            return run
        section = self.process.spec.evaluation
        split = preparation.split or section.split
        evaluated = split == section.split
        clips = self.process.selection if evaluated else select(self.process.dataset, split)
        skipped = Skipped(self.process.dataset)

        def batches() -> Iterator[Batch]:
            for batch in self.process.read(split, clips.chunks(preparation.batch_size), skipped):
                if batch is None:
                    continue
                if evaluated and first is not None:
                    first.compare(batch.ids, batch.ids, checksums(batch), run.name)
                yield batch.to(self.process.fabric.device)

        timeout = self.process.spec.engine.batch_timeout
        if timeout is not None:
            timeout *= len(clips.chunks(preparation.batch_size))
        with victim.frozen(), limited(timeout, lambda: f"{run.name}: what it prepares from split {split!r}"):
            ready = prepared(victim, run, batches)
        self.process.skipped.merge(skipped.to_json())
        return ready
