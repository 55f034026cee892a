"""What costs little beside what protects: metrics of the latent space, and the cost of training, against robustness."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avrobust_core.evaluation.wording import figures, spread
from avrobust_core.report.conditions import Row, cell_label, metric_values
from avrobust_core.report.html.charts import Drawing, Point, plane
from avrobust_core.report.html.numbers import Condition, condition_name, estimate_of, fits_of, mean, strongest
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Charts, Items, Part, Section, Text, Value, table

MOST_CHARTS = 6
FEWEST_POINTS = 3
PLURALS = {"clip": "clips", "class": "classes", "model": "models"}


def metrics(run: Run) -> Section:
    """Metrics against robustness: charts over cells, rank correlations, and every value."""
    parts: list[Part] = [*_scatter(run), *_correlations(run), *_values(run)]
    notes = dict.fromkeys(
        f"{entry['metric']}: {note}"
        for cell in run.cells
        for entry in cell.get("metrics", [])
        for note in entry.get("details", {}).get("notes", [])
    )
    if notes:
        parts.append(Items(list(notes)))
    return Section("metrics", "Can robustness be told without an attack?", parts)


def cost(run: Run) -> Section:
    """The cost of training against what it protects."""
    fitted = [cell for cell in run.together if any("fit" in fit for fit in fits_of(run, cell))]
    if not fitted:
        return Section("cost", "")
    condition = strongest(fitted)
    spent = {cell_label(cell): _spent(run, cell) for cell in fitted}
    parts: list[Part] = []
    series = [_protected(cell, condition, spent[cell_label(cell)]["passes"]) for cell in fitted]
    if condition is not None and sum(map(len, series)) >= 2:
        under = condition_name(condition)
        about = f"Robust accuracy under {under} against the passes that training took; the table below has the numbers."
        axes = ("clip passes of one training, forward and backward", "robust accuracy in %")
        drawing = plane(under, about, series, axes, logarithmic=True)
        parts.append(Charts([drawing], list(spent)))
    rows = [
        [
            *map(Value, (cell["model"], cell["training"])),
            *(Value(_large(spent[cell_label(cell)][name]), spent[cell_label(cell)][name]) for name in _COSTS),
            Value("-") if condition is None else _percent(estimate_of(cell, condition)),
        ]
        for cell in fitted
    ]
    right = [*_COSTS.values(), f"accuracy in %, {'no attack' if condition is None else condition_name(condition)}"]
    note = "Of one training, the mean over seeds. Seconds depend on the machine, and on what else it did."
    parts.append(table("Cost of training", ("model", "training"), right, rows, note))
    return Section("cost", "What does protection cost?", parts)


_COSTS = {
    "clip_forwards": "forward passes",
    "clip_backwards": "backward passes",
    "seconds": "seconds",
    "parameters": "parameters",
}


def _spent(run: Run, cell: Mapping[str, Any]) -> dict[str, float]:
    fits = [fit["fit"] for fit in fits_of(run, cell) if "fit" in fit]
    found = {name: mean(fit.get(name) for fit in fits) or 0.0 for name in _COSTS}
    return found | {"passes": found["clip_forwards"] + found["clip_backwards"]}


def _protected(cell: Mapping[str, Any], condition: Condition | None, passes: float) -> list[Point]:
    estimate = None if condition is None else estimate_of(cell, condition)
    if estimate is None or estimate["value"] is None or passes <= 0:
        return []
    low, high = (None if estimate[end] is None else 100 * estimate[end] for end in ("low", "high"))
    label = f"{cell_label(cell)}: {100 * estimate['value']:.1f} % for {_large(passes)} passes"
    return [Point(passes, 100 * estimate["value"], low, high, label)]


def _percent(estimate: Mapping[str, Any] | None) -> Value:
    if estimate is None or estimate["value"] is None:
        return Value("-")
    return Value(f"{100 * estimate['value']:.1f}", estimate["value"])


def _large(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _scatter(run: Run) -> Iterator[Part]:
    """Values that are measured at a layer of the latent space, on clean clips, against the strongest attack."""
    condition = strongest(run.cells)
    if condition is None:
        return
    found: dict[Row, dict[str, list[Point]]] = {}
    names = list(dict.fromkeys(map(cell_label, run.cells)))
    for cell in run.cells:
        robust = estimate_of(cell, condition)
        for row, (_, estimate) in metric_values(cell).items():
            if row[2] == "clean" and "/" in row[1] and robust is not None and _finite(estimate["value"]):
                y = 100 * robust["value"]
                label = f"{cell_label(run.named(cell))}: {row[1]} {estimate['value']:.3g}, accuracy {y:.1f} %"
                points = found.setdefault(row, {}).setdefault(cell_label(cell), [])
                points.append(Point(estimate["value"], y, label=label))
    full = [row for row, points in found.items() if sum(map(len, points.values())) >= FEWEST_POINTS]
    under = condition_name(condition)
    charts: list[Drawing] = []
    for row in _in_turn(full)[:MOST_CHARTS]:
        about = f"{row[0]} {row[1]} on clean clips against robust accuracy under {under}, a point for each cell."
        series = [found[row].get(name, []) for name in names]
        charts.append(plane(f"{row[0]}: {row[1]}", about, series, (row[1], "robust accuracy in %")))
    if charts:
        more = f" {len(charts)} of {len(full)} values; the table below has all." if len(full) > len(charts) else ""
        yield Charts(charts, names, f"On clean clips, against the accuracy under {under}; a point for each cell.{more}")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _in_turn(rows: Sequence[Row]) -> list[Row]:
    """The first value of each metric, then the second of each, and so on."""
    seen: dict[str, int] = {}
    places = []
    for row in rows:
        seen[row[0]] = seen.get(row[0], -1) + 1
        places.append((seen[row[0]], row))
    return [row for _, row in sorted(places, key=lambda place: place[0])]


def _correlations(run: Run) -> Iterator[Part]:
    found: dict[tuple[str, str], dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for entry in run.result.get("correlations", []):
        predictors = found.setdefault((entry["level"], entry["robustness"]), {})
        if entry["value"] is not None:
            predictors.setdefault((entry["metric"] or "", entry["predictor"]), []).append(entry)
    for (level, robustness), predictors in found.items():
        rows = []
        for (metric, predictor), entries in predictors.items():
            beyond = [entry["beyond_margin"] for entry in entries if "beyond_margin" in entry]
            rows.append(
                [*map(Value, (metric or "baseline", predictor)), *_over_cells(entries), *_over_cells(beyond)[:2]]
            )
        if rows:
            over = PLURALS.get(level, level)
            yield Text(_best(level, robustness, predictors))
            title = f"Rank correlation with robustness against {robustness}, over {over}"
            right = [
                "mean of cells",
                "least, greatest",
                "above 0",
                "below 0",
                "cells",
                "beyond margin",
                "least, greatest ",
            ]
            note = (
                "Above, below 0: cells whose interval leaves 0 out. Beyond margin: what the clean margin does not tell."
            )
            yield table(title, ("metric", "predictor"), right, rows, note)


def _over_cells(entries: Sequence[Mapping[str, Any]]) -> list[Value]:
    values = [entry["value"] for entry in entries if entry.get("value") is not None]
    if not values:
        return [Value("-") for _ in range(5)]
    middle = sum(values) / len(values)
    above = sum((entry["low"] or 0) > 0 for entry in entries)
    below = sum((entry["high"] or 0) < 0 for entry in entries)
    ends = figures(entries[0]).partition(" ")[2] if len(entries) == 1 else f"{min(values):.2f}, {max(values):.2f}"
    return [Value(f"{middle:.2f}", middle), Value(ends), *(Value(str(n), n) for n in (above, below, len(values)))]


def _best(level: str, robustness: str, predictors: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> str:
    """The strongest metric and the strongest baseline, in a sentence."""
    told = []
    for kind, wanted in (("metric", True), ("baseline", False)):
        means = {
            name: sum(entry["value"] for entry in entries) / len(entries)
            for (metric, name), entries in predictors.items()
            if bool(metric) == wanted and entries
        }
        if means:
            best = max(means, key=lambda name: abs(means[name]))
            told.append(f"the strongest {kind} is {best} ({means[best]:+.2f})")
    chosen = f" Chosen from {len(predictors)}, so that chance has helped them." if told else ""
    return f"Over {PLURALS.get(level, level)}, against {robustness}: {'; '.join(told)}.{chosen}"


def _values(run: Run) -> Iterator[Part]:
    found: dict[Row, dict[str, list[tuple[str, Mapping[str, Any]]]]] = {}
    names = list(dict.fromkeys(map(cell_label, run.cells)))
    for cell in run.cells:
        for row, value in metric_values(cell).items():
            found.setdefault(row, {}).setdefault(cell_label(cell), []).append(value)
    if not found:
        return
    several = run.several
    ordered = [row for name in dict.fromkeys(row[:2] for row in found) for row in found if row[:2] == name]
    rows = [[*map(Value, row), *(_measured(found[row].get(name, []), several) for name in names)] for row in ordered]
    note = "Mean over seeds (least to greatest)." if several else "With intervals."
    yield table("Every metric", ("metric", "value", "attack", "threat"), names, rows, note)


def _measured(found: Sequence[tuple[str, Mapping[str, Any]]], several: bool) -> Value:
    if not found:
        return Value("-")
    estimates = [estimate for _, estimate in found]
    text = spread(estimates) if several else figures(estimates[0])
    return Value(max(mark for mark, _ in found) + text, mean(estimate["value"] for estimate in estimates))
