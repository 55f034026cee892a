"""A run's folder as it is read for the report: finished, stopped half way, or in part damaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrobust_core.errors import RunError
from avrobust_core.files import HOLDER, file_hash, read_json
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.yaml_reader import read_yaml

CLOCK = 2.0
"""Seconds by which the times of files that were written one after the other may differ, in copies of them."""

FORMAT = 1
"""The version of result.json that is read."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's files.

    Attributes:
        root: its folder.
        result: what result.json holds; of a run that has none, what its cells' files hold.
        lock: what lock.json holds.
        spec: the text of spec.yaml.
        resolved: the text of resolved.yaml.
        settings: what that text means.
        missing: sentences about what is not there, or cannot be read.
    """

    root: Path
    result: Mapping[str, Any]
    lock: Mapping[str, Any]
    spec: str
    resolved: str
    settings: Mapping[str, Any]
    missing: list[str]

    @property
    def cells(self) -> Sequence[Mapping[str, Any]]:
        """The cells that did not fail as a whole."""
        return [cell for cell in self.result["cells"] if "error" not in cell]

    @property
    def several(self) -> bool:
        """True if there are several seeds."""
        return len({cell["seed"] for cell in self.result["cells"]}) > 1

    @property
    def together(self) -> Sequence[Mapping[str, Any]]:
        """The same with all seeds of a model and regime together; seed by seed where that has not been made."""
        pooled = self.result.get("pooled")
        return [cell for cell in pooled if "error" not in cell] if pooled else [self.named(cell) for cell in self.cells]

    def named(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """A cell, or what is told of one, whose regime names the seed, too, where there are several."""
        return {**cell, "training": f"{cell['training']}, seed {cell['seed']}"} if self.several else cell

    def samples(self, cell: Mapping[str, Any]) -> Path | None:
        """A cell's table of clips, if it is there and as it was written; else a sentence goes to `missing`."""
        name = "samples.parquet"
        path = self.root / "cells" / str(cell.get("id", "")) / name
        try:
            found = file_hash(path)
        except OSError as error:
            self.missing.append(f"{_inside(self.root, path)} cannot be read ({error.strerror}): clips are left out")
            return None
        whole = found == cell.get("files", {}).get(name, found)  # runs of versions that kept no hashes are taken as is
        if not whole:
            self.missing.append(
                f"{_inside(self.root, path)} is damaged (what it holds is not what was written): its clips are left "
                "out; run the study again to have it written anew"
            )
        return path if whole else None


def read_run(root: Path) -> Run:
    """Read a run's folder.

    Raises:
        RunError: if it is no run's folder, or its result.json is damaged or of another version.
    """
    if not root.is_dir():
        raise RunError(f"{root} is no folder: name the folder of a run, such as runs/NAME")
    if not any((root / name).exists() for name in (HOLDER, "result.json", "lock.json", "cells")):
        raise RunError(f"{root} is no run of avrobust: it has neither result.json nor cells")
    missing: list[str] = []
    spec, resolved = (_text(root, name, missing) for name in ("spec.yaml", "resolved.yaml"))
    lock = _lock(root, missing)
    if resolved and file_hash(root / "resolved.yaml") != lock.get("resolved", file_hash(root / "resolved.yaml")):
        missing.append("resolved.yaml is damaged, or was changed: it is not what the run wrote.")
        resolved = ""
    settings = _settings(resolved, missing)
    path = root / "result.json"
    result = _checked(path, read_json(path)) if path.exists() else _unfinished(root, settings, missing)
    if path.exists() and lock and (root / "lock.json").stat().st_mtime > path.stat().st_mtime + CLOCK:
        missing.append(
            "The run was taken up again after result.json was written, and has not ended: this is what it had found "
            "before."
        )
    return Run(root, result, lock, spec, resolved, settings, missing)


def _checked(path: Path, result: Any) -> Mapping[str, Any]:
    if not isinstance(result, dict) or not isinstance(result.get("cells"), list):
        raise RunError(f"{path}: is no result of a run; delete it, and run the study again to have it made anew")
    if result.get("format") != FORMAT:
        raise RunError(
            f"{path}: its format is {result.get('format')!r}, and this avrobust reads {FORMAT}; use the version that "
            "wrote it, or run the study again"
        )
    return result


def _unfinished(root: Path, settings: Mapping[str, Any], missing: list[str]) -> dict[str, Any]:
    """What the cells' own files hold, of a run that has not come to its end."""
    cells: list[dict[str, Any]] = []
    begun = sorted(path for path in (root / "cells").glob("*") if path.is_dir())
    for folder in begun:
        for name in ("result.json", "error.json"):
            if not (folder / name).exists():
                continue
            try:
                found = read_json(folder / name)
            except RunError as error:
                missing.append(f"{error}")
                continue
            if isinstance(found, dict) and {"model", "training", "seed"} <= found.keys():
                cells.append(found)
                break
            missing.append(f"{_inside(root, folder / name)} is no result of a cell")
    done = sum("error" not in cell for cell in cells)
    missing.insert(
        0,
        f"The run is not finished: it has no result.json, and {done} of the {len(begun)} cells that were begun have a "
        "result. What is over several cells (means over seeds, comparisons, correlations) is not there yet.",
    )
    cells.sort(key=lambda cell: (str(cell["model"]), str(cell["training"]), str(cell["seed"])))
    evaluation = settings.get("evaluation")
    confidence = evaluation.get("confidence") if isinstance(evaluation, dict) else None
    return {
        "name": str(settings.get("name", root.name)),
        "seed": settings.get("seed", 0),
        "confidence": confidence if isinstance(confidence, float) else 0.95,
        "cells": cells,
    }


def _text(root: Path, name: str, missing: list[str]) -> str:
    try:
        return (root / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        missing.append(f"{name} cannot be read ({getattr(error, 'strerror', None) or error}).")
        return ""


def _settings(resolved: str, missing: list[str]) -> Mapping[str, Any]:
    if not resolved:
        return {}
    reading = read_yaml(resolved, "resolved.yaml")
    data = None if reading.root is None or reading.problems else plain(reading.root)
    if not isinstance(data, dict):
        missing.append("resolved.yaml is damaged: what was studied is told from the cells alone.")
        return {}
    return data


def _lock(root: Path, missing: list[str]) -> Mapping[str, Any]:
    path = root / "lock.json"
    try:
        found = read_json(path) if path.exists() else None
    except RunError as error:
        missing.append(f"{error}")
        return {}
    if not isinstance(found, dict):
        missing.append("lock.json is missing: it is not known with which versions the run was made.")
        return {}
    return found


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
