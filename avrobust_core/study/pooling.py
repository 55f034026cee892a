"""Several cells clip by clip: outcomes of the clips that they share, and results pooled over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.evaluation.failures import Failure
from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.statistics.across_fits import AcrossFits, Right, accuracy_across_fits
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

    def attacks(self, threat: str) -> list[str]:
        """The attacks that were run under a threat, and kept to it."""
        kept = [condition for condition in self.right if condition not in self.unbounded]
        return [str(attack) for attack, under in kept if attack is not None and under == threat]


def clip_outcomes(clean: Predictions, outcomes: Sequence[Outcome], failures: Sequence[Failure]) -> ClipOutcomes:
    """The outcomes of one cell's clips; `failures` are those of its result."""
    right: dict[Condition, NDArray[np.bool_]] = {(None, None): clean.correct}
    right |= {(each.attack, each.threat): clean.correct & each.predictions.correct for each in outcomes}
    return ClipOutcomes(
        ids=clean.ids,
        right=right,
        untouched=frozenset((each.attack, each.threat) for each in outcomes if not each.modalities),
        unbounded=frozenset((each.attack, each.threat) for each in outcomes if not each.bounded),
        failed=failed_conditions(failures),
    )


def failed_conditions(failures: Sequence[Failure]) -> dict[Condition, str]:
    """What `ClipOutcomes.failed` holds, from the `failures` of a cell's result."""
    failed: dict[Condition, str] = {}
    for failure in failures:
        if failure["metric"] is None and failure["direction"] is None:
            attack, threat = failure["attack"], failure["threat"]
            failed[attack, threat] = "the attack failed for one of the two"
            if failure["bounded"]:
                failed["worst_case", threat] = f"{attack}, which belongs to it, failed for one of the two"
    return failed


def on_common_clips(outcomes: Sequence[ClipOutcomes]) -> tuple[list[ClipOutcomes], int]:
    """The same of the clips that all cells have, in the first one's order; and how many other clips there are."""
    others = [set(found.ids) for found in outcomes]
    common = tuple(clip_id for clip_id in outcomes[0].ids if all(clip_id in ids for ids in others))
    aligned = []
    for found in outcomes:
        place = {clip_id: i for i, clip_id in enumerate(found.ids)}
        rows = np.array([place[clip_id] for clip_id in common], dtype=np.int64)
        right = {condition: outcome[rows] for condition, outcome in found.right.items()}
        aligned.append(replace(found, ids=common, right=right))
    return aligned, len(set().union(*others)) - len(common)


def right_by_seed(outcomes: Sequence[ClipOutcomes], attacks: Sequence[str | None], threat: str | None) -> Right:
    """The clips that none of these attacks broke under a threat, by seed: (S, N)."""
    return np.array([np.all([found.right[attack, threat] for attack in attacks], axis=0) for found in outcomes])


def across_fits(estimate: Callable[..., AcrossFits], *sides: Right, intervals: Intervals) -> dict[str, Any]:
    """The estimate of one method or two, beyond these networks, as JSON data, or the reason why there is none.

    NaN and infinity, which JSON has no number for, become None; a p-value stands only where there is one.
    """
    if len(sides[0]) < 2 or not sides[0].size:
        return {"left_out": ONE_FIT}
    found = asdict(estimate(*sides, confidence=intervals.confidence, groups=intervals.groups))
    return {name: value for name, value in finite_or_none(found).items() if name != "p" or value is not None}


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
        intervals: their settings.
    """
    pooled = []
    for model, training in dict.fromkeys((cell["model"], cell["training"]) for cell in cells):
        names = {"model": model, "training": training}
        own = [cell for cell in cells if (cell["model"], cell["training"]) == (model, training)]
        done = [cell for cell in own if "error" not in cell]
        found = {"seeds": [], "error": {"message": f"all {len(own)} seeds failed"}}
        if done:
            found = _pooled(done, [outcomes[model, training, cell["seed"]] for cell in done], intervals)
        pooled.append(names | found)
    return pooled


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
    outcomes, left_out = on_common_clips(outcomes)
    # An attack that failed for one seed is left out of all, and named under `failures`.
    in_all = set(outcomes[0].right).intersection(*(found.right for found in outcomes))
    worst = [threat for threat in cells[0]["worst_case"] if all(threat in cell["worst_case"] for cell in cells)]
    ids = outcomes[0].ids
    intervals = intervals.over(ids)

    def told(attacks: Sequence[str | None], threat: str | None) -> dict[str, Any]:
        right = right_by_seed(outcomes, attacks, threat)
        spread = float(right.mean(axis=1).std(ddof=1)) if len(right) > 1 and ids else None
        across = across_fits(accuracy_across_fits, right, intervals=intervals)
        return intervals.mean(right.mean(axis=0)).to_json() | {"standard_deviation": spread, "across_fits": across}

    return {
        "seeds": [cell["seed"] for cell in cells],
        "clips": len(ids),
        "left_out_clips": left_out,
        "clean_accuracy": told([None], None),
        "robust_accuracy": {
            attack: {
                threat: told([attack], threat) | {name: entry[name] for name in ("attacked", "bounded")}
                for threat, entry in threats.items()
                if (attack, threat) in in_all
            }
            for attack, threats in cells[0]["robust_accuracy"].items()
        },
        "worst_case": {threat: told(outcomes[0].attacks(threat), threat) for threat in worst},
        "failures": _by_seed(cells, "failures"),
        "caveats": _by_seed(cells, "caveats"),
        "cost": {name: sum(cell["fit"][name] for cell in cells) for name in COSTS},
    }
