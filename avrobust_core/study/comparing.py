"""Paired comparisons: the difference in accuracy between models, or between training regimes, over the same clips."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.spec.model import Comparison, Spec
from avrobust_core.statistics.across_fits import difference_across_fits
from avrobust_core.statistics.intervals import holm, sign_flip_p
from avrobust_core.study.pooling import (
    ONE_FIT,
    CellKey,
    ClipOutcomes,
    Condition,
    across_fits_to_json,
    common_clips,
)

Cell = tuple[str, str]
"""A model and a training regime, by name."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """One difference to be estimated.

    Attributes:
        told: what is known already, as JSON data.
        clips: those that both sides have.
        first, second: (S, N) bool: which clips each side gets right, by seed.
    """

    told: dict[str, Any]
    clips: tuple[str, ...]
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]

    @property
    def seeds(self) -> int:
        return len(self.first)

    @property
    def balance(self) -> NDArray[np.int64]:
        """(N,): in how many more seeds the first side gets each clip right."""
        return np.asarray(self.first.sum(axis=0) - self.second.sum(axis=0))


def compare(
    spec: Spec, cells: Sequence[Mapping[str, Any]], outcomes: Mapping[CellKey, ClipOutcomes], intervals: Intervals
) -> list[dict[str, Any]]:
    """The comparisons that a spec's `compare` asks for, as JSON data.

    Each entry compares every two of its models within each regime, or every two of its regimes for each model: on clean
    clips, under each attack and threat, and for each threat with several attacks in the worst case over them
    (`attack` is "worst_case"). Differences are shares, the first's accuracy minus the second's, over the clips and the
    seeds that both have. Beside each stand the counts of outcomes, over clips and seeds, that only one of the two gets
    right. Its interval, and the p-value of `sign_flip_p`, are of these networks on other clips; `across_fits` has those
    of the two methods, with other fits, too (`difference_across_fits`), or says why there are none. Either p-value
    stands bare and after Holm's correction over all tests of the entry. A threat that touches nothing that either model
    reads would test the clean difference again: it is left out.

    Args:
        spec: the study.
        cells: results of its cells, with `model`, `training`, `seed`, and `error` where one failed.
        outcomes: of each cell that did not fail.
        intervals: how they are made.

    Returns:
        One entry per pair, attack and threat; with `left_out`, the reason, where there is nothing to compare.
    """
    by_seed: dict[Cell, dict[int, ClipOutcomes]] = {}
    for cell in cells:
        own = by_seed.setdefault((cell["model"], cell["training"]), {})
        if "error" not in cell:
            own[cell["seed"]] = outcomes[cell["model"], cell["training"], cell["seed"]]
    found: list[dict[str, Any]] = []
    for index, entry in enumerate(spec.compare):
        asked: list[_Compared | dict[str, Any]] = []
        for first, second in _pairs(spec, entry):
            names = {"entry": index, "question": entry.question, "first": _names(first), "second": _names(second)}
            why = _missing(by_seed, first) or _missing(by_seed, second)
            if why is None:
                asked += _differences(names, by_seed[first], by_seed[second])
            else:
                asked.append(names | {"left_out": why})
        found += _estimated(asked, intervals)
    return found


def _pairs(spec: Spec, entry: Comparison) -> Iterator[tuple[Cell, Cell]]:
    """Every two cells of an entry, group by group."""
    if entry.models is not None:
        for training in spec.training:
            for first, second in combinations(entry.models, 2):
                yield (first, training), (second, training)
    for model in spec.models if entry.training is not None else ():
        for first, second in combinations(entry.training or (), 2):
            yield (model, first), (model, second)


def _names(cell: Cell) -> dict[str, str]:
    return {"model": cell[0], "training": cell[1]}


def _missing(by_seed: Mapping[Cell, Mapping[int, ClipOutcomes]], cell: Cell) -> str | None:
    """The reason why a cell cannot be compared; None if it can."""
    if cell not in by_seed:
        return f"{'/'.join(cell)} is not in the study: include or exclude leave it out"
    return None if by_seed[cell] else f"{'/'.join(cell)} failed"


def _differences(
    names: Mapping[str, Any], first: Mapping[int, ClipOutcomes], second: Mapping[int, ClipOutcomes]
) -> Iterator[_Compared | dict[str, Any]]:
    """The differences to be estimated for one pair."""
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        yield {**names, "left_out": "no seed is done in both"}
        return
    sides = [[side[seed] for seed in seeds] for side in (first, second)]
    rows, left_out = common_clips([*sides[0], *sides[1]])
    if not rows[0].size:
        yield {**names, "left_out": "no clip is in both"}
        return
    clips = tuple(sides[0][0].ids[row] for row in rows[0])
    for (attack, threat), right in _conditions(sides[0], sides[1]):
        where = {**names, "attack": attack, "threat": threat}
        if isinstance(right, str):
            yield where | {"left_out": right}
            continue
        ours, theirs = (
            np.stack([outcome[row] for outcome, row in zip(side, own, strict=True)])
            for side, own in zip(right, (rows[: len(seeds)], rows[len(seeds) :]), strict=True)
        )
        told = where | {
            "seeds": seeds,
            "clips": len(clips),
            "left_out_clips": left_out,
            "only_first": int((ours & ~theirs).sum()),
            "only_second": int((theirs & ~ours).sum()),
        }
        yield _Compared(told, clips, ours, theirs)


Right = Sequence[NDArray[np.bool_]]
"""Which clips are right, by seed."""


def _conditions(
    first: Sequence[ClipOutcomes], second: Sequence[ClipOutcomes]
) -> Iterator[tuple[Condition, tuple[Right, Right] | str]]:
    """Clean, each attack, the worst case, with both sides' outcomes, or the reason why they are left out."""
    failed = {condition: why for found in (*first, *second) for condition, why in found.failed.items()}
    ours, theirs = (
        next((found for found in side if not found.failed), side[0]) for side in (first, second)
    )  # all seeds of a side were attacked alike but for what failed
    both = [condition for condition in ours.right if condition in theirs.right]
    touched = [condition for condition in both if condition not in ours.untouched & theirs.untouched]
    for condition in dict.fromkeys((*ours.right, *theirs.right, *failed)):
        if condition in failed:
            yield condition, failed[condition]
        elif condition in touched:
            yield condition, ([one.right[condition] for one in first], [one.right[condition] for one in second])
        elif condition not in both:
            yield condition, "only one of the two is attacked so"
    for threat in dict.fromkeys(threat for _, threat in touched if threat is not None):
        attacks = [attack for attack in ours.attacks(threat) if (attack, threat) in touched]
        if len(attacks) > 1 and ("worst_case", threat) not in failed:
            yield (
                ("worst_case", threat),
                ([one.worst(attacks, threat) for one in first], [one.worst(attacks, threat) for one in second]),
            )


def _estimated(asked: Sequence[_Compared | dict[str, Any]], intervals: Intervals) -> list[dict[str, Any]]:
    """One entry's differences with intervals and p-values, in the order asked for."""
    compared = [item for item in asked if isinstance(item, _Compared)]
    estimates: dict[int, dict[str, Any]] = {}
    for item in compared:
        over = intervals.over(item.clips)
        (difference,) = over.differences(item.balance[:, None] / item.seeds)
        estimates[id(item)] = {
            "difference": difference.to_json(),
            "p": sign_flip_p(item.balance, groups=over.groups),
            "across_fits": _across_fits(item, over),
        }
    for where in (lambda found: found, lambda found: found["across_fits"]):
        tested = [found for found in map(where, estimates.values()) if found.get("p") is not None]
        for found, corrected in zip(tested, holm([found["p"] for found in tested]), strict=True):
            found["p_holm"] = corrected
    return [each.told | estimates[id(each)] if isinstance(each, _Compared) else each for each in asked]


def _across_fits(item: _Compared, intervals: Intervals) -> dict[str, Any]:
    """The comparison of the methods, beyond these networks, as JSON data."""
    if item.seeds < 2:
        return {"left_out": ONE_FIT}
    found = difference_across_fits(item.first, item.second, confidence=intervals.confidence, groups=intervals.groups)
    spreads = [float(side.mean(axis=1).std(ddof=1)) for side in (item.first, item.second)]
    return across_fits_to_json(found) | {"standard_deviations": spreads}
