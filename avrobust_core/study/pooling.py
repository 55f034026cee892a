"""Several cells clip by clip: outcomes of the clips that they share, and results pooled over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.statistics.across_fits import AcrossFits, accuracy_across_fits
from avrobust_core.statistics.intervals import finite_or_none

COSTS = ("clip_forwards", "clip_backwards", "seconds")
"""The parts of a fit's record that are added up over seeds."""

ONE_FIT = "one fit says nothing of how fits differ: several seeds would"
"""The reason why there is no interval for a method."""

Condition = tuple[str | None, str | None]
"""An attack and a threat, by name; (None, None) is clean."""

CellKey = tuple[str, str, int]
"""A cell's model, training regime and seed: two that mean the same share an id and a folder, but are two."""


@dataclass(frozen=True, slots=True)
class ClipOutcomes:
    """The outcome of each clip of one cell.

    Attributes:
        ids: N clips.
        right: by attack and threat, (N,) bool: correct clean and, where there is an attack, after it.
        untouched: the attacks and threats that touch nothing that the model reads.
        unbounded: those of attacks that take no notice of the radius; the worst case leaves them out.
        failed: why there is nothing for an attack under a threat, or for the worst case under a threat.
    """

    ids: tuple[str, ...]
    right: Mapping[Condition, NDArray[np.bool_]]
    untouched: frozenset[Condition]
    unbounded: frozenset[Condition] = frozenset()
    failed: Mapping[Condition, str] = field(default_factory=dict)

    def worst(self, attacks: Sequence[str], threat: str) -> NDArray[np.bool_]:
        """The clips that none of these attacks broke under a threat: (N,) bool."""
        return np.asarray(np.all([self.right[attack, threat] for attack in attacks], axis=0))

    def attacks(self, threat: str) -> list[str]:
        """The attacks that were run under a threat, and kept to it."""
        kept = [condition for condition in self.right if condition not in self.unbounded]
        return [str(attack) for attack, under in kept if attack is not None and under == threat]


def read_outcomes(path: Path, result: Mapping[str, Any]) -> ClipOutcomes:
    """Read each clip's outcome from the table that `write_samples` wrote, and the attacks from the cell's result."""
    table = pq.read_table(path, columns=["id", "attack", "threat", "correct", "clean_correct"])
    count = table["attack"].null_count  # one block of rows per evaluation, the clean one first
    right: dict[Condition, NDArray[np.bool_]] = {}
    for start in range(0, len(table), count):
        block = table.slice(start, count)
        correct, clean = (block[name].to_numpy(zero_copy_only=False) for name in ("correct", "clean_correct"))
        right[block["attack"][0].as_py(), block["threat"][0].as_py()] = correct & clean
    entries = {
        (attack, threat): entry
        for attack, threats in result["robust_accuracy"].items()
        for threat, entry in threats.items()
    }
    return ClipOutcomes(
        ids=tuple(table["id"].slice(0, count).to_pylist()),
        right=right,
        untouched=frozenset(key for key, entry in entries.items() if not entry["attacked"]),
        unbounded=frozenset(key for key, entry in entries.items() if not entry["bounded"]),
        failed=_failed(result),
    )


def _failed(result: Mapping[str, Any]) -> dict[Condition, str]:
    found: dict[Condition, str] = {}
    for failure in result.get("failures", []):
        if failure["metric"] is None and failure["direction"] is None:
            attack, threat = failure["attack"], failure["threat"]
            found[attack, threat] = "the attack failed for one of the two"
            if failure["bounded"]:
                found["worst_case", threat] = f"{attack}, which belongs to it, failed for one of the two"
    return found


def common_clips(outcomes: Sequence[ClipOutcomes]) -> tuple[list[NDArray[np.int64]], int]:
    """For each cell the rows of the clips that all of them have, in one order; and how many others there are."""
    common = set(outcomes[0].ids).intersection(*(found.ids for found in outcomes[1:]))
    order = [clip_id for clip_id in outcomes[0].ids if clip_id in common]
    rows = []
    for found in outcomes:
        place = {clip_id: i for i, clip_id in enumerate(found.ids)}
        rows.append(np.array([place[clip_id] for clip_id in order], dtype=np.int64))
    return rows, len(set().union(*(found.ids for found in outcomes))) - len(order)


def across_fits_to_json(found: AcrossFits) -> dict[str, Any]:
    """As JSON data: NaN and infinity, which JSON has no number for, become None; a p-value only where there is one."""
    known = finite_or_none(asdict(found))
    return known if known["p"] is not None else {name: value for name, value in known.items() if name != "p"}


def pool(
    cells: Sequence[Mapping[str, Any]], outcomes: Mapping[CellKey, ClipOutcomes], intervals: Intervals
) -> list[dict[str, Any]]:
    """The results of each model and regime over all its seeds, as JSON data.

    Accuracies are means over seeds; their intervals are over clips, each with its mean over the seeds, and so of these
    networks' mean on other clips. `standard_deviation` is that of the accuracy over seeds: how much fits differ.
    `across_fits` is the interval of the method, for other fits on other clips (`accuracy_across_fits`).

    Args:
        cells: results of cells, with `model`, `training`, `seed`, and `error` where a cell failed.
        outcomes: of each cell that did not fail.
        intervals: how they are made.
    """
    pooled = []
    for model, training in dict.fromkeys((cell["model"], cell["training"]) for cell in cells):
        names = {"model": model, "training": training}
        own = [cell for cell in cells if (cell["model"], cell["training"]) == (model, training)]
        done = [cell for cell in own if "error" not in cell]
        if done:
            pooled.append(names | _pooled(done, [outcomes[model, training, cell["seed"]] for cell in done], intervals))
        else:
            pooled.append(names | {"seeds": [], "error": {"message": f"all {len(own)} seeds failed"}})
    return pooled


def _in_all(outcomes: Sequence[ClipOutcomes], condition: Condition) -> bool:
    """True if every seed has it: an attack that failed for one is left out of all, and named under `failures`."""
    return all(condition in found.right for found in outcomes)


def _by_seed(cells: Sequence[Mapping[str, Any]], section: str) -> list[dict[str, Any]]:
    """The entries of a section of all cells, each message with its seed."""
    return [
        entry | {"message": f"seed {cell['seed']}: {entry['message']}"}
        for cell in cells
        for entry in cell.get(section, [])
    ]


def _pooled(
    cells: Sequence[Mapping[str, Any]], outcomes: Sequence[ClipOutcomes], intervals: Intervals
) -> dict[str, Any]:
    rows, left_out = common_clips(outcomes)
    robust = {
        attack: {threat: entry for threat, entry in threats.items() if _in_all(outcomes, (attack, threat))}
        for attack, threats in cells[0]["robust_accuracy"].items()
    }
    worst = [threat for threat in cells[0]["worst_case"] if all(threat in cell["worst_case"] for cell in cells)]
    columns: dict[Condition, list[NDArray[np.bool_]]] = {
        condition: [found.right[condition] for found in outcomes]
        for condition in outcomes[0].right
        if _in_all(outcomes, condition)
    }
    for threat in worst:
        columns["worst_case", threat] = [found.worst(found.attacks(threat), threat) for found in outcomes]
    seeds = {
        key: np.stack([right[row] for right, row in zip(column, rows, strict=True)]) for key, column in columns.items()
    }
    intervals = intervals.over([outcomes[0].ids[row] for row in rows[0]])
    estimates = dict(
        zip(seeds, intervals.means(np.stack([right.mean(axis=0) for right in seeds.values()], axis=1)), strict=True)
    )

    def told(condition: Condition) -> dict[str, Any]:
        by_seed = seeds[condition].mean(axis=1) if rows[0].size else np.array([])
        spread = float(by_seed.std(ddof=1)) if by_seed.size > 1 else None
        across: dict[str, Any] = {"left_out": ONE_FIT}
        if by_seed.size > 1:
            found = accuracy_across_fits(seeds[condition], confidence=intervals.confidence, groups=intervals.groups)
            across = across_fits_to_json(found)
        return estimates[condition].to_json() | {"standard_deviation": spread, "across_fits": across}

    return {
        "seeds": [cell["seed"] for cell in cells],
        "clips": int(rows[0].size),
        "left_out_clips": left_out,
        "clean_accuracy": told((None, None)),
        "robust_accuracy": {
            attack: {
                threat: told((attack, threat)) | {name: entry[name] for name in ("attacked", "bounded")}
                for threat, entry in threats.items()
            }
            for attack, threats in robust.items()
        },
        "worst_case": {threat: told(("worst_case", threat)) for threat in worst},
        "failures": _by_seed(cells, "failures"),
        "caveats": _by_seed(cells, "caveats"),
        "cost": {name: sum(cell["fit"][name] for cell in cells) for name in COSTS},
    }
