"""Finished runs compared: their cells clip by clip on the clips that both have, and what differs between the runs."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import RunError
from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.naming import clips_named
from avrobust_core.randomness import derive_seed
from avrobust_core.study.comparing import Cell, correct, differences
from avrobust_core.study.finished import FinishedRun
from avrobust_core.study.plan import differences as listed
from avrobust_core.study.plan import differing
from avrobust_core.study.pooling import ClipOutcomes

FORMAT = 1
"""The version of what `compare_runs` returns."""

_OF_AN_ATTACK = ("attack", "threat", "goal", "factors", "samples", "precision")
"""The parts of an evaluation's identity that say how a clip was attacked."""


def compare_runs(runs: Sequence[FinishedRun], pairs: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Every two runs, the earlier against the later, as JSON data.

    Cells are paired by model and regime, or as `pairs` says. Each pair is compared as the entries of a spec's `compare`
    are (`study.comparing`), on the clips that both runs evaluated, and Holm's correction is over all tests between two
    runs. Where two runs have no seed in common, but as many, seeds are paired in their order.

    Args:
        runs: two at least.
        pairs: of cells of the earlier and the later run, as "model/training", or "model" for all regimes that both
            have; by default cells of the same names.

    Returns:
        `comparisons`: for each two runs `first` and `second` (their folders), `clips` (in `common`, and of each),
        `cells` that only one of them has, `differences` (entries as in a result's `comparisons`, with `run` on
        either side, `flipped`, and `not_alike`: what differs between the two sides' attacks) and `differs`: by `spec`
        and `lock`, `path`, `first` and `second` of each value.

    Raises:
        RunError: if two runs have no clip in common, clips of one id that are not the same, or no cells to pair.
    """
    return {"format": FORMAT, "comparisons": [_compared(*both, pairs) for both in combinations(runs, 2)]}


def _compared(first: FinishedRun, second: FinishedRun, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    common = _common(first, second)
    cells = [_cells(run) for run in (first, second)]
    pairs = list(dict.fromkeys(pair for each in asked for pair in _asked(*each, first, second)))
    if not asked:
        pairs = [(cell, cell) for cell in cells[0] if cell in cells[1]]
    if not pairs:
        raise RunError(
            f"no cell of {first.folder} has the model and training of one of {second.folder}: say which belong "
            "together, as in --pair concat/standard=sum/standard"
        )
    section = first.resolved["evaluation"]
    grouping = first.groups or second.groups
    seed = derive_seed(first.lock["cells"][0]["seed"], "bootstrap")
    intervals = Intervals(section["confidence"], section["resamples"], seed, grouping)
    found: list[dict[str, Any]] = []
    for ours, theirs in pairs:
        names = {"entry": 0, "question": None, "first": _names(first, ours), "second": _names(second, theirs)}
        sides = cells[0][ours], cells[1][theirs]
        if not all(sides):
            run, cell = (second, theirs) if sides[0] else (first, ours)
            found.append(names | {"left_out": f"{'/'.join(cell)} of {run.folder} failed"})
            continue
        found += [
            item | {"not_alike": list(_not_alike(item, first, ours, second, theirs))}
            for item in differences(names, *_with_seeds(*sides), intervals, flipped=True)
        ]
    correct(found)
    return {
        "first": str(first.folder),
        "second": str(second.folder),
        "confidence": intervals.confidence,
        "clips": {"common": len(common), "first": len(first.labels), "second": len(second.labels)},
        "cells": {
            "only_first": ["/".join(cell) for cell in cells[0] if cell not in [pair[0] for pair in pairs]],
            "only_second": ["/".join(cell) for cell in cells[1] if cell not in [pair[1] for pair in pairs]],
        },
        "differences": found,
        "differs": {
            "spec": _told(first.resolved, second.resolved),
            "lock": _told(_versions(first), _versions(second)),
        },
    }


def _common(first: FinishedRun, second: FinishedRun) -> list[str]:
    """The clips that both have evaluated, if they are the same clips.

    Raises:
        RunError: if there is none, or their labels or inputs are not the same; names the clips.
    """
    common = [clip for clip in first.labels if clip in second.labels]
    both = f"{first.folder} and {second.folder}"
    if not common:
        raise RunError(
            f"no clip was evaluated in both {both}: they have other data, or another `evaluation.split` or `clips`"
        )
    other = [clip for clip in common if first.labels[clip] != second.labels[clip]]
    if other:
        raise RunError(
            f"{len(other)} of {len(common)} common clips have other labels in {second.folder} than in {first.folder} "
            f"({clips_named(other)}): runs can be compared on the same clips with the same labels only"
        )
    for modality in sorted({*first.checksums, *second.checksums} - {"targets"}):
        ours, theirs = (run.checksums.get(modality, {}) for run in (first, second))
        other = [clip for clip in common if clip in ours and clip in theirs and ours[clip] != theirs[clip]]
        if other:
            raise RunError(
                f"the {modality} of {len(other)} of {len(common)} common clips is not the same in {both} "
                f"({clips_named(other)}): other files, or read in another way (sample rate, size, length); runs can be "
                "compared on the same inputs only"
            )
    return common


def _cells(run: FinishedRun) -> dict[Cell, dict[int, ClipOutcomes]]:
    """The outcomes by model and regime, and by seed; no seed where all failed."""
    found: dict[Cell, dict[int, ClipOutcomes]] = {}
    for cell in run.result["cells"]:
        own = found.setdefault((cell["model"], cell["training"]), {})
        if "error" not in cell:
            own[cell["seed"]] = run.outcomes[cell["model"], cell["training"], cell["seed"]]
    return found


def _asked(ours: str, theirs: str, first: FinishedRun, second: FinishedRun) -> Iterator[tuple[Cell, Cell]]:
    """The pairs of cells that one --pair means.

    Raises:
        RunError: if one of the runs has no such cell.
    """
    sides = [_named(name, run) for name, run in ((ours, first), (theirs, second))]
    if "/" in ours or "/" in theirs:
        if any(len(side) > 1 for side in sides):
            raise RunError(f"--pair {ours}={theirs}: write both as model/training: one of them has several regimes")
        yield sides[0][0], sides[1][0]
        return
    shared = [(one, other) for one in sides[0] for other in sides[1] if one[1] == other[1]]
    if not shared:
        raise RunError(f"--pair {ours}={theirs}: the two have no regime of the same name: write both as model/training")
    yield from shared


def _named(name: str, run: FinishedRun) -> list[Cell]:
    cells = list(_cells(run))
    found = [cell for cell in cells if name in (cell[0], "/".join(cell))]
    if not found:
        known = dict.fromkeys(known for cell in cells for known in (cell[0], "/".join(cell)))
        hint = did_you_mean(name, known) or f"; there are: {', '.join('/'.join(cell) for cell in cells)}"
        raise RunError(f"--pair: {run.folder} has no cell {name!r}{hint}")
    return found


def _names(run: FinishedRun, cell: Cell) -> dict[str, Any]:
    seeds = [each["seed"] for each in run.result["cells"] if (each["model"], each["training"]) == cell]
    return {"run": str(run.folder), "model": cell[0], "training": cell[1], "seeds": seeds}


def _with_seeds(
    first: Mapping[int, ClipOutcomes], second: Mapping[int, ClipOutcomes]
) -> tuple[Mapping[int, ClipOutcomes], Mapping[int, ClipOutcomes]]:
    """The same, with seeds that belong together under one number: nothing below rests on which seed it is."""
    if len(first) == len(second) and not set(first) & set(second):
        return first, dict(zip(first, second.values(), strict=True))
    return first, second


def _not_alike(
    item: Mapping[str, Any], first: FinishedRun, ours: Cell, second: FinishedRun, theirs: Cell
) -> Iterator[str]:
    """What differs between the attacks of the two sides: version, configuration, threat, goal, precision."""
    attack, threat = item.get("attack"), item.get("threat")
    if attack is None or "left_out" in item:
        return
    kept = [
        next(evaluations for key, evaluations in run.evaluations.items() if key[:2] == cell)
        for run, cell in ((first, ours), (second, theirs))
    ]
    conditions = [condition for condition in kept[0] if condition in kept[1] and condition[1] == threat]
    for condition in conditions:
        if attack in (condition[0], "worst_case"):
            one, other = (_attacked_how(side[condition]) for side in kept)
            if one["threat"] is None or other["threat"] is None:
                continue  # it touches nothing of what one of the two reads
            shared = set(one["threat"]) & set(other["threat"])  # what the other does not read cannot be alike
            for side in (one, other):
                side["threat"] = {name: value for name, value in side["threat"].items() if name in shared}
            where = f"{condition[0]}: " if attack == "worst_case" else ""
            yield from (f"{where}{difference}" for difference in listed(one, other))


def _attacked_how(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: identity.get(name) for name in _OF_AN_ATTACK}


def _told(first: Any, second: Any) -> list[dict[str, Any]]:
    return [{"path": path, "first": ours, "second": theirs} for path, ours, theirs in differing(first, second)]


def _versions(run: FinishedRun) -> dict[str, Any]:
    """The lock without its cells, the versions of the components, and those that the cells' records were made with."""
    records: dict[str, set[str]] = {}
    for cell in run.lock["cells"]:
        for entry in cell["made_with"]:
            for name, version in {**entry["made_with"], **entry["made_with"]["components"]}.items():
                if name != "components":
                    records.setdefault(name, set()).add(version)
    made_with = {name: ", ".join(sorted(versions)) for name, versions in records.items()}
    whole = {name: value for name, value in run.lock.items() if name not in ("cells", "resolved")}
    return {**whole, "components": run.components, "made_with": made_with}
