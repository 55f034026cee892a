"""Paired comparisons: the difference in accuracy between models, or between training regimes, over the same clips."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, compress
from typing import Any

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.spec.model import Comparison, Spec
from avrobust_core.statistics.across_fits import Right, difference_across_fits
from avrobust_core.statistics.intervals import holm, sign_flip_p
from avrobust_core.study.pooling import CellKey, ClipOutcomes, across_fits, on_common_clips, right_by_seed

Cell = tuple[str, str]
"""A model and a training regime, by name."""


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
        intervals: their settings.

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
        asked: list[dict[str, Any]] = []
        for first, second in _pairs(spec, entry):
            names = {"entry": index, "question": entry.question, "first": _names(first), "second": _names(second)}
            why = _missing(by_seed, first) or _missing(by_seed, second)
            if why is None:
                asked += differences(names, by_seed[first], by_seed[second], intervals)
            else:
                asked.append(names | {"left_out": why})
        correct(asked)
        found += asked
    return found


def _pairs(spec: Spec, entry: Comparison) -> Iterator[tuple[Cell, Cell]]:
    """Every two cells of an entry, group by group."""
    for training in spec.training:
        for first, second in combinations(entry.models or (), 2):
            yield (first, training), (second, training)
    for model in spec.models:
        for first, second in combinations(entry.training or (), 2):
            yield (model, first), (model, second)


def _names(cell: Cell) -> dict[str, str]:
    return {"model": cell[0], "training": cell[1]}


def _missing(by_seed: Mapping[Cell, Mapping[int, ClipOutcomes]], cell: Cell) -> str | None:
    """The reason why a cell cannot be compared; None if it can."""
    if cell not in by_seed:
        return f"{'/'.join(cell)} is not in the study: include or exclude leave it out"
    return None if by_seed[cell] else f"{'/'.join(cell)} failed"


def differences(
    names: Mapping[str, Any],
    first: Mapping[int, ClipOutcomes],
    second: Mapping[int, ClipOutcomes],
    intervals: Intervals,
    *,
    flipped: bool = False,
) -> Iterator[dict[str, Any]]:
    """The differences of one pair, before Holm's correction (`correct`).

    Args:
        names: what stands in front of each.
        first: its outcomes by seed.
        second: likewise.
        intervals: their settings.
        flipped: also name the clips that are right more often on one side: under `flipped`, `only_first` and
            `only_second`, their ids.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        yield {**names, "left_out": "no seed is done in both"}
        return
    aligned, left_out = on_common_clips([side[seed] for side in (first, second) for seed in seeds])
    clips = aligned[0].ids
    if not clips:
        yield {**names, "left_out": "no clip is in both"}
        return
    over, shared = intervals.over(clips), {"seeds": seeds, "clips": len(clips), "left_out_clips": left_out}
    sides = aligned[: len(seeds)], aligned[len(seeds) :]
    for attack, threat, attacks in _conditions(*sides):
        if isinstance(attacks, str):
            told: dict[str, Any] = {"left_out": attacks}
        else:
            ours, theirs = (right_by_seed(side, attacks, threat) for side in sides)
            told = shared | _estimated(ours, theirs, over)
            if flipped:
                balance = ours.sum(axis=0) - theirs.sum(axis=0)
                sides_of = {"only_first": balance > 0, "only_second": balance < 0}
                told["flipped"] = {side: list(compress(clips, where)) for side, where in sides_of.items()}
        yield {**names, "attack": attack, "threat": threat, **told}


def _conditions(
    first: Sequence[ClipOutcomes], second: Sequence[ClipOutcomes]
) -> Iterator[tuple[str | None, str | None, Sequence[str | None] | str]]:
    """Clean, each attack, the worst case: each with the attacks that it is over, or the reason why it is left out."""
    failed = {condition: why for found in (*first, *second) for condition, why in found.failed.items()}
    ours, theirs = (
        next((found for found in side if not found.failed), side[0]) for side in (first, second)
    )  # all seeds of a side were attacked alike but for what failed
    both = [condition for condition in ours.right if condition in theirs.right]
    touched = [condition for condition in both if condition not in ours.untouched & theirs.untouched]
    for condition in dict.fromkeys((*ours.right, *theirs.right, *failed)):
        if condition in failed:
            yield *condition, failed[condition]
        elif condition in touched:
            yield *condition, condition[:1]
        elif condition not in both:
            yield *condition, "only one of the two is attacked so"
    for threat in dict.fromkeys(threat for _, threat in touched if threat is not None):
        attacks = [attack for attack in ours.attacks(threat) if (attack, threat) in touched]
        if len(attacks) > 1 and ("worst_case", threat) not in failed:
            yield "worst_case", threat, attacks


def _estimated(first: Right, second: Right, intervals: Intervals) -> dict[str, Any]:
    """A difference with its counts, intervals and p-values, as JSON data; `intervals` are over its clips."""
    balance = first.sum(axis=0) - second.sum(axis=0)
    across = across_fits(difference_across_fits, first, second, intervals=intervals)
    if len(first) > 1:
        across["standard_deviations"] = [float(side.mean(axis=1).std(ddof=1)) for side in (first, second)]
    return {
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "difference": intervals.difference(balance / len(first)).to_json(),
        "p": sign_flip_p(balance, groups=intervals.groups),
        "across_fits": across,
    }


def correct(compared: Sequence[dict[str, Any]]) -> None:
    """Add Holm's correction to the differences of one entry: over the tests between networks, and over methods'."""
    _correct(compared)
    _correct([found["across_fits"] for found in compared if "across_fits" in found])


def _correct(tests: Sequence[dict[str, Any]]) -> None:
    """Add Holm's correction over those that have a p-value."""
    tested = [found for found in tests if "p" in found]
    for found, corrected in zip(tested, holm([found["p"] for found in tested]), strict=True):
        found["p_holm"] = corrected
