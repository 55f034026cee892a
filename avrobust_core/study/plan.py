"""The work of a run: cells and evaluations with their ids, which of them are done, and why the others are not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrobust_core.data.dataset import Dataset
from avrobust_core.errors import RunError
from avrobust_core.evaluation.failures import Failure
from avrobust_core.files import digest, read_json
from avrobust_core.naming import first_of
from avrobust_core.spec.cells import AttackPlan, Cell, attacked_modalities, expand, modality_of
from avrobust_core.spec.model import Spec
from avrobust_core.study.building import Builder
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.threats.pareto import directions, tilted

CLEAN = "clean"
"""The label of clean predictions."""


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """Predictions to be made: clean, or under one attack and threat.

    Attributes:
        attack: the attack's name in the spec; None for clean predictions.
        threat: the threat's name in the spec; None for clean predictions.
        applied: the part of the threat that touches the model's modalities; None if it touches none.
        direction: for a point of the Pareto front, the share of each modality's radius that it allows.
        identity: all that decides the predictions, beside the cell's own identity.
        folder: of its files. Names of the spec that mean the same share one.
    """

    attack: str | None
    threat: str | None
    applied: ThreatModel | None
    identity: Mapping[str, Any]
    folder: Path
    direction: Mapping[str, float] | None = None

    @property
    def done(self) -> bool:
        """True once its predictions are there."""
        return (self.folder / "record.json").exists()

    @property
    def label(self) -> str:
        """For messages: "clean", "pgd/both", "fmn/both at audio 0.71, video 0.71"."""
        if self.attack is None:
            return CLEAN
        shares = ", ".join(f"{name} {share:.3g}" for name, share in (self.direction or {}).items())
        return f"{self.attack}/{self.threat}{f' at {shares}' if shares else ''}"

    def failed(self, failure: Failure, *, metric: str | None = None, bounded: bool = False) -> Failure:
        """A failure of this evaluation, or of a metric on it, as a cell's result has it.

        Args:
            failure: its message and traceback.
            metric: that failed.
            bounded: True if the worst case lacks the attack that failed.
        """
        where = {"metric": metric, "attack": self.attack, "threat": self.threat, "direction": self.direction}
        return {**where, "evaluation": self.label, "bounded": bounded, **failure}


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A model under a training regime, from one seed.

    Attributes:
        model, training: names in the spec.
        seed: of all that is drawn at random.
        one_of_several: True if the study has other seeds, too.
        modalities: those that the model reads, sorted.
        id: a hash of `identity`.
        identity: all that decides the weights.
        folder: of its files.
        evaluations: the clean one first.
    """

    model: str
    training: str
    seed: int
    one_of_several: bool
    modalities: tuple[str, ...]
    id: str
    identity: Mapping[str, Any]
    folder: Path
    evaluations: tuple[PlannedEvaluation, ...]

    @property
    def fitted(self) -> bool:
        """True once its weights are there."""
        return (self.folder / "fit.json").exists()

    @property
    def pending(self) -> tuple[PlannedEvaluation, ...]:
        """The evaluations still to be done."""
        return tuple(evaluation for evaluation in self.evaluations if not evaluation.done)

    @property
    def done(self) -> bool:
        """True once nothing is left to compute."""
        return self.fitted and not self.pending

    @property
    def names(self) -> dict[str, Any]:
        """For results: its id, and what the spec calls it."""
        return {"id": self.id, "model": self.model, "training": self.training, "seed": self.seed}

    @property
    def label(self) -> str:
        """For messages: "concat/standard", or with several seeds "concat/standard, seed 1"."""
        return f"{self.model}/{self.training}" + (f", seed {self.seed}" if self.one_of_several else "")


def plan(builder: Builder, dataset: Dataset, root: Path) -> tuple[PlannedCell, ...]:
    """The cells of a spec in a run's folder, in the spec's order."""
    return tuple(_cell(builder, dataset, root, cell) for cell in expand(builder.spec))


def _cell(builder: Builder, dataset: Dataset, root: Path, cell: Cell) -> PlannedCell:
    spec = builder.spec
    identity = builder.fit_identity(cell.model, cell.training, dataset) | {"seed": cell.seed}
    cell_id = digest(identity)
    folder = root / "cells" / cell_id
    modalities = tuple(sorted(modality_of(spec, name) for name in spec.models[cell.model].encoders))
    evaluations = [_evaluation(builder, folder, cell, None)]
    for run in cell.attacks:
        shares = (None, *_front(spec, cell, run))
        evaluations += [_evaluation(builder, folder, cell, run, direction) for direction in shares]
    return PlannedCell(
        model=cell.model,
        training=cell.training,
        seed=cell.seed,
        one_of_several=len(spec.seeds) > 1,
        modalities=modalities,
        id=cell_id,
        identity=identity,
        folder=folder,
        evaluations=tuple(evaluations),
    )


def _evaluation(
    builder: Builder, folder: Path, cell: Cell, run: AttackPlan | None, direction: Mapping[str, float] | None = None
) -> PlannedEvaluation:
    spec = builder.spec
    section = spec.evaluation
    identity: dict[str, Any] = {"split": section.split, "clips": section.clips, "samples": section.samples}
    applied = attacked_modalities(spec, cell, run.threat) if run is not None else None
    if applied is not None and direction is not None:
        applied = tilted(applied, direction)
    if run is not None and applied is not None:
        entry = spec.attacks[run.attack]
        identity["attack"] = builder.component(entry).identity()
        identity["threat"] = applied.model_dump(mode="json")
        identity["goal"] = [entry.goal, entry.target]
        identity["factors"] = list(entry.factors)
        identity["precision"] = spec.engine.attack_precision
    # A threat that touches nothing the model reads leaves the clean predictions.
    attack, threat = (run.attack, run.threat) if run is not None else (None, None)
    return PlannedEvaluation(attack, threat, applied, identity, folder / "evaluations" / digest(identity), direction)


def _front(spec: Spec, cell: Cell, run: AttackPlan) -> Sequence[Mapping[str, float]]:
    """The directions of a Pareto front: none where the threat does not touch two modalities of the model."""
    points, applied = spec.attacks[run.attack].front, attacked_modalities(spec, cell, run.threat)
    if points is None or applied is None or len(applied.modalities) != 2:
        return ()
    return directions(applied.modalities, points)


def why_stale(cell: PlannedCell, root: Path) -> str:
    """The reason why a cell is not fitted: its differences from the nearest cell of the same names in the folder."""
    if (cell.folder / "checkpoint.pt").exists():
        return "interrupted in the middle of its fit"
    changes: list[list[str]] = []
    for path in sorted(root.glob("cells/*/cell.json")):
        try:
            header = read_json(path)
            cell_id, names, identity = header["id"], (header["model"], header["training"]), header["identity"]
            beside = cell.one_of_several and identity["seed"] != cell.seed  # and so no earlier state of this one
        except (RunError, LookupError, TypeError):
            continue  # another cell's damage must not keep this one from being fitted
        if names == (cell.model, cell.training) and cell_id != cell.id and not beside:
            changes.append(list(differences(identity, cell.identity)))
    nearest = min(changes, key=len, default=None)
    return "never run" if nearest is None else "changed: " + first_of(nearest, "; ")


def differences(old: object, new: object) -> Iterator[str]:
    """The differences between JSON data, as "training.epochs 8 -> 9"."""
    for path, before, after in differing(old, new):
        yield f"{path} {before} -> {after}"


def differing(old: object, new: object, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values in which JSON data differ: dotted path, old, new; None where one side has nothing there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path, old, new
