"""Fits of a study's cells: made once, and read again from their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from avrobust_core.attacks.running import AttackRun, refuse_norms
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.errors import ComponentError, RunError
from avrobust_core.evaluation.predictions import evaluate_batch
from avrobust_core.evaluation.shards import MicroBatches
from avrobust_core.files import read_record
from avrobust_core.models.model import AVModel, compiled
from avrobust_core.spec.model import Spec
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import PlannedCell, why_stale
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import made_with
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.training.fit import WEIGHTS, Fit
from avrobust_core.training.validation import AttackClips


def fitted(process: Process, cell: PlannedCell, builder: Builder, root: Path, label: str) -> dict[str, Any]:
    """Fit a cell, unless an earlier run has.

    Args:
        process: this one.
        cell: to be fitted.
        builder: of models with initial weights from the cell's seed.
        root: the run's folder.
        label: for messages.

    Returns:
        The record of the fit.

    Raises:
        RunError: if the record of an earlier fit, or its weights, are damaged.
    """
    if cell.fitted:
        record = fit_record(cell)
        process.tracking.history(cell.folder)
    else:
        process.begin()
        process.fresh = True
        process.monitor.say(f"{label}: fitting ({why_stale(cell, root)})")
        regime, engine = process.spec.training[cell.training], process.spec.engine
        used = [*builder.parts_of_model(cell.model), *builder.parts_of_regime(cell.training)]
        model = builder.model(cell.model, process.dataset)
        with process.monitor.task(f"{label}: fit"):
            record = Fit(
                process.fabric,
                compiled(model) if engine.compile else model,
                process.loader,
                regime,
                builder.augmentations(regime),
                seed=cell.seed,
                folder=cell.folder,
                report=process.monitor.update,
                batch_size=regime.batch_size if engine.batch_size == "auto" else engine.batch_size,
                batch_timeout=engine.batch_timeout,
                attack=_attack_by(process, cell, model),
                made_with=lambda: made_with(process.device.type, used),
                each_epoch=process.tracking.epoch,
            ).run()
    process.skipped.merge(record)
    return record


def fit_record(cell: PlannedCell) -> dict[str, Any]:
    """The record of a cell that is fitted, once it and the weights were found to be as they were written.

    Raises:
        RunError: if they are not; says what to do.
    """
    try:
        return read_record(cell.folder / "fit.json", check=[WEIGHTS])
    except RunError as error:
        raise RunError(f"{error}. Put back a copy, or delete {cell.folder} to fit this model again") from error


def refuse_selection(process: Process, cells: Sequence[PlannedCell]) -> None:
    """Refuse attacks by which no epoch can be selected, before anything is fitted.

    Raises:
        ComponentError: names attack and training regime.
    """
    for cell in cells:
        found = None if cell.fitted else selected_against(process.spec, cell)
        if found is None:
            continue
        (attack, threat), applied = found
        refuse_norms(attack, process.attacks[attack], threat, applied)
        if process.attacks[attack].preparation is not None:
            raise ComponentError(
                f"training {cell.training!r} cannot be selected by attack {attack!r}: it must see a whole set of clips "
                "first, and the model is another after each epoch; name one such as pgd in `against`"
            )


def selected_against(spec: Spec, cell: PlannedCell) -> tuple[tuple[str, str], ThreatModel] | None:
    """The names of attack and threat by which epochs are selected, and the part of the threat that touches the model.

    None where epochs are selected otherwise, or it touches nothing that the model reads.
    """
    against = spec.training[cell.training].against
    if against is None:
        return None
    attack, threat = against.split("/")
    applied = spec.threats[threat].restricted(cell.modalities)
    return None if applied is None else ((attack, threat), applied)


def _attack_by(process: Process, cell: PlannedCell, model: AVModel) -> AttackClips | None:
    """The attack by which epochs are selected, on the model that is trained, in float32."""
    found = selected_against(process.spec, cell)
    if found is None:
        return None
    (name, _), applied = found
    run = AttackRun(name, process.attacks[name], applied, process.goal(name))
    victim = Victim(
        model,
        media=process.dataset.media,
        task=process.dataset.task,
        seed=cell.seed,
        samples=process.spec.evaluation.samples,
    )
    work = MicroBatches(lambda batch: evaluate_batch(victim, batch, run))

    def attack(batch: Batch) -> Mapping[str, Tensor]:
        with victim.frozen():
            return work(batch)

    return attack
