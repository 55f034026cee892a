"""The indices of a finished run, with intervals over its clips: read from what the run has left on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from avrobust_core import AvrobustError, Estimate, bootstrap
from avrobust_corruptions.indices import (
    absolute_robustness,
    mean_corruption_error,
    relative_mean_corruption_error,
    relative_robustness,
)

Point = tuple[str, int]
"""Kind and severity."""


@dataclass(frozen=True, slots=True)
class CellClips:
    """What a cell got right.

    Attributes:
        cell: model/regime, and the seed where there are several.
        clean: (N,) bool, by clip: whether it is classified right.
        corrupted: by kind and severity, (N,) bool in the same order of clips.
        groups: of each clip, what it was drawn with; None where each stands for itself.
    """

    cell: str
    clean: NDArray[np.bool_]
    corrupted: Mapping[Point, NDArray[np.bool_]]
    groups: tuple[str, ...] | None

    def errors(self) -> dict[str, list[float]]:
        """By kind, the share of clips classified wrong at each severity, in ascending order."""
        found: dict[str, list[float]] = {}
        for (kind, _), right in sorted(self.corrupted.items()):
            found.setdefault(kind, []).append(1 - float(right.mean()))
        return found

    def absolute(self) -> Estimate:
        """The absolute robustness over all kinds and severities; a bootstrap over clips or groups."""
        return self._estimate(absolute_robustness)

    def relative(self) -> Estimate:
        """The relative robustness, likewise."""
        return self._estimate(relative_robustness)

    def _estimate(self, index: Any) -> Estimate:
        mean = np.mean(list(self.corrupted.values()), axis=0)

        def of_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            total = weights.sum(axis=1)
            found: NDArray[np.float64] = index(weights @ self.clean / total, weights @ mean / total)
            return found

        return bootstrap(of_weights, len(self.clean), groups=self.groups)


def read_run(folder: Path, threat: str | None = None) -> list[CellClips]:
    """What each finished cell of a run got right, clean and under the attacks `corruption`.

    Args:
        folder: of the run.
        threat: by name; None if the corruptions were all made under one.

    Raises:
        AvrobustError: if the folder holds no run, no corruption, or several threats of which none is named.
    """
    try:
        spec = yaml.safe_load((folder / "resolved.yaml").read_text(encoding="utf-8"))
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise AvrobustError(
            f"{folder} holds no finished run ({error.strerror}): give a folder of `avrobust run`"
        ) from error
    points = {
        name: (str(entry["with"]["kind"]), int(entry["with"]["severity"]))
        for name, entry in spec["attacks"].items()
        if entry["use"].rpartition(":")[2] == "corruption"
    }
    if not points:
        raise AvrobustError(f"the run in {folder} has no attack `corruption`: see corruption_study.yaml")
    if len(set(points.values())) < len(points):
        raise AvrobustError(f"the run in {folder} has one kind and severity twice: each counts once in an index")
    several = len({cell["seed"] for cell in result["cells"]}) > 1
    found = []
    for cell in result["cells"]:
        name = f"{cell['model']}/{cell['training']}" + (f"/seed-{cell['seed']}" if several else "")
        path = folder / "cells" / cell["id"] / "samples.parquet"
        if not path.exists():
            raise AvrobustError(f"cell {name} of the run in {folder} is not finished: run it again first")
        found.append(_cell(path, name, points, threat))
    return found


def summary(cells: list[CellClips], reference: str | None = None) -> list[dict[str, Any]]:
    """The indices of each cell, as JSON data.

    Args:
        cells: of a run.
        reference: the cell by whose errors corruption errors are measured; None to leave these out.

    Raises:
        AvrobustError: if there is no such cell.
    """
    named = {cell.cell: cell for cell in cells}
    if reference is not None and reference not in named:
        raise AvrobustError(f"no cell is named {reference!r}; there are: {', '.join(named)}")
    found = []
    for cell in cells:
        entry: dict[str, Any] = {
            "cell": cell.cell,
            "clean_accuracy": float(cell.clean.mean()),
            "kinds": len({kind for kind, _ in cell.corrupted}),
            "absolute": cell.absolute().to_json(),
            "relative": cell.relative().to_json(),
        }
        if reference is not None:
            other = named[reference]
            clean, other_clean = 1 - float(cell.clean.mean()), 1 - float(other.clean.mean())
            try:
                entry["mce"] = mean_corruption_error(cell.errors(), other.errors())
                entry["relative_mce"] = relative_mean_corruption_error(
                    cell.errors(), clean, other.errors(), other_clean
                )
            except ValueError as error:
                raise AvrobustError(f"{reference} will not do as a reference for {cell.cell}: {error}") from error
        found.append(entry)
    return found


def _cell(path: Path, name: str, points: Mapping[str, Point], threat: str | None) -> CellClips:
    rows = pq.read_table(path, columns=["id", "attack", "threat", "group", "correct"]).to_pylist()
    clean = {row["id"]: row for row in rows if row["attack"] is None}
    threats = {row["threat"] for row in rows if row["attack"] in points}
    chosen = threat if threat is not None else next(iter(threats)) if len(threats) == 1 else None
    if chosen not in threats:
        raise AvrobustError(f"name the threat whose corruptions count: one of {', '.join(sorted(threats))}")
    right: dict[Point, dict[str, bool]] = {}
    for row in rows:
        if row["attack"] in points and row["threat"] == chosen:
            right.setdefault(points[row["attack"]], {})[row["id"]] = row["correct"]
    groups = [row["group"] for row in clean.values()]
    return CellClips(
        cell=name,
        clean=np.array([row["correct"] for row in clean.values()]),
        corrupted={point: np.array([found[clip] for clip in clean]) for point, found in right.items()},
        groups=None if None in groups else tuple(groups),
    )
