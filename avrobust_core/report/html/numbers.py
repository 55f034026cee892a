"""The numbers of a run as values of tables: accuracies with their intervals, what speaks against each beside it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from avrobust_core.caveats import concerns
from avrobust_core.evaluation.failures import why_missing
from avrobust_core.evaluation.wording import doubt, of_method, percent, percent_interval
from avrobust_core.report.conditions import WORST, cell_label, conditions_of, robust_estimate
from avrobust_core.report.html.charts import Point
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Value

FEW = 7
"""Attacks and threats that one row of a table shows; of more, the worst cases alone."""

Condition = tuple[str, str]
"""An attack, or "clean", or `WORST`; and a threat, or ""."""

CLEAN: Condition = ("clean", "")


def condition_name(condition: Condition) -> str:
    """An attack and threat in words: "clean", "pgd on both", "worst case on audio"."""
    attack, threat = condition
    return f"{attack} on {threat}" if threat else attack


def told_conditions(cells: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """The attacks and threats of some cells; `WORST` under those threats only where it is over several attacks."""
    found = conditions_of(cells)
    counted = Counter(threat for attack, threat in found if attack != WORST and _bounded(cells, (attack, threat)))
    return [condition for condition in found if condition[0] != WORST or counted[condition[1]] > 1]


def headline_conditions(cells: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """Clean, and the attacks and threats of a first table: of many, one for each threat."""
    found = told_conditions(cells)
    if len(found) > FEW:
        last = {condition[1]: condition for condition in found if _bounded(cells, condition)}  # the worst case, if told
        found = list(last.values())
    return [CLEAN, *found]


def _bounded(cells: Sequence[Mapping[str, Any]], condition: Condition) -> bool:
    """True if some cell has a number there that the threat's radii bound."""
    estimates = (robust_estimate(cell, *condition) for cell in cells)
    return any(estimate is not None and estimate.get("bounded", True) for estimate in estimates)


def estimate_of(cell: Mapping[str, Any], condition: Condition) -> Mapping[str, Any] | None:
    """A cell's accuracy, clean or under an attack; None if it has none."""
    if condition == CLEAN:
        clean: Mapping[str, Any] | None = cell.get("clean_accuracy")
        return clean
    return robust_estimate(cell, *condition)


def strongest(
    cells: Sequence[Mapping[str, Any]], among: Callable[[Condition], bool] = lambda _: True
) -> Condition | None:
    """Of what all cells have met and the radii bound, that which leaves the lowest mean accuracy; None if nothing is.

    Args:
        cells: at least one.
        among: False for attacks and threats that do not count.
    """
    means = {}
    for condition in filter(among, conditions_of(cells)):
        estimates = [robust_estimate(cell, *condition) for cell in cells]
        values = [each["value"] for each in estimates if each is not None and each.get("bounded", True)]
        if len(values) == len(cells) and None not in values:
            means[condition] = sum(values) / len(values)
    return min(means, key=lambda condition: means[condition], default=None)


def fits_of(run: Run, cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A cell, or, of several seeds together, each seed's."""
    if "seeds" not in cell:
        return [cell]
    return [each for each in run.cells if cell_label(each) == cell_label(cell)]


def accuracy(run: Run, cell: Mapping[str, Any], condition: Condition) -> Value:
    """An accuracy in % with its interval, what speaks against it beside it."""
    attack, threat = condition
    estimate = estimate_of(cell, condition)
    if estimate is None:
        why = why_missing(cell, attack, threat)
        return Value("-") if why is None else Value("failed", notes=(f"why: {why}",), tone="bad")
    notes = [*contradictions(run, cell, condition), *doubts(cell, condition)]
    tone = "bad" if notes and notes[0].startswith("!! ") else "doubt" if notes else ""
    if estimate.get("attacked") == []:
        notes.append("= untouched: the threat touches nothing that this model reads: its clean accuracy stands")
    if not estimate.get("bounded", True):
        notes.append("! unbounded: the attack takes no notice of the threat's radius")
    below = f"over fits {percent_interval(estimate['across_fits'])}" if of_method(estimate) else ""
    return Value(percent(estimate), estimate["value"], below, tuple(notes), tone)


def contradictions(run: Run, cell: Mapping[str, Any], condition: Condition) -> list[str]:
    """What the audit found against an accuracy under attack."""
    attack, threat = condition
    found = []
    for fit in fits_of(run, cell):
        seed = f"seed {fit['seed']}: " if "seeds" in cell else ""
        for each in fit.get("audit", {}).get("contradictions", []):
            several = (WORST, threat) in told_conditions([fit])
            if each["threat"] == threat and (attack == WORST or not several):
                found.append(
                    f"!! contradicted: {seed}at most {100 * each['at_most']:.1f} % by the audit's {each['probe']}, "
                    f"which broke {each['broken']} of {each['probed']} clips that the attacks left robust"
                )
    return found


def doubts(cell: Mapping[str, Any], condition: Condition) -> list[str]:
    """The caveats against an accuracy, each as "? check: message"."""
    attack, threat = condition
    asked: tuple[str | None, str | None] = (None, None) if condition == CLEAN else (attack, threat)
    if not doubt(cell, *asked):
        return []
    return [f"? {each['check']}: {each['message']}" for each in cell["caveats"] if _concerns(each, *asked)]


def _concerns(caveat: Mapping[str, Any], attack: str | None, threat: str | None) -> bool:
    return caveat["threat"] in (None, threat) if attack == WORST else concerns([caveat], attack, threat)


def point(estimate: Mapping[str, Any] | None, label: str, scale: float = 100.0) -> Point | None:
    """An estimate as a point along x, with its interval."""
    if estimate is None or estimate["value"] is None:
        return None
    low, high = (None if estimate[end] is None else scale * estimate[end] for end in ("low", "high"))
    return Point(scale * estimate["value"], 0.0, low, high, label)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
