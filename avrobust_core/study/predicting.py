"""Predictions of a study's cells, clean and under each attack: made, kept, checked when they are used again."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from avrobust_core.attacking import AttackRun, prepared
from avrobust_core.batches import Batch
from avrobust_core.blame import sentence
from avrobust_core.border.readings import FirstReading, checksums
from avrobust_core.contracts import Attack
from avrobust_core.errors import RunError
from avrobust_core.goals import Aim
from avrobust_core.study import evaluation as evaluating
from avrobust_core.study import parts
from avrobust_core.study.deadline import limited
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.failures import Failure, recorded
from avrobust_core.study.loading import Skipped, select
from avrobust_core.study.plan import PlannedCell, PlannedEvaluation
from avrobust_core.study.process import Process
from avrobust_core.study.results import same_clips
from avrobust_core.study.store import read_record, write_record
from avrobust_core.victim import Victim


class Predicting:
    """Predicts cells.

    Args:
        process: this one.
        attacks: built, by the names that the spec gives them.
        aim: from an attack's name to what it wants.

    Attributes:
        fresh: whether something has been computed, not reused, since this was last set to False.
    """

    def __init__(self, process: Process, attacks: Mapping[str, Attack], aim: Callable[[str], Aim]) -> None:
        self.process = process
        self.attacks = attacks
        self.aim = aim
        self.fresh = False

    def predictions(
        self, cell: PlannedCell, weights: str | None, label: str, failures: list[Failure]
    ) -> dict[Path, Predictions]:
        """The predictions by folder: threats may mean the same to a model that reads few modalities, and share one.

        Attacks that fail are added to `failures`; without clean predictions nothing can be said of the cell.
        """
        found: dict[Path, Predictions] = {}
        failed: dict[Path, Failure] = {}
        for evaluation in cell.evaluations:
            folder = evaluation.folder
            if evaluation.attack is None:
                found[folder] = self._evaluate(cell, evaluation, weights, label)
                continue
            clean = found[cell.evaluations[0].folder]
            where = f"{label}: {evaluation.label}"
            if folder not in found and folder not in failed:
                with recorded(
                    partial(failed.__setitem__, folder), alone=self.process.fabric.world_size == 1, label=where
                ):
                    predictions = self._evaluate(cell, evaluation, weights, label, clean)
                    same_clips(clean, predictions, evaluation.label)  # what an earlier run has left, too
                    found[folder] = predictions
            if folder in failed:
                self.process.monitor.say(f"{where} failed: {failed[folder]['message']}")
                step: Failure = {"metric": None, "attack": evaluation.attack, "threat": evaluation.threat}
                step |= {"direction": evaluation.direction, "evaluation": evaluation.label}
                failures.append(step | {"bounded": self.attacks[evaluation.attack].bounded} | failed[folder])
        return found

    def _evaluate(
        self,
        cell: PlannedCell,
        evaluation: PlannedEvaluation,
        weights: str | None,
        label: str,
        clean: Predictions | None = None,
    ) -> Predictions:
        record_path, predictions_path = evaluation.folder / "record.json", evaluation.folder / evaluating.PREDICTIONS
        kept = self._kept(evaluation, weights, label)
        self.process.fabric.barrier()  # every process has seen the same files before the first one writes
        if kept is not None:
            return kept
        self.fresh = True
        if self.process.fabric.is_global_zero:
            self.process.monitor.say(f"{label}: {evaluation.label}")
        with self.process.monitor.task(f"{label}: {evaluation.label}"):
            self._predict(cell, evaluation, None if clean is None else FirstReading(clean.ids, clean.checksums))
        self.process.fabric.barrier()
        if self.process.fabric.is_global_zero:
            predictions, skipped = evaluating.collect(evaluation.folder, self.process.selection)
            evaluating.to_parquet(predictions_path, predictions)
            used = (
                []
                if evaluation.attack is None
                else [self.process.builder.part("attack", self.process.spec.attacks[evaluation.attack])]
            )
            found: dict[str, Any] = {
                "identity": evaluation.identity,
                "weights": weights,
                "clips": len(predictions.ids),
                "seconds": round(predictions.seconds, 3),
                "skipped": {self.process.selection.split: skipped},
                "constant": {
                    self.process.selection.split: parts.all_constant(evaluation.folder, self.process.selection)
                },
            }
            write_record(record_path, found | self.process.made_with(used), [predictions_path])
            parts.remove(evaluation.folder)
        self.process.fabric.barrier()
        record = read_record(record_path, check=())
        self.process.skipped.merge(record["skipped"], record.get("constant"))
        return evaluating.from_parquet(predictions_path, record["seconds"])

    def _kept(self, evaluation: PlannedEvaluation, weights: str | None, label: str) -> Predictions | None:
        """The predictions of an earlier run, if they are there, sound, and of these weights."""
        if not evaluation.done:
            return None
        try:
            record = read_record(evaluation.folder / "record.json")
            if weights is not None and record.get("weights", weights) != weights:
                self.process.monitor.say(f"{label}: {evaluation.label} is computed again: the weights are others now")
                return None
            predictions = evaluating.from_parquet(evaluation.folder / evaluating.PREDICTIONS, record["seconds"])
            self.process.skipped.merge(record["skipped"], record.get("constant"))
        except (RunError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self.process.monitor.say(f"{label}: {evaluation.label} is computed again: {sentence(error)}")
            return None
        return predictions

    def _predict(self, cell: PlannedCell, evaluation: PlannedEvaluation, first: FirstReading | None) -> None:
        section = self.process.spec.evaluation
        victim = Victim(
            self.process.model(cell),
            media=self.process.dataset.media,
            task=self.process.dataset.task,
            seed=cell.seed,
            samples=section.samples,
            precision=self.process.spec.engine.attack_precision,
        )
        run = self._run(evaluation)
        if run is not None:
            run = self._prepared(victim, run, first)
        with victim.frozen():
            self.process.in_parts(
                evaluation.folder,
                self.process.selection,
                lambda batch: evaluating.evaluate_batch(victim, batch, run),
                evaluation.label,
                first,
            )

    def runs(self, cell: PlannedCell) -> dict[tuple[str, str], AttackRun]:
        """What a cell is attacked with, by attack and threat; not the points of fronts, nor what touches nothing."""
        runs = {(str(e.attack), str(e.threat)): self._run(e) for e in cell.evaluations if e.direction is None}
        return {key: run for key, run in runs.items() if run is not None}

    def _run(self, evaluation: PlannedEvaluation) -> AttackRun | None:
        """The attack and the threat of an evaluation; None of a clean one, and where the threat touches nothing."""
        if evaluation.attack is None or evaluation.applied is None:
            return None
        name = evaluation.attack
        factors = self.process.spec.attacks[name].factors
        return AttackRun(name, self.attacks[name], evaluation.applied, self.aim(name), factors)

    def _prepared(self, victim: Victim, run: AttackRun, first: FirstReading | None) -> AttackRun:
        """The run with its attack shown the clips that it must see first; in every process all of them, in order."""
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
        self.process.skipped.merge(skipped.by_split, skipped.constant)
        return ready
