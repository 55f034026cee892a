"""Fits of a study's cells: made once, and read again from their records."""

from pathlib import Path
from typing import Any

from avrobust_core.errors import RunError
from avrobust_core.files import read_record
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import PlannedCell, why_stale
from avrobust_core.study.process import Process
from avrobust_core.study.provenance import made_with
from avrobust_core.training.fit import WEIGHTS, Fit


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
        with process.monitor.task(f"{label}: fit"):
            record = Fit(
                process.fabric,
                builder.model(cell.model, process.dataset),
                process.loader,
                regime,
                builder.augmentations(regime),
                seed=cell.seed,
                folder=cell.folder,
                report=process.monitor.update,
                batch_size=engine.batch_size,
                batch_timeout=engine.batch_timeout,
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
