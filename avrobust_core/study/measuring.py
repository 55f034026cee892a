"""Metrics of a study: embeddings are made once for all of them, and findings are kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.data.batches import Clip
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import read_clip
from avrobust_core.data.loading import Selection, select
from avrobust_core.data.readings import FirstReading
from avrobust_core.errors import ComponentError, DataError, ModelError, RunError
from avrobust_core.evaluation.failures import Failure, Keep, recorded
from avrobust_core.evaluation.outcomes import Intervals, measurement_to_json, subject_of
from avrobust_core.evaluation.predictions import PREDICTIONS, Predictions
from avrobust_core.files import digest, read_record, without_upkeep, write_atomically, write_record
from avrobust_core.metrics.findings import checked_measurement
from avrobust_core.metrics.latents import Latents, LayerKind
from avrobust_core.metrics.metric import Metric
from avrobust_core.metrics.named_layers import find_layer
from avrobust_core.metrics.probe import Probe
from avrobust_core.metrics.shares import Shares
from avrobust_core.models.model import AVModel
from avrobust_core.registry.choices import Configured
from avrobust_core.study import embedding
from avrobust_core.study.plan import PlannedCell, PlannedEvaluation
from avrobust_core.study.process import Process

CLIP_CACHE_BYTES = 2**30
"""Raw clips that a metric's probe keeps in memory, because segments share clips."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One metric on one evaluation."""

    component: Configured
    metric: Metric
    evaluation: PlannedEvaluation
    path: Path
    """Of its finding."""

    @property
    def name(self) -> str:
        """The metric's."""
        return self.component.entry.component.name

    @property
    def where(self) -> dict[str, Any]:
        """The names of the metric and the evaluation, for the cell's result."""
        return {"metric": self.name, "attack": self.evaluation.attack, "threat": self.evaluation.threat}

    @property
    def predictions(self) -> str:
        """The hash of the predictions that it measures."""
        return str(read_record(self.evaluation.folder / "record.json", check=())["files"][PREDICTIONS])


class Measuring:
    """Measures cells.

    Args:
        process: this one.
        intervals: their settings.
    """

    def __init__(self, process: Process, intervals: Intervals) -> None:
        self.process = process
        self.intervals = intervals
        components = map(process.builder.component, process.spec.metrics)
        self.metrics: list[tuple[Configured, Metric]] = [(component, component.build()) for component in components]

    def refuse(self) -> None:
        """Refuse metrics that ask for a split which the data set does not have.

        Raises:
            ComponentError: names metric and split.
        """
        dataset = self.process.dataset
        for component, metric in self.metrics:
            for wanted in metric.latents if dataset.task in metric.tasks else ():
                if wanted.split is not None and wanted.split not in dataset.splits:
                    raise ComponentError(
                        f"metric {component.entry.component.name!r} asks for the split {wanted.split!r}, which the "
                        f"data set does not have; it has: {', '.join(dataset.splits)}"
                    )

    @property
    def layers(self) -> dict[str, str]:
        """The layers that metrics ask for by name, each with the metric's."""
        return {layer: component.entry.component.name for component, metric in self.metrics for layer in metric.layers}

    def refuse_layers(self, models: Iterable[AVModel]) -> None:
        """Refuse metrics that ask for a layer which none of the models has.

        Args:
            models: all of the study's, fitted or not.

        Raises:
            ComponentError: names metric, layer and near names.
        """
        lacking: dict[str, str] = {}
        found: set[str] = set()
        for model in models:
            for layer in self.layers:
                try:
                    find_layer(model, layer)
                    found.add(layer)
                except ModelError as error:
                    lacking.setdefault(layer, str(error))
        for layer, reason in lacking.items():
            if layer not in found:
                raise ComponentError(f"metric {self.layers[layer]!r}: {reason}")

    def measure(
        self, cell: PlannedCell, predictions: Mapping[Path, Predictions], weights: str, label: str, keep: Keep
    ) -> list[dict[str, Any]]:
        """The findings of all metrics for a cell, clean and under each attack, as JSON data.

        Args:
            cell: fitted and evaluated.
            predictions: by the evaluation's folder, of those that did not fail.
            weights: the hash of the cell's weights.
            label: for messages.
            keep: told of the metrics that fail; the others are measured.

        Returns:
            One entry per metric and evaluation; in the first of several processes.
        """
        asked = [
            _Task(component, metric, evaluation, self._path(cell, evaluation, component))
            for evaluation in cell.evaluations
            if evaluation.direction is None and evaluation.folder in predictions
            for component, metric in self.metrics
            if evaluation.attack is None or metric.under_attack
        ]
        data = self.process.dataset.task
        # Two names of the spec may mean the same.
        tasks = {task.path: task for task in asked if data in task.metric.tasks}
        found = {path: record for path, task in tasks.items() if (record := self._kept(task, label)) is not None}
        open_ = [task for path, task in tasks.items() if path not in found]
        if open_:
            self.process.begin()
        self.process.fabric.barrier()  # every process has seen the same files before the first one writes
        latents, broken = self._latents(cell, open_, weights, label)
        failed: dict[Path, Failure] = {}
        for to_do in open_:
            if not (self.process.first or to_do.metric.shared):
                continue
            lacking = [broken[split] for split in self._splits(to_do) if split in broken]
            if lacking:
                failed[to_do.path] = lacking[0]
                continue
            shares = self.process.shares if to_do.metric.shared else Shares()
            work = partial(self._carry_out, cell, to_do, predictions[to_do.evaluation.folder], latents, label, shares)
            with recorded(partial(failed.__setitem__, to_do.path)):
                record = shares.together(work)
                if record is not None:
                    found[to_do.path] = record
        self.process.fabric.barrier()
        entries = []
        for task in asked:
            if data not in task.metric.tasks:
                entries.append(task.where | {"left_out": f"not defined for {data} data"})
            elif task.path in failed:
                keep(task.evaluation.failed(failed[task.path], metric=task.name))
            elif task.path in found:
                entries.append(without_upkeep(found[task.path]) | task.where)
        return entries

    def _kept(self, task: _Task, label: str) -> dict[str, Any] | None:
        """The finding of an earlier run on these predictions, if it is sound."""
        record = self.process.kept(task.path, f"{label}: {task.name} is measured again")
        return record if record is not None and record["of"] == task.predictions else None

    def _splits(self, task: _Task) -> list[str]:
        """The splits of which a task needs embeddings, sorted."""
        return sorted({want.split or self.process.selection.split for want in task.metric.latents})

    def per_clip(self, cell: PlannedCell, entry: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """A metric's numbers per clip, by name, (N,), from its entry in the cell's result."""
        if "per_clip" not in entry:
            return {}
        table = pq.read_table(cell.folder / entry["per_clip"])
        return {name: table[name].to_numpy() for name in table.column_names if name != "id"}

    def class_sizes(self, cell: PlannedCell, clean: Predictions) -> NDArray[np.int64]:
        """The number of clips in each class: (K,), of those embedded for training, or else of those evaluated."""
        record = self._folder(cell, "train")[0] / embedding.RECORD
        targets = clean.targets
        if record.exists():
            read_record(record, check=[embedding.CLIPS])
            targets = embedding.load(record.parent).targets
        if targets.ndim == 2:
            return np.asarray((targets > 0.5).sum(axis=0))
        return np.bincount(targets, minlength=len(self.process.dataset.classes))

    def _folder(self, cell: PlannedCell, split: str) -> tuple[Path, dict[str, Any], Selection]:
        """The folder of a split's embeddings, their identity, and their clips."""
        process = self.process
        evaluated = split == process.selection.split
        chosen = process.selection if evaluated else select(process.dataset, split)
        identity = {"split": split, "clips": process.spec.evaluation.clips if evaluated else None}
        return cell.folder / "embeddings" / digest(identity), identity, chosen

    def _path(self, cell: PlannedCell, evaluation: PlannedEvaluation, component: Configured) -> Path:
        """The file of a metric's finding."""
        identity = {
            "evaluation": evaluation.folder.name,
            "metric": component.identity(),
            "confidence": self.intervals.confidence,
            "resamples": self.intervals.resamples,
        }
        if self.intervals.grouping:
            identity["groups"] = self.intervals.grouping
        return cell.folder / "measurements" / f"{digest(identity)}.json"

    def _latents(
        self, cell: PlannedCell, tasks: Sequence[_Task], weights: str, label: str
    ) -> tuple[dict[str, Latents], dict[str, Failure]]:
        """The embeddings that these tasks ask for, by split, made where they are missing; and the failures."""
        evaluated = self.process.selection.split
        wanted: dict[str, set[LayerKind]] = {}
        for task in tasks:
            for want in task.metric.latents:
                wanted.setdefault(want.split or evaluated, set()).update(want.kinds)
        found: dict[str, Latents] = {}
        broken: dict[str, Failure] = {}
        for split, kinds in sorted(wanted.items()):
            where = f"{label}: embeddings of {split}"
            with recorded(partial(broken.__setitem__, split), settle=self.process.settle, label=where):
                found[split] = self._embedded(cell, split, frozenset(kinds), weights, where)
        return found, broken

    def _embedded(
        self, cell: PlannedCell, split: str, kinds: frozenset[LayerKind], weights: str, label: str
    ) -> Latents:
        process = self.process
        folder, identity, chosen = self._folder(cell, split)
        record = process.kept(folder / embedding.RECORD, f"{label} are made again")
        if record is not None and record["weights"] != weights:
            record = None
        missing = kinds if record is None else kinds - {*record["kinds"]}
        process.fabric.barrier()
        if missing or record is None:
            model = process.model(cell)
            process.monitor.say(label)
            with process.monitor.task(label):
                process.in_shards(
                    embedding.parts_folder(folder, missing),
                    chosen,
                    lambda batch: embedding.embed_batch(model, batch, missing),
                    label,
                    process.batch_size(cell),
                )
            process.fabric.barrier()
            if process.first:
                about = {"identity": identity | {"cell": cell.id}, "weights": weights} | process.made_with([])
                embedding.collect(folder, chosen, missing, about, record)
        if process.first:
            embedding.remove_leftovers(folder)
        process.fabric.barrier()
        process.skipped.merge(read_record(folder / embedding.RECORD, check=()))
        return embedding.load(folder)

    def _carry_out(
        self,
        cell: PlannedCell,
        task: _Task,
        predictions: Predictions,
        latents: Mapping[str, Latents],
        label: str,
        shares: Shares,
    ) -> dict[str, Any] | None:
        """The record of a metric's finding; in processes other than the first, which only help, None."""
        process = self.process
        asked, split = self._splits(task), process.selection.split
        if split in asked:
            own = latents[split]
            if own.ids != predictions.ids:
                raise RunError(
                    f"{label}: the embeddings are of other clips than the predictions: some could be read at one time "
                    "and not at another; delete the cell's folders `evaluations` and `embeddings` and run again"
                )
            clean = FirstReading(predictions.ids, predictions.checksums)
            clean.compare(own.ids, own.ids, embedding.checksums(self._folder(cell, split)[0]), f"{label}: embeddings")
        if task.metric.probes or asked:
            process.monitor.say(f"{label}: {task.name}")
        probe = None
        if task.metric.probes:
            ids = {name: found.ids for name, found in latents.items()} | {split: predictions.ids}
            read, size = ClipReader(process.dataset, ids), process.batch_size(cell)
            media = process.dataset.media
            probe = Probe(
                process.model(cell),
                read,
                device=process.device,
                batch_size=size,
                media=media,
                padding=read.padding,
            )
        subject = subject_of(
            predictions,
            process.dataset.classes,
            process.dataset.task,
            self.intervals,
            split=split,
            latents={name: latents[name] for name in asked},
            probe=probe,
            shares=shares,
        )
        with torch.no_grad():
            measurement = checked_measurement(
                task.metric.measure(subject), task.component.entry.described, len(subject.ids)
            )
        if not process.first:
            return None
        found = measurement_to_json(measurement) | {"metric": task.name, "of": task.predictions}
        found |= process.made_with([task.component])
        files = []
        if measurement.per_clip:
            columns = {"id": pa.array(subject.ids, type=pa.string()), **measurement.per_clip}
            path = task.path.with_suffix(".parquet")
            write_atomically(path, lambda file: pq.write_table(pa.table(columns), file))
            found["per_clip"] = str(path.relative_to(cell.folder))
            files.append(path)
        return write_record(task.path, found, files)


class ClipReader:
    """Reads raw clips by their positions among chosen ids, and keeps some of them.

    Args:
        dataset: to read from.
        ids: by split.
    """

    def __init__(self, dataset: Dataset, ids: Mapping[str, Sequence[str]]) -> None:
        self.dataset = dataset
        self.ids = ids
        self._places: dict[str, dict[str, int]] = {}
        self._kept: dict[tuple[str, int], Clip] = {}
        self._bytes = 0

    def __call__(self, split: str, positions: Sequence[int]) -> dict[str, Tensor]:
        """The raw inputs, by modality, (B, ...).

        Raises:
            DataError: if a clip can no longer be read; names it.
        """
        if split not in self.ids:
            raise DataError(f"the metric reads clips of split {split!r}, but asked for no latents of it")
        clips = [self._clip(split, int(position)).inputs for position in positions]
        return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}

    def padding(self, split: str, positions: Sequence[int]) -> tuple[Mapping[str, float], ...]:
        """What `Batch.padded` has of these clips."""
        return tuple(self._clip(split, int(position)).padded for position in positions)

    def _clip(self, split: str, position: int) -> Clip:
        kept = self._kept.get((split, position))
        if kept is not None:
            return kept
        if split not in self._places:
            self._places[split] = {clip_id: i for i, clip_id in enumerate(self.dataset.ids(split))}
        clip = read_clip(self.dataset, split, self._places[split][self.ids[split][position]])
        if self._bytes > CLIP_CACHE_BYTES:
            self._kept.clear()
            self._bytes = 0
        self._kept[split, position] = clip
        self._bytes += sum(x.nbytes for x in clip.inputs.values())
        return clip
