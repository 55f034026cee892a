"""A study of a preset: the models of a spec or of a finished run, attacked as the preset says."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrobust_core.bench.presets import Preset
from avrobust_core.errors import RunError
from avrobust_core.files import made_runs_own, read_json, write_text
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.problems import SpecError, in_order
from avrobust_core.spec.tree import read_tree
from avrobust_core.spec.yaml_writer import write_yaml
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import plan, why_stale

REPLACED = ("threats", "attacks", "metrics", "correlate", "compare", "include", "exclude", "audit", "track")
"""Sections of the models' spec of which nothing is left."""

_NOT_THE_FIT = ("evaluations", "audits", "embeddings", "result.json", "samples.parquet", "per_class.csv", ".avrobust-*")


@dataclass(frozen=True, slots=True)
class Models:
    """Where the models come from.

    Attributes:
        spec: the file of a study, or a run's resolved.yaml.
        run: the run's folder, whose fits are used; None if a spec was given, whose models are fitted.
    """

    spec: Path
    run: Path | None

    @classmethod
    def at(cls, path: Path) -> "Models":
        """Of a spec's file, or of a run's folder.

        Raises:
            RunError: if it is neither.
        """
        if path.is_dir():
            if not (path / "resolved.yaml").is_file():
                raise RunError(f"{path} is no run: it holds no resolved.yaml; give a run's folder, or a spec's file")
            return cls(path / "resolved.yaml", path)
        if not path.is_file():
            raise RunError(f"there is no {path}: give a run's folder, or a spec's file")
        return cls(path, None)


def compose(preset: Preset, models: Models, cells: Sequence[str], file: Path, *, clips: int | None = None) -> None:
    """Write the spec of the study.

    Args:
        preset: what is asked.
        models: of whom.
        cells: as model/training, or a model for all its regimes; none for all.
        file: to be written. It extends the models' spec.
        clips: evaluate no more than so many; None for all of the split.

    Raises:
        SpecError: if the models' spec cannot be read.
    """
    reading = read_tree(models.spec)
    if reading.root is None:
        raise SpecError(in_order(reading.problems, reading.sources))
    base: Mapping[str, Any] = plain(reading.root)
    dropped = [name for name in REPLACED if name in base]
    dropped += ["evaluation.clips"] if "clips" in (base.get("evaluation") or {}) else []
    dropped += ["engine.cells"] if models.run is not None and "cells" in (base.get("engine") or {}) else []
    spec: dict[str, Any] = {"extends": str(models.spec.resolve()), "drop": dropped}
    spec |= {"name": f"{preset.full_name}-{base.get('name', 'models')}"[:80], **preset.spec}
    spec |= _trimmed(base, cells, models)
    if clips is not None:
        spec["evaluation"] = {"clips": clips}
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f"# {preset.full_name}: {preset.title}\n"
    write_text(file, head + write_yaml({key: value for key, value in spec.items() if value != []}))


def _trimmed(base: Mapping[str, Any], cells: Sequence[str], models: Models) -> dict[str, Any]:
    """Which cells: those asked for, or else those of the run, or those that the spec has."""
    if not cells and models.run is not None:
        done = read_json(models.run / "result.json")["cells"] if (models.run / "result.json").is_file() else []
        cells = list(dict.fromkeys(f"{cell['model']}/{cell['training']}" for cell in done))
    if cells:
        pairs = [cell.partition("/") for cell in cells]
        return {"include": [{"model": model, "training": training or "*"} for model, _, training in pairs]}

    def of_cells(name: str) -> list[Any]:
        patterns = base.get(name) or []
        return [pattern for pattern in patterns if not {"attack", "threat"} & set(pattern)]

    return {name: of_cells(name) for name in ("include", "exclude")}


def refuse_unfitted(loaded: LoadedSpec, registry: Registry, run: Path, out: Path) -> None:
    """Refuse to fit in silence what a run was expected to have fitted.

    Args:
        loaded: the study, whose fits `take_fits` has copied.
        registry: of what is installed.
        run: the run's folder.
        out: of the study's run.

    Raises:
        RunError: if a fit of the run is missing, or is of another model, data set or version; says of which cell.
    """
    builder = Builder(loaded.spec, registry)
    lacking = [cell for cell in plan(builder, builder.dataset(), out) if not cell.fitted]
    if lacking:
        why = "; ".join(f"{cell.model}/{cell.training}: {why_stale(cell, run)}" for cell in lacking)
        raise RunError(
            f"{run} has no fit that could be attacked: {why}. `avrobust run {run / 'resolved.yaml'} --out {run}` fits "
            "it anew"
        )


def take_fits(run: Path, out: Path) -> None:
    """Copy what a run has fitted, without what it has measured, to where another run will look for it.

    Raises:
        RunError: if the run has fitted nothing, or the other folder holds something else.
    """
    fitted = [folder.parent for folder in sorted(run.glob("cells/*/fit.json"))]
    if not fitted:
        raise RunError(f"{run} has no fitted model: let `avrobust run` end first")
    made_runs_own(out)
    for folder in fitted:
        target = out / "cells" / folder.name
        if not (target / "fit.json").exists():
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*_NOT_THE_FIT), dirs_exist_ok=True)
