"""What `avrobust plan --cost` shows: passes, seconds, memory and disk of each cell, and of all of them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from avrobust_core.cli.layout import complain, say, table
from avrobust_core.cli.options import UsageError

if TYPE_CHECKING:
    from avrobust_core.data.dataset import Dataset
    from avrobust_core.study.building import Builder
    from avrobust_core.study.costing import CellCost, Part
    from avrobust_core.study.plan import PlannedCell

_UNITS = ((86400 * 365, "years"), (86400, "days"), (3600, "h"), (60, "min"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--cost` and what it is asked for."""
    parser.add_argument(
        "--cost",
        action="store_true",
        help="foretell passes, seconds, memory and disk from a few steps of the study's own on this machine",
    )
    parser.add_argument("--clips", type=int, metavar="N", help="with --cost: as if N clips were learned from")
    parser.add_argument("--evaluated", type=int, metavar="N", help="with --cost: as if N clips were evaluated")
    parser.add_argument("--devices", type=int, metavar="N", help="with --cost: N devices like this one share the work")


def foretold(
    options: argparse.Namespace, builder: "Builder", dataset: "Dataset", cells: Sequence["PlannedCell"]
) -> dict[str, Any]:
    """The costs of cells, printed unless JSON was asked for: as JSON data."""
    from avrobust_core.naming import bytes_named
    from avrobust_core.study.calibrating import Calibration
    from avrobust_core.study.costing import Costing, Sizes

    calibration = Calibration(builder, dataset)
    sizes, devices = Sizes(options.clips, options.evaluated), options.devices or 1
    costing = Costing(builder, dataset, calibration, sizes, devices)
    found = []
    for cell in cells:
        found.append(costing.cost(cell))
        if not options.json:
            _show(found[-1])
    total: dict[str, Any] = {
        "seconds": round(sum(each.seconds for each in found), 3),
        "bounded": any(each.bounded for each in found),
        "disk": sum(each.disk for each in found),
        "devices": devices,
        "calibrated_on": str(calibration.device),
        "calibration_seconds": round(calibration.seconds, 3),
    }
    if not options.json:
        most = "at most " if total["bounded"] else ""
        say(
            f"all that is left: {most}{duration(total['seconds'])} on {devices} x {total['calibrated_on']}, and "
            f"{bytes_named(total['disk'])} on disk; calibrated in {duration(total['calibration_seconds'])}"
        )
        for each in found:
            if each.problem is not None:
                complain(f"note: {each.cell.label} could not be calibrated: {each.problem}")
    return total | {"cells": [each.to_json() for each in found]}


def refuse_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers of clips and devices that mean nothing, before anything is loaded.

    Raises:
        UsageError: names the option.
    """
    for name in ("clips", "evaluated", "devices"):
        given = getattr(options, name)
        if given is not None and not options.cost:
            raise UsageError(f"--{name} says what --cost is to foretell: give --cost, too")
        if given is not None and given < 1:
            raise UsageError(f"--{name} {given}: at least 1")


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there is one at least: "4.2 min"."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.2g} s"


def _show(cost: "CellCost") -> None:
    from avrobust_core.naming import bytes_named

    say(f"{cost.cell.id}  {cost.cell.label}")
    if cost.problem is not None:
        return
    head = ("", "clips", "forward passes", "backward passes", "takes")
    for line in table([head, *map(_row, cost.parts)], right=(1, 2, 3, 4)):
        say(f"    {line}")
    held = bytes_named(cost.host) + (f", {bytes_named(cost.device)} on the device" if cost.device else "")
    most = "at most " if cost.bounded else ""
    say(f"    left: {most}{duration(cost.seconds)}; memory {held}; {bytes_named(cost.disk)} on disk")


def _row(part: "Part") -> tuple[str, ...]:
    sign = {"exactly": "", "at most": "<= ", "about": "~ ", "unknown": ""}[part.known]
    none = not part.forwards and not part.backwards
    passes = ["?" if part.known == "unknown" and part.seconds is None else "-"] * 2
    if not none:
        passes = [f"{sign}{part.forwards:,}", f"{sign}{part.backwards:,}"]
    takes = "done" if part.done else "?" if part.seconds is None else f"{sign}{duration(part.seconds)}"
    return (part.name, f"{part.clips:,}", *passes, takes)
