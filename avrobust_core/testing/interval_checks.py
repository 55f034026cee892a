"""Checks of the numbers and intervals that metrics return: what they hold, and what they depend on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from avrobust_core.metrics.metric import Measurement, Metric, Subject
from avrobust_core.statistics.intervals import Estimate
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.metric_world import World
from avrobust_core.testing.running import CheckFailed, NotApplicable

CONFIDENCES = (0.5, 0.99)
FEW = 11
"""Resamples, of which the interval's ends are sure to differ from seed to seed, even where values are few."""
SEEDS = (0, 1, 2, 3, 4, 5)
RESAMPLES = (100, 5, FEW, 300)


def check_intervals(subject: ComponentSubject) -> None:
    """Its numbers are finite, or NaN where there is nothing to measure; an interval holds its number."""
    for given, found in _measured(subject):
        for name, estimate in found.values.items():
            value, low, high = estimate.value, estimate.low, estimate.high
            if any(map(math.isinf, (value, low, high))):
                raise CheckFailed(
                    f"{name} of {given.task} clips is {value}, from {low} to {high}: infinity is no measurement; leave "
                    "such clips out and say so in `details`, or return NaN"
                )
            if estimate.method == "none" or math.isnan(value):
                continue
            if math.isnan(low) or math.isnan(high):
                raise CheckFailed(
                    f"the interval of {name} of {given.task} clips goes from {low} to {high}, where {value} was "
                    'measured: if there is no interval, its method is "none"'
                )
            slack = 1e-9 * max(1.0, abs(value))
            if not low - slack <= value <= high + slack:
                raise CheckFailed(
                    f"{name} of {given.task} clips is {value}, and its interval goes from {low} to {high}: an interval "
                    "holds the number that it is of. Take both from one statistic (`bootstrap`, `share`)"
                )
        for name, classes in found.per_class.items():
            if endless := [label for label, value in classes.items() if math.isinf(value)]:
                raise CheckFailed(f"per_class[{name!r}] is infinite for {', '.join(endless)}: return NaN")


def check_confidence(subject: ComponentSubject) -> None:
    """Intervals are wider at a higher `confidence`; the numbers stay as they are."""
    seen = False
    for given, _ in _measured(subject, measure=False):
        metric: Metric = subject.build()
        narrow, wide = (
            metric.measure(replace(World(given.task).subject(metric), confidence=confidence))
            for confidence in CONFIDENCES
        )
        for name, estimate in wide.values.items():
            other = narrow.values[name]
            if _differ(estimate.value, other.value):
                raise CheckFailed(f"{name} is {other.value} at one `confidence` and {estimate.value} at another")
            if not _has_interval(estimate):
                continue
            seen = True
            if not other.high - other.low < estimate.high - estimate.low:
                raise CheckFailed(
                    f"the interval of {name} is as wide at a confidence of {CONFIDENCES[0]} as at {CONFIDENCES[1]}: "
                    "hand `subject.confidence` to `bootstrap` or `share`"
                )
    _require(seen)


def check_seed(subject: ComponentSubject) -> None:
    """Bootstrap intervals depend on `seed` and on `resamples`, and on nothing else that is random."""
    seen = False
    for given, _ in _measured(subject, measure=False):
        for field, values in (("seed", SEEDS), ("resamples", RESAMPLES)):
            known: dict[str, tuple[float, float]] = {}
            unmoved: set[str] = set()
            for number, value in enumerate(values):
                metric: Metric = subject.build()
                found = metric.measure(_with(World(given.task).subject(metric), field, value))
                ends = {
                    name: (estimate.low, estimate.high)
                    for name, estimate in found.values.items()
                    if estimate.method == "bootstrap" and _has_interval(estimate)
                }
                unmoved = set(ends) if not number else {name for name in unmoved if ends.get(name) == known[name]}
                known = known or ends
                if not unmoved:
                    break
            seen |= bool(known)
            if unmoved:
                raise CheckFailed(
                    f"the bootstrap interval of {', '.join(sorted(unmoved))} is the same for every `subject.{field}` "
                    f"({', '.join(map(str, values))}): hand it to `bootstrap`, or say how the interval was made "
                    "(method)"
                )
    _require(seen)


def _with(given: Subject, field: str, value: int) -> Subject:
    return replace(given, resamples=value) if field == "resamples" else replace(given, resamples=FEW, seed=value)


def _measured(subject: ComponentSubject, *, measure: bool = True) -> Iterator[tuple[Subject, Measurement]]:
    """A subject of each task of the metric, and what it measures of it."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        given = World(task).subject(metric)
        yield given, metric.measure(given) if measure else Measurement({})


def _has_interval(estimate: Estimate) -> bool:
    return estimate.method != "none" and estimate.low < estimate.high and math.isfinite(estimate.high - estimate.low)


def _require(seen: bool) -> None:
    if not seen:
        raise NotApplicable("it gives no interval for this")


def _differ(one: float, other: float) -> bool:
    return one != other and not (math.isnan(one) and math.isnan(other))


def same_estimates(first: Iterable[tuple[str, Estimate]], second: Iterable[tuple[str, Estimate]]) -> bool:
    """True if two measurements' values are the same, number by number; NaN equals itself."""
    one, other = dict(first), dict(second)
    return one.keys() == other.keys() and all(
        (a.n, a.method, a.groups) == (b.n, b.method, b.groups)
        and not any(_differ(x, y) for x, y in ((a.value, b.value), (a.low, b.low), (a.high, b.high)))
        for a, b in ((one[name], other[name]) for name in one)
    )
