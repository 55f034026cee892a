"""A finished run, read from its folder: what was found for each clip, of which clips, and what with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from avrobust_core.errors import RunError
from avrobust_core.evaluation.predictions import PREDICTIONS
from avrobust_core.evaluation.samples import SAMPLES
from avrobust_core.evaluation.shards import CHECKSUM, columns_named
from avrobust_core.files import file_hash, read_json, read_record, refuse_changed
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.problems import SpecError, in_order
from avrobust_core.spec.tree import read_tree
from avrobust_core.study.pooling import CellKey, ClipOutcomes, Condition, failed_conditions
from avrobust_core.study.predicting import RECORD

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of which nothing is left to do.

    Attributes:
        folder: of the run.
        result, resolved, lock: what its result.json, resolved.yaml and lock.json hold.
        outcomes: clip by clip, of each cell that did not fail.
        evaluations: by cell, what identifies the attack of each evaluation; `attack`, `threat`, `goal`, ...
        labels: the classes of each clip that was evaluated, by id.
        groups: the group of each clip that has one, by id.
        checksums: by modality, what was read for each clip, by id; none where the predictions are no longer there.
        components: the versions of the components that are at work in the cells, by full name.
    """

    folder: Path
    result: Json
    resolved: Json
    lock: Json
    outcomes: Mapping[CellKey, ClipOutcomes]
    evaluations: Mapping[CellKey, Mapping[Condition, Json]]
    labels: Mapping[str, frozenset[str]]
    groups: Mapping[str, str]
    checksums: Mapping[str, Mapping[str, int]]
    components: Mapping[str, int]


def read_run(folder: Path) -> FinishedRun:
    """Read a run.

    Raises:
        RunError: if the folder holds no finished run, or a file of it is damaged; says which.
        SpecError: if its resolved.yaml cannot be read.
    """
    for name in ("lock.json", "resolved.yaml", "result.json"):
        if not (folder / name).is_file():
            raise RunError(f"{folder} holds no finished run: it has no {name}; `avrobust run` makes one, or ends it")
    result, lock = read_json(folder / "result.json"), read_json(folder / "lock.json")
    try:
        done, planned = ([cell["id"] for cell in file["cells"]] for file in (result, lock))
        if done != planned:
            raise RunError(
                f"{folder} holds no finished run: its result.json has other cells than its lock.json; the command "
                "that began it goes on where it stopped"
            )
        return _Reading(folder, result, lock).run()
    except (LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder} cannot be read as a run of this version of avrobust ({type(error).__name__}: {error}): run it "
            "again, which computes nothing anew that is still valid"
        ) from error


class _Reading:
    """The run so far."""

    def __init__(self, folder: Path, result: Json, lock: Json) -> None:
        self.folder, self.result, self.lock = folder, result, lock
        self.outcomes: dict[CellKey, ClipOutcomes] = {}
        self.evaluations: dict[CellKey, dict[Condition, Json]] = {}
        self.labels: dict[str, frozenset[str]] = {}
        self.groups: dict[str, str] = {}
        self.checksums: dict[str, dict[str, int]] = {}
        self.components: dict[str, int] = {}

    def run(self) -> FinishedRun:
        for cell, locked in zip(self.result["cells"], self.lock["cells"], strict=True):
            if "error" not in cell:
                self._cell(cell, locked["evaluations"])
        return FinishedRun(
            self.folder,
            self.result,
            _spec_of(self.folder),
            self.lock,
            self.outcomes,
            self.evaluations,
            self.labels,
            self.groups,
            self.checksums,
            self.components,
        )

    def _cell(self, cell: Json, folders: Mapping[str, str]) -> None:
        key, folder = (cell["model"], cell["training"], cell["seed"]), self.folder / "cells" / cell["id"]
        self.outcomes[key] = self._outcomes(cell, folder)
        self.components |= _components(read_json(folder / "cell.json")["identity"])
        self.evaluations[key] = {}
        for condition in self.outcomes[key].right:
            label = "clean" if condition == (None, None) else "/".join(map(str, condition))
            path = folder / "evaluations" / folders[label] / RECORD
            if not path.exists():
                continue
            clean = condition == (None, None)
            identity = read_record(path, check=[PREDICTIONS] if clean else ())["identity"]
            self.evaluations[key][condition] = identity
            self.components |= _components(identity)
            if clean:
                table = pq.read_table(path.parent / PREDICTIONS)
                ids = table["id"].to_pylist()
                for name, values in columns_named(table, CHECKSUM).items():
                    self.checksums.setdefault(name, {}).update(zip(ids, values.tolist(), strict=True))

    def _outcomes(self, cell: Json, folder: Path) -> ClipOutcomes:
        """What the cell's table of clips holds, and for which conditions."""
        path = folder / SAMPLES
        if not path.is_file() or file_hash(path) != cell["files"][SAMPLES]:
            raise RunError(
                f"{path} is missing, damaged, or not of this result.json: run the spec again to make it anew"
            )
        table = pq.read_table(path)
        ids, attacks, threats = (table[name].to_pylist() for name in ("id", "attack", "threat"))
        rows: dict[Condition, list[int]] = {}
        for row, condition in enumerate(zip(attacks, threats, strict=True)):
            rows.setdefault(condition, []).append(row)
        correct = np.logical_and(*(table[name].to_numpy() for name in ("correct", "clean_correct")))
        labels, groups = table["labels"].to_pylist(), table["group"].to_pylist()
        for row in rows[None, None]:
            self.labels[ids[row]] = frozenset(labels[row])
            if groups[row] is not None:
                self.groups[ids[row]] = groups[row]
        attacked = {
            (attack, threat): entry
            for attack, threats in cell["robust_accuracy"].items()
            for threat, entry in threats.items()
        }
        return ClipOutcomes(
            ids=tuple(ids[row] for row in rows[None, None]),
            right={condition: correct[own] for condition, own in rows.items()},
            untouched=frozenset(condition for condition, entry in attacked.items() if not entry["attacked"]),
            unbounded=frozenset(condition for condition, entry in attacked.items() if not entry["bounded"]),
            failed=failed_conditions(cell["failures"]),
        )


def _spec_of(folder: Path) -> Json:
    refuse_changed(folder)
    reading = read_tree(folder / "resolved.yaml")
    if reading.problems or reading.root is None:
        raise SpecError(in_order(reading.problems, reading.sources))
    found: dict[str, Any] = plain(reading.root)
    return found


def _components(identity: Any) -> dict[str, int]:
    """The components in what identifies a result, with their versions."""
    return {each["component"]: each["version"] for each in _mappings(identity) if {"component", "version"} <= set(each)}


def _mappings(data: Any) -> Iterator[Json]:
    if isinstance(data, Mapping):
        yield data
        data = list(data.values())
    if isinstance(data, list):
        for item in data:
            yield from _mappings(item)
