"""What is exported of a run: which cells, attacks and clips, with what the run has found of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from avrobust_core.attacks.running import AttackRun
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import Selection, Skipped
from avrobust_core.data.readings import FirstReading, checksums
from avrobust_core.errors import RunError
from avrobust_core.evaluation.predictions import PREDICTIONS, Predictions, from_parquet
from avrobust_core.files import read_json, read_record
from avrobust_core.naming import first_of
from avrobust_core.report.export_jobs import Job, JobAttack, first_right, how_chosen, refuse_features
from avrobust_core.study.fitting import fit_record
from avrobust_core.study.plan import PlannedCell, PlannedEvaluation, plan, why_stale
from avrobust_core.study.predicting import RECORD, Predicting
from avrobust_core.study.process import Process
from avrobust_core.training.fit import WEIGHTS


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for.

    Attributes:
        cells: models, "model/regime", or ids; None for all.
        attacks: attacks, or "attack/threat"; None for all.
        clips: of each cell so many that it classifies correctly: the first by a hash of their ids.
        ids: these clips instead, whether they are classified correctly or not.
    """

    cells: Sequence[str] | None = None
    attacks: Sequence[str] | None = None
    clips: int = 8
    ids: Sequence[str] | None = None

    def __str__(self) -> str:
        return how_chosen(self.clips, self.ids)


def jobs_of(process: Process, asked: Asked, root: Path) -> list[Job]:
    """All that is asked for of a run.

    Args:
        process: with the run's spec.
        asked: what is asked for.
        root: the run's folder.

    Raises:
        RunError: if there is no such cell, attack or clip, or the run has not come so far.
    """
    predicting = Predicting(process)
    cells = plan(process.builder, process.dataset, root)
    chosen = cells if asked.cells is None else _named(cells, asked.cells)
    labels = {label for cell in chosen for each in cell.evaluations[1:] for label in (str(each.attack), each.label)}
    for name in asked.attacks or ():
        if name not in labels:
            raise RunError(
                f"there is no attack {name!r}; there are: {first_of(sorted(labels))}{did_you_mean(name, labels)}"
            )
    jobs = []
    for cell in chosen:
        clean = stored(cell, cell.evaluations[0]) if cell.fitted else None
        if clean is None:
            why = (
                "its clean clips were not evaluated"
                if cell.fitted
                else f"it is not fitted here: {why_stale(cell, root)}"
            )
            raise RunError(f"{cell.label} of {root} cannot be exported ({why}); carry the run out first")
        runs, rates = predicting.runs(cell), _rates(cell)
        attacks = []
        for each in cell.evaluations:
            names = (str(each.attack), str(each.threat))
            asked_for = asked.attacks is None or not {names[0], each.label}.isdisjoint(asked.attacks)
            if each.direction is None and names in runs and asked_for:
                refuse_features(each.label, runs[names].threat)
                kept = stored(cell, each)
                success = None if kept is None else dict(zip(kept.ids, kept.success.tolist(), strict=True))
                rate = rates.get(names[0], {}).get(names[1])
                attacks.append(JobAttack(*names, _at_full_radius(runs[names]), success, rate))
        victim, selection = process.attacked(cell), _selection(process, cell, clean, asked)
        right = dict(zip(clean.ids, clean.correct.tolist(), strict=True))
        first = FirstReading(clean.ids, clean.checksums)
        jobs.append(
            Job(
                label=cell.label,
                names=cell.names,
                victim=victim,
                ids=selection.ids,
                correct=[right[clip_id] for clip_id in selection.ids],
                attacks=attacks,
                batches=partial(_batches, process, selection, first),
                ready=partial(predicting.ready, victim, first=first),
            )
        )
    if not any(job.attacks for job in jobs):
        raise RunError("no attack that is asked for touches what these models read: name others with --attacks")
    return jobs


def _batches(process: Process, selection: Selection, first: FirstReading, label: str) -> Iterator[Batch]:
    """Clips as the run read them, on the CPU.

    Raises:
        DataError: if one is another by now.
        RunError: if one can no longer be read.
    """
    size = process.spec.engine.stated_batch_size
    read = process.read(selection.split, selection.chunks(size), Skipped(process.dataset))
    for start, batch in zip(range(0, len(selection), size), read, strict=True):
        ids = selection.ids[start : start + size]
        first.compare(ids, () if batch is None else batch.ids, {} if batch is None else checksums(batch), label)
        assert batch is not None  # else the comparison would have failed
        yield batch


def _rates(cell: PlannedCell) -> Mapping[str, Mapping[str, Any]]:
    """The success rates that the run has found over all its clips, by attack and threat; none where it is not done."""
    path = cell.folder / "result.json"
    if not path.exists():
        return {}
    found = read_json(path)
    rates = found.get("attack_success_rate") if isinstance(found, dict) else None
    if not isinstance(rates, dict):
        raise RunError(f"{path}: is no result of a cell; run the study again to have it written anew")
    return rates


def stored(cell: PlannedCell, evaluation: PlannedEvaluation) -> Predictions | None:
    """The predictions that the run has kept, of the cell's present weights; None if there are none.

    Raises:
        RunError: if a file of them, or the weights, are damaged.
    """
    if not evaluation.done:
        return None
    fit = fit_record(cell)
    record = read_record(evaluation.folder / RECORD)
    if record["weights"] != fit["files"][WEIGHTS]:
        return None
    return from_parquet(evaluation.folder / PREDICTIONS, record["seconds"])


def _named(cells: Sequence[PlannedCell], names: Sequence[str]) -> list[PlannedCell]:
    called = {cell.id: {cell.id, cell.model, f"{cell.model}/{cell.training}", cell.label} for cell in cells}
    known = {name for each in called.values() for name in each}
    for name in names:
        if name not in known:
            labels = first_of(cell.label for cell in cells)
            raise RunError(f"there is no cell {name!r}; there are: {labels}{did_you_mean(name, known)}")
    return [cell for cell in cells if not called[cell.id].isdisjoint(names)]


def _selection(process: Process, cell: PlannedCell, clean: Predictions, asked: Asked) -> Selection:
    if asked.ids is not None:
        unknown = [name for name in asked.ids if name not in clean.ids]
        if unknown:
            near = did_you_mean(unknown[0], clean.ids)
            raise RunError(f"the run has not evaluated {cell.label} on clip {first_of(unknown)}{near}")
        chosen = set(asked.ids)
    else:
        chosen = first_right(clean, asked.clips)
        if not chosen:
            raise RunError(f"{cell.label} classifies no clip correctly: name clips with --ids, or other --cells")
    return process.selection.where(name in chosen for name in process.selection.ids)


def _at_full_radius(run: AttackRun) -> AttackRun:
    """The run without the budgets beyond factor 1, which change nothing at factor 1; a minimal attack needs them."""
    return run if run.attack.minimal else replace(run, factors=tuple(each for each in run.factors if each <= 1))
