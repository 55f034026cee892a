"""The tables of a run's results, on stdout."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from avrobust_core.audit.saying import verdict_lines
from avrobust_core.caveats import describe
from avrobust_core.evaluation.failures import failure_label, why_missing
from avrobust_core.evaluation.wording import (
    MOST_COLUMNS,
    doubt,
    figures,
    interval,
    of_method,
    over_seeds,
    percent,
    percent_interval,
    size,
    spread,
)
from avrobust_core.plain_text import plain_text
from avrobust_core.report.comparison_tables import print_comparisons, print_overturned, table_of
from avrobust_core.report.conditions import (
    WHERE,
    Row,
    cell_label,
    conditions_of,
    metric_row,
    metric_values,
    robust_estimate,
    section_entries,
    with_seed,
)
from avrobust_core.study.console import TextConsole

Item = TypeVar("Item")

WIDTH_WITHOUT_TERMINAL = 320


def results_console() -> TextConsole:
    """Standard output, for tables: as wide as the terminal, and wide enough where there is none."""
    return TextConsole(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def print_tables(result: Mapping[str, Any]) -> None:
    """Print a run's results: accuracies, and where there are any, comparisons, curves, perturbations, metrics."""
    console = results_console()
    _print_accuracies(console, result)
    print_comparisons(console, result)
    print_overturned(console, result)
    cells = [with_seed(result, cell) for cell in result["cells"] if "error" not in cell]
    _print_curves(console, cells)
    _print_sizes(console, cells)
    _print_fronts(console, cells)
    _print_metrics(console, result)
    _print_correlations(console, result)


def _print_accuracies(console: Console, result: Mapping[str, Any]) -> None:
    cells: Sequence[Mapping[str, Any]] = result.get("pooled") or result["cells"]
    columns = conditions_of(cells)
    clean = [cell["clean_accuracy"] for cell in cells if "error" not in cell]
    brackets = interval(result, clean, any(map(of_method, clean)))
    console.print(f"{result['name']}: accuracy in %{over_seeds(result)}, {brackets}")
    if len(cells) <= MOST_COLUMNS < len(columns):
        console.print(_by_attack(cells, columns))
    else:
        for part in _parts(columns):
            console.print(_by_cell(cells, part))
    named = [(cell_label(cell), cell) for cell in (with_seed(result, each) for each in result["cells"])]
    for name, cell in named:
        if "error" in cell:
            _print_failure(console, name, cell["error"])
        for failure in cell.get("failures", []):
            _print_failure(console, f"{name}, {failure_label(failure)}", failure)
    for name, cell in named:
        for line in verdict_lines(cell["audit"]) if "audit" in cell else ():
            console.print(f"{name}, {line}")
    for name, cell in named:
        for caveat in cell.get("caveats", []):
            console.print(f"? {name}, {describe(caveat)}")
    for cell in cells:
        left_out = cell.get("clean_accuracy", {}).get("across_fits", {}).get("left_out")
        if left_out is not None:
            console.print(f"{cell_label(cell)}, the method: no interval: {left_out}")
    shown = [_robust(cell, *column) for cell in cells for column in columns]
    for mark, why in (
        ("= ", "the threat touches nothing that this model reads: its clean accuracy stands"),
        ("! ", "the attack takes no notice of the threat's radius"),
    ):
        if any(mark in text for text in shown):
            console.print(mark + why)


def _print_failure(console: Console, what: str, failure: Mapping[str, Any]) -> None:
    console.print(plain_text(f"{what} failed: {failure['message']}"), style="red", soft_wrap=True)


def _by_cell(cells: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> Table:
    """A row for each cell, a column for each attack under each threat of a few."""
    left = ("model", "training", *(["seeds"] if "seeds" in cells[0] else []))
    table = table_of(left, ("clean", *("\n".join(column) for column in columns)))
    for cell in cells:
        found = [_clean(cell), *(_robust(cell, attack, threat) for attack, threat in columns)]
        table.add_row(cell["model"], cell["training"], *([str(len(cell["seeds"]))] if "seeds" in cell else []), *found)
    return table


def _by_attack(cells: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> Table:
    """The same the other way round, for a few cells and more attacks than fit beside one another."""
    headings = []
    for cell in cells:
        seeds = f"\n{len(cell['seeds'])} seeds" if "seeds" in cell else ""
        headings.append(f"{cell['model']}\n{cell['training']}{seeds}")
    table = table_of(("attack", "threat"), headings)
    table.add_row("clean", "", *(_clean(cell) for cell in cells))
    for attack, threat in columns:
        table.add_row(attack, threat, *(_robust(cell, attack, threat) for cell in cells))
    return table


def _clean(cell: Mapping[str, Any]) -> str:
    return "failed" if "error" in cell else doubt(cell, None, None) + _accuracy(cell["clean_accuracy"])


def _print_curves(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    rows = list(section_entries(cells, "curves"))
    factors = sorted({point["factor"] for *_, curve in rows for point in curve})
    title = "robust accuracy in % by factor of the threat's radii"
    table = table_of(WHERE, [f"x {factor:g}" for factor in factors], title)
    for where, mark, curve in rows:
        by_factor = {point["factor"]: f"{mark}{100 * point['value']:.1f}" for point in curve}
        table.add_row(*where, *(by_factor.get(factor, "-") for factor in factors))
    if rows:
        console.print(table)


def _print_sizes(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    title = "median size of the smallest perturbation found, in shares of the threat's radii"
    table = table_of(WHERE, ["median"], title)
    for where, mark, found in section_entries(cells, "smallest_perturbation"):
        table.add_row(*where, mark + size(found["median_size"]))
    if table.row_count:
        console.print(table)


def _print_fronts(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    title = "smallest joint budgets that break half of the clips, in shares of the threat's radii"
    table = table_of((*WHERE, "direction"), ["budgets"], title)
    for where, mark, front in section_entries(cells, "fronts"):
        for point in front:
            direction = ", ".join(f"{name} {share:.2f}" for name, share in point["direction"].items())
            budgets = ", ".join(
                f"{name} {'-' if share is None else format(share, '.3f')}" for name, share in point["budget"].items()
            )
            table.add_row(*where, direction, mark + budgets)
    if table.row_count:
        console.print(table)


def _print_metrics(console: Console, result: Mapping[str, Any]) -> None:
    """Metrics on clean clips and, those that are measured there, under attack."""
    done = [cell for cell in result["cells"] if "error" not in cell]
    columns: dict[str, dict[Row, list[tuple[str, Mapping[str, Any]]]]] = {}
    failed: set[tuple[str, Row]] = set()
    for cell in done:
        heading = f"{cell['model']}\n{cell['training']}"
        values = columns.setdefault(heading, {})
        for row, found in metric_values(cell).items():
            values.setdefault(row, []).append(found)
        failed |= {(heading, metric_row(each)) for each in cell.get("failures", []) if each["metric"] is not None}
    rows = dict.fromkeys(row for values in columns.values() for row in values)
    measured = {(row[0], "", *row[2:]) for row in rows}
    rows |= dict.fromkeys(row for _, row in sorted(failed) if row not in measured)
    if not rows:
        return
    several = bool(result.get("pooled"))
    console.print(f"metrics{over_seeds(result)}{', (least to greatest)' if several else ''}")
    together = dict.fromkeys(row[:2] for row in rows)  # a number's clean value above those under attack
    ordered = [row for name in together for row in rows if row[:2] == name]
    for part in _parts(list(columns)):
        table = table_of(("metric", "", "attack", "threat"), part)
        for row in ordered:
            without_name = (row[0], "", *row[2:])
            table.add_row(
                *row,
                *(
                    "failed"  # of several seeds, one is enough: the others' mean is no mean of all
                    if (at, without_name) in failed
                    else _measured(columns[at].get(row, []), several)
                    for at in part
                ),
            )
        console.print(table)
    _print_notes(console, done)


def _measured(found: Sequence[tuple[str, Mapping[str, Any]]], several: bool) -> str:
    if not found:
        return "-"
    estimates = [estimate for _, estimate in found]
    return max(mark for mark, _ in found) + (spread(estimates) if several else figures(estimates[0]))


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    """In runs of as many as stand beside one another; one empty run of none."""
    return [items[i : i + MOST_COLUMNS] for i in range(0, max(len(items), 1), MOST_COLUMNS)]


def _print_notes(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    """Print the metrics' notes, once for all cells and attacks."""
    entries = [entry for cell in cells for entry in cell.get("metrics", [])]
    notes = [(entry["metric"], note) for entry in entries for note in entry.get("details", {}).get("notes", [])]
    for metric, note in dict.fromkeys(notes):
        console.print(f"{metric}: {note}")


def _print_correlations(console: Console, result: Mapping[str, Any]) -> None:
    """One table per level and kind of robustness: predictors by cells."""
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for entry in result.get("correlations", []):
        cell = "all models"
        if "model" in entry:
            cell = "\n".join(with_seed(result, entry)[name] for name in ("model", "training"))
        predictors = found.setdefault((entry["level"], entry["robustness"]), {})
        predictors.setdefault((entry["metric"] or "", entry["predictor"]), {})[cell] = entry
    for (level, robustness), predictors in found.items():
        beyond = "; beyond what the margin tells" if level == "clip" else ""
        title = f"rank correlation with robustness against {robustness}, over {_PLURALS[level]}{beyond}"
        console.print(title)  # a table's own title is broken at the table's width
        cells = dict.fromkeys(cell for entries in predictors.values() for cell in entries)
        shown = list(cells) if len(cells) < MOST_COLUMNS else []  # result.json has all of them
        over_cells = ["mean of cells\n(intervals above 0, below 0, all)"] if len(cells) > 1 else []
        table = table_of(("metric", "predictor"), [*shown, *over_cells])
        for (metric, predictor), entries in predictors.items():
            known = [entry for entry in entries.values() if entry["value"] is not None]
            if known:
                mean = [_over_cells(known)] if over_cells else []
                table.add_row(metric, predictor, *(_correlation(entries.get(cell)) for cell in shown), *mean)
        console.print(table)


def _over_cells(entries: Sequence[Mapping[str, Any]]) -> str:
    """The mean of a correlation over cells, and in how many its interval leaves 0 out; beyond the margin, too."""
    beyond = [entry["beyond_margin"] for entry in entries if entry.get("beyond_margin", {}).get("value") is not None]
    return "; ".join(
        f"{sum(entry['value'] for entry in found) / len(found):.2f} "
        f"({sum((entry['low'] or 0) > 0 for entry in found)}, {sum((entry['high'] or 0) < 0 for entry in found)}, "
        f"{len(found)})"
        for found in (entries, beyond)
        if found
    )


_PLURALS = {"clip": "clips", "class": "classes", "model": "models"}


def _correlation(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    beyond = entry.get("beyond_margin")
    return figures(entry) + (f"; {figures(beyond)}" if beyond is not None else "")


def _robust(cell: Mapping[str, Any], attack: str, threat: str) -> str:
    estimate = robust_estimate(cell, attack, threat)
    if estimate is None:
        return "-" if why_missing(cell, attack, threat) is None else "failed"
    mark = "= " if estimate.get("attacked") == [] else "" if estimate.get("bounded", True) else "! "
    return doubt(cell, attack, threat) + mark + _accuracy(estimate)


def _accuracy(estimate: Mapping[str, Any]) -> str:
    """With its interval; below it, where there are several fits, the method's."""
    if of_method(estimate):
        return f"{percent(estimate)}\n{percent_interval(estimate['across_fits'])}"
    return percent(estimate)
