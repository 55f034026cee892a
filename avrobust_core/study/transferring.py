"""Transfer: clips attacked on one network of a finished run, and on the mean of others, tried on all its networks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avrobust_core.attacks.running import AttackRun, moved_by, refuse_norms
from avrobust_core.attacks.victim import Victim
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.batches import Batch
from avrobust_core.data.readings import FirstReading
from avrobust_core.errors import RunError
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.failures import Failure, recorded
from avrobust_core.evaluation.outcomes import Intervals, groups_by_clip
from avrobust_core.files import exclusive
from avrobust_core.models.objectives import correct
from avrobust_core.randomness import derive_seed
from avrobust_core.registry.choices import Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.model import EngineSection, Spec
from avrobust_core.study.building import Builder
from avrobust_core.study.console import Monitor
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.fitting import fit_record
from avrobust_core.study.keeping import kept_table
from avrobust_core.study.plan import PlannedCell, plan
from avrobust_core.study.predicting import Predicting
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import made_today, otherwise
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.training.fit import WEIGHTS

FORMAT = 1
"""The version of what `transfer` returns."""

KEPT = "transfers"
"""The folder in a run's in which it is kept what clips that were attacked on one network do on the others."""

_RIGHT = "right/"
"""The prefix of the columns that say which clips a network gets right."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What clips are attacked on.

    Attributes:
        label: of the network; for several, of the one that is left out of them.
        victim: the network, or the mean of several.
        cells: of these networks.
        mean: True if it is the mean of several.
    """

    label: str
    victim: Victim
    cells: tuple[PlannedCell, ...]
    mean: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that it reads."""
        return tuple(sorted({name for cell in self.cells for name in cell.modalities}))


class _Mean(nn.Module):
    """The mean of several networks' logits."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.stack([network(inputs) for network in self.networks]).mean(dim=0)


def transfer(
    loaded: LoadedSpec,
    registry: Registry,
    root: Path,
    *,
    out: Path | None = None,
    attack: str | None = None,
    threat: str | None = None,
    silent: bool = False,
) -> dict[str, Any]:
    """Attack the clips that are evaluated on each fitted network of a run, and try them on all, as JSON data.

    What is found of each source is kept, and taken again by a later call that asks the same of the same weights and
    clips; a call that was killed goes on where it stopped.

    A clip that fooled its source is tried as it did so; any other as the search left it. `broken` is the share, of the
    clips that the target gets right clean, that it gets wrong then: on the diagonal the white-box rate. A source reads
    some of the threat's modalities, and those are moved. Where there are three networks or more, each is also tried
    with clips that were attacked on the mean of the others' logits.

    Args:
        loaded: the run's resolved spec, with the attack.
        registry: that it was loaded with.
        root: the run's folder, of which nothing else is changed.
        out: the folder to keep it in; by default `transfers` in the run's.
        attack: its name in the spec; by default the first.
        threat: likewise; by default, of the attack's threats, the first that names most modalities.
        silent: show no progress.

    Returns:
        `cells` (`label`, ..., `clean_accuracy`), `matrix` (`source`, `target`, `broken`, and `untouched` where the
        target reads nothing that was moved), `ensembles` (the same with `sources`), `failures` by source, `reused` (how
        many sources an earlier call had done), `made_otherwise` (of those, what was made with other versions).

    Raises:
        RunError: if there is no such attack or threat, no network is fitted or one is damaged, the threat is one in
            features, or another process works in `out`.
        ComponentError: if the attack does not support a norm of the threat.
        OSError: if `out` cannot be written to.
    """
    spec = loaded.spec
    attack, threat = _chosen(spec, attack, threat)
    monitor = Monitor(silent=silent)
    process = Process(fabric_of(_one_device(spec.engine)), Builder(loaded.spec, registry), monitor)
    refuse_norms(attack, process.attacks[attack], threat, spec.threats[threat])
    place = root / KEPT if out is None else out
    with process.loader:
        transferring = _Transfer(process, root, place, attack, threat)
        with exclusive(place):
            return transferring.carry_out()


def _chosen(spec: Spec, attack: str | None, threat: str | None) -> tuple[str, str]:
    """The attack and the threat, if the spec has them."""
    for what, name, known in (("attack", attack, spec.attacks), ("threat", threat, spec.threats)):
        if not known:
            raise RunError(f"the run has no {what}s: give it one, as in --set attacks.pgd=pgd")
        if name is not None and name not in known:
            raise RunError(
                f"the run has no {what} {name!r}{did_you_mean(name, known) or '; it has: ' + ', '.join(known)}"
            )
    attack = attack or next(iter(spec.attacks))
    asked = spec.attacks[attack].threats
    threat = threat or max(
        spec.threats if asked is None else asked, key=lambda name: len(spec.threats[name].modalities)
    )
    features = [name for name, budget in spec.threats[threat].items() if budget.space == "features"]
    if features:
        raise RunError(
            f"threat {threat!r} is on features of {', '.join(features)}, which are each network's own: choose one "
            "on the input"
        )
    return attack, threat


def _one_device(engine: EngineSection) -> EngineSection:
    devices = [engine.devices[0]] if isinstance(engine.devices, list) else 1
    return engine.model_copy(update={"devices": devices})


class _Transfer:
    """One attack under one threat, on each network of a run."""

    def __init__(self, process: Process, root: Path, place: Path, attack: str, threat: str) -> None:
        self.process = process
        self.place = place
        self.attack, self.threat = attack, threat
        planned = plan(process.builder, process.dataset, root)
        self.cells = [cell for cell in planned if cell.fitted]
        if not self.cells:
            raise RunError(
                f"{root} has no fitted network of its spec as it is today: `avrobust plan {root}/resolved.yaml --out "
                f"{root}` says why"
            )
        self.left_out = [cell.label for cell in planned if not cell.fitted]
        self.weights = {cell.id: str(fit_record(cell)["files"][WEIGHTS]) for cell in self.cells}
        self.root = root
        self.victims = {cell.label: process.attacked(cell) for cell in self.cells}
        self.predicting = Predicting(process)
        self.made_with: dict[str, Mapping[str, Any]] = {}  # by source, of what an earlier call had done

    def carry_out(self) -> dict[str, Any]:
        clean, first = self._clean()
        ids = first.ids
        section, spec = self.process.spec.evaluation, self.process.spec
        grouping = groups_by_clip(self.process.dataset, section.split)
        seed = derive_seed(spec.seed, "bootstrap")
        intervals = Intervals(section.confidence, section.resamples, seed, grouping).over(ids)
        failures: list[Failure] = []
        found: dict[str, list[dict[str, Any]]] = {"matrix": [], "ensembles": []}
        for source in (*self._single(), *self._means()):
            label = f"without {source.label}" if source.mean else source.label
            with recorded(lambda failure, label=label: failures.append({"source": label, **failure})):  # type: ignore[misc]
                told = self._tried(source, clean, first, intervals)
                found["ensembles" if source.mean else "matrix"] += told
        for failure in failures:
            self.process.monitor.say(f"{failure['source']} failed: {failure['message']}")
        today = made_today(self.process.device.type, self._used())
        earlier = [{"made_with": kept, "records": [label]} for label, kept in self.made_with.items()]
        return {
            "format": FORMAT,
            "run": str(self.root),
            "attack": self.attack,
            "threat": self.threat,
            "confidence": section.confidence,
            "clips": len(ids),
            "cells": [
                cell.names | {"label": cell.label, "clean_accuracy": intervals.mean(clean[cell.label]).to_json()}
                for cell in self.cells
            ],
            "left_out": self.left_out,
            **found,
            "failures": failures,
            "reused": len(self.made_with),
            "made_otherwise": otherwise(earlier, today),
        }

    def _used(self) -> list[Configured]:
        return [self.process.builder.component(self.process.spec.attacks[self.attack])]

    def _single(self) -> Iterator[_Source]:
        for cell in self.cells:
            yield _Source(cell.label, self.victims[cell.label], (cell,))

    def _means(self) -> Iterator[_Source]:
        """For each network the mean of all others, where there are several others."""
        process = self.process
        for cell in self.cells if len(self.cells) > 2 else ():
            others = tuple(other for other in self.cells if other is not cell)
            victim = Victim(
                _Mean(process.model(other) for other in others),
                media=process.dataset.media,
                task=process.dataset.task,
                seed=cell.seed,
                samples=process.spec.evaluation.samples,
                precision=process.spec.engine.attack_precision,
            )
            yield _Source(cell.label, victim, others, mean=True)

    def _tried(
        self,
        source: _Source,
        clean: Mapping[str, NDArray[np.bool_]],
        first: FirstReading,
        intervals: Intervals,
    ) -> list[dict[str, Any]]:
        """How the clips that were attacked on one source do in its targets."""
        threat = self.process.spec.threats[self.threat].restricted(source.modalities)
        if threat is None:  # it touches nothing that the source reads
            return []
        kept = self._kept(source, threat, first)
        told = []
        for cell in self.cells:
            if source.mean and cell.label != source.label:
                continue
            broken = clean[cell.label] & ~kept[cell.id]
            entry: dict[str, Any] = {
                "target": cell.label,
                "broken": intervals.share(broken, clean[cell.label]).to_json(),
            }
            if source.mean:
                entry["sources"] = [other.label for other in source.cells]
            else:
                entry["source"] = source.label
            told.append(entry | {"untouched": not set(threat.modalities) & set(cell.modalities)})
        return told

    def _clean(self) -> tuple[dict[str, NDArray[np.bool_]], FirstReading]:
        """Which clean clips each network gets right, by label, each (N,); and what was read."""
        process, task = self.process, self.process.dataset.task
        process.monitor.say("clean")

        def work(batch: Batch) -> shards.Columns:
            logits = {cell.id: self.victims[cell.label].clean_logits(batch) for cell in self.cells}
            return {_RIGHT + name: correct(each, batch.targets, task) for name, each in logits.items()}

        with TemporaryDirectory() as folder, process.monitor.task("clean"):
            process.in_shards(Path(folder), process.selection, work, "clean", process.batch_size(*self.cells))
            table = shards.collected(Path(folder), process.selection)
        right = _right(table)
        first = FirstReading(table["id"].to_pylist(), shards.columns_named(table, shards.CHECKSUM))
        return {cell.label: right[cell.id] for cell in self.cells}, first

    def _kept(self, source: _Source, threat: ThreatModel, first: FirstReading) -> dict[str, NDArray[np.bool_]]:
        """Which of the clips that were attacked on a source each network gets right: by cell, each (N,)."""
        process, spec = self.process, self.process.spec
        attack, entry, goal = process.attacks[self.attack], spec.attacks[self.attack], process.goal(self.attack)
        label = f"{self.attack}/{self.threat} on {self._named(source)}"
        run = AttackRun(self.attack, attack, threat, goal)

        def fill(folder: Path) -> None:
            process.monitor.say(label)
            ready = self.predicting.ready(source.victim, run, first)

            def work(batch: Batch) -> shards.Columns:
                inputs = {**batch.inputs, **moved_by(source.victim, batch, ready)}
                logits = {cell.id: self.victims[cell.label].logits(inputs) for cell in self.cells}
                return {_RIGHT + name: correct(x, batch.targets, process.dataset.task) for name, x in logits.items()}

            with process.monitor.task(label), source.victim.frozen():
                process.in_shards(folder, process.selection, work, label, process.batch_size(*self.cells), first)

        identity = {
            "sources": [[cell.id, self.weights[cell.id]] for cell in source.cells],
            "targets": sorted(self.weights.items()),
            "seed": source.victim.seed,
            "attack": process.builder.component(entry).identity(),
            "threat": threat.model_dump(mode="json"),
            "goal": [entry.goal, entry.target],
            "samples": spec.evaluation.samples,
            "precision": spec.engine.attack_precision,
            "clips": first.identity,
        }
        table, earlier = kept_table(process, self.place, identity, label, fill, self._used())
        if earlier is not None:
            self.made_with[label] = earlier["made_with"]
        return _right(table)

    def _named(self, source: _Source) -> str:
        return f"the mean of all but {source.label}" if source.mean else source.label


def _right(table: pa.Table) -> dict[str, NDArray[np.bool_]]:
    return shards.columns_named(table, _RIGHT)
