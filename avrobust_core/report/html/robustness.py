"""Robustness in full: every accuracy under attack, curves over the radii, smallest perturbations, fronts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avrobust_core.evaluation.wording import percent, size
from avrobust_core.report.conditions import WHERE, cell_label, section_entries
from avrobust_core.report.html.charts import Drawing, Point, plane
from avrobust_core.report.html.numbers import accuracy, condition_name, mean, told_conditions
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Charts, Part, Section, Value, table

MOST_CHARTS = 12

Entry = Mapping[str, Any]


def every_accuracy(run: Run) -> Section:
    """A row for each cell, attack and threat: accuracy, success rate, sizes and queries."""
    rows = []
    for cell in run.cells:
        for attack, threat in told_conditions([cell]):
            found = cell.get("robust_accuracy", {}).get(attack, {}).get(threat, {})
            success = cell.get("attack_success_rate", {}).get(attack, {}).get(threat)
            norms = ", ".join(f"{name} {norm:g}" for name, norm in found.get("norms", {}).items())
            rows.append(
                [
                    *map(Value, (cell["model"], cell["training"])),
                    Value(str(cell["seed"]), _number(cell["seed"])),
                    *map(Value, (attack, threat)),
                    accuracy(run, cell, (attack, threat)),
                    Value("-") if success is None else Value(percent(success), success["value"]),
                    Value(norms or "-"),
                    Value(f"{found['queries']:.0f}", found["queries"]) if "queries" in found else Value("-"),
                ]
            )
    if not rows:
        return Section("attacks", "")
    left, right = (
        ("model", "training", "seed", "attack", "threat"),
        ("accuracy in %", "success in %", "mean norms", "queries"),
    )
    note = (
        "Success: the share that the attack broke of the clips that are right clean. Norms, queries: means over clips."
    )
    return Section("attacks", "Every attack", [table("Accuracy under each attack", left, right, rows, note)])


def curves(run: Run) -> Section:
    """A chart for each attack and threat, and a table of all points; fronts and smallest perturbations."""
    cells = [run.named(cell) for cell in run.cells]
    parts: list[Part] = [*_curves(run, cells), *_fronts(run, cells), *_sizes(cells)]
    return Section("curves", "How much can be changed before it breaks?", parts)


def _curves(run: Run, cells: Sequence[Entry]) -> Iterator[Part]:
    charts = []
    names = list(dict.fromkeys(map(cell_label, run.cells)))
    for condition, by_cell in _by_condition(run.cells, "curves").items():
        lines = [_mean_curve(by_cell.get(name, []), name) for name in names]
        about = f"Robust accuracy by factor of the radii, {condition_name(condition)}; the table below has the numbers."
        title = condition_name(condition)
        axes = ("factor of the radii", "robust accuracy in %")
        charts.append(plane(title, about, lines, axes, joined=True, y_span=(0, 100), x_span=_span_of(lines)))
    if not charts:
        return
    yield _charts(charts, names, "Robust accuracy over eps, mean over seeds." if run.several else "")
    found = list(section_entries(cells, "curves"))
    factors = sorted({point["factor"] for *_, curve in found for point in curve})
    rows = []
    for where, mark, curve in found:
        by_factor = {point["factor"]: point for point in curve}
        values = [
            Value(mark + percent(by_factor[factor]), by_factor[factor]["value"]) if factor in by_factor else Value("-")
            for factor in factors
        ]
        rows.append([*map(Value, where), *values])
    heading = [f"x {factor:g}" for factor in factors]
    yield table("Robust accuracy in % by factor of the threat's radii", WHERE, heading, rows)


def _span_of(lines: Sequence[Sequence[Point]]) -> tuple[float, float]:
    return 0.0, max((point.x for line in lines for point in line), default=1.0)


def _mean_curve(curves_: Sequence[Sequence[Entry]], name: str) -> list[Point]:
    """The mean over seeds; with one seed, its intervals, too."""
    points = []
    for at in zip(*curves_, strict=False):
        value = mean(point["value"] for point in at)
        if value is None:
            continue
        ends = [at[0][end] for end in ("low", "high")] if len(at) == 1 else [None, None]
        low, high = (None if end is None else 100 * end for end in ends)
        factor = at[0]["factor"]
        points.append(Point(factor, 100 * value, low, high, f"{name}, x {factor:g}: {100 * value:.1f} %"))
    return points


def _by_condition(cells: Sequence[Entry], section: str) -> dict[tuple[str, str], dict[str, list[Any]]]:
    """The entries of a section by attack and threat, then by model and regime: one for each seed."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for cell in cells:
        for attack, threats in cell.get(section, {}).items():
            for threat, entry in threats.items():
                found.setdefault((attack, threat), {}).setdefault(cell_label(cell), []).append(entry)
    return found


def _fronts(run: Run, cells: Sequence[Entry]) -> Iterator[Part]:
    charts = []
    names = list(dict.fromkeys(map(cell_label, run.cells)))
    for condition, by_cell in _by_condition(run.cells, "fronts").items():
        some = next(iter(by_cell.values()))[0]
        modalities = list(some[0]["direction"])
        if len(modalities) != 2:
            continue
        lines = [_mean_front(by_cell.get(name, []), modalities, name) for name in names]
        if not any(lines):
            continue
        title = condition_name(condition)
        about = f"The smallest joint budgets that break half of the clips, {title}; the table below has the numbers."
        axes = (f"{modalities[0]}, share of its radius", f"{modalities[1]}, share of its radius")
        highest = [max(getattr(p, axis) for line in lines for p in line) * 1.05 or 1.0 for axis in ("x", "y")]
        charts.append(plane(title, about, lines, axes, joined=True, x_span=(0, highest[0]), y_span=(0, highest[1])))
    if charts:
        yield _charts(
            charts,
            names,
            "Budgets for two modalities together that break half of the clips: further out is more robust.",
        )
    rows = []
    for where, mark, front in section_entries(cells, "fronts"):
        for point in front:
            direction = ", ".join(f"{name} {share:.2f}" for name, share in point["direction"].items())
            budgets = ", ".join(
                f"{name} {'-' if share is None else format(share, '.3f')}" for name, share in point["budget"].items()
            )
            found = point["median_size"]
            rows.append(
                [*map(Value, where), Value(direction), Value(mark + budgets), Value(size(found), found["value"])]
            )
    if rows:
        title = "Smallest joint budgets that break half of the clips, in shares of the threat's radii"
        yield table(title, (*WHERE, "direction", "budgets"), ["size"], rows)


def _mean_front(fronts: Sequence[Sequence[Entry]], modalities: Sequence[str], name: str) -> list[Point]:
    points = []
    for at in zip(*fronts, strict=False):
        budgets = [mean(point["budget"].get(modality) for point in at) for modality in modalities]
        if any(point["budget"].get(modality) is None for point in at for modality in modalities):
            continue  # beyond all that was tried, for one of the seeds
        if budgets[0] is not None and budgets[1] is not None:
            label = f"{name}: {modalities[0]} {budgets[0]:.3f}, {modalities[1]} {budgets[1]:.3f}"
            points.append(Point(budgets[0], budgets[1], label=label))
    return points


def _sizes(cells: Sequence[Entry]) -> Iterator[Part]:
    rows = [
        [*map(Value, where), Value(mark + size(found["median_size"]), found["median_size"]["value"])]
        for where, mark, found in section_entries(cells, "smallest_perturbation")
    ]
    if rows:
        title = "Median size of the smallest perturbation found, in shares of the threat's radii"
        yield table(title, WHERE, ["median"], rows)


def _charts(charts: Sequence[Drawing], names: Sequence[str], note: str) -> Charts:
    left = len(charts) - MOST_CHARTS
    more = f" The first {MOST_CHARTS} of {len(charts)}; the table has all." if left > 0 else ""
    return Charts(charts[:MOST_CHARTS], names, (note + more).strip())


def _number(seed: Any) -> float | None:
    return float(seed) if isinstance(seed, int) else None
