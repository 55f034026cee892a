"""The tables of a run's results, on stdout."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from avrobust_core.caveats import concerns, describe

Item = TypeVar("Item")

WIDTH_WITHOUT_TERMINAL = 320
MOST_COLUMNS = 5
"""What stands beside one another in one table; more of it stands below one another, or in several tables."""


def print_tables(result: Mapping[str, Any]) -> None:
    """Print a run's results: accuracies, and where there are any, comparisons, curves, perturbations, metrics."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    _print_accuracies(console, result)
    cells = [_named(result, cell) for cell in result["cells"] if "error" not in cell]
    _print_comparisons(console, result)
    _print_curves(console, cells)
    _print_sizes(console, cells)
    _print_fronts(console, cells)
    _print_metrics(console, result)
    _print_correlations(console, result)


def _print_accuracies(console: Console, result: Mapping[str, Any]) -> None:
    cells: Sequence[Mapping[str, Any]] = result.get("pooled") or result["cells"]
    columns = _columns(cells)
    console.print(f"{result['name']}: accuracy in %{_over_seeds(result)}, {_confidence(result)}")
    if len(cells) <= MOST_COLUMNS < len(columns):
        console.print(_by_attack(cells, columns))
    else:
        for part in _parts(columns):
            console.print(_by_cell(cells, part))
    for cell in result["cells"]:
        if "error" in cell:
            named = _named(result, cell)
            console.print(f"{named['model']}/{named['training']} failed: {cell['error']['message']}", style="red")
    for cell in result["cells"]:
        for caveat in cell.get("caveats", []):
            named = _named(result, cell)
            console.print(f"? {named['model']}/{named['training']}, {describe(caveat)}", markup=False)
    if any("= " in _robust(cell, *column) for cell in cells for column in columns):
        console.print("= the threat touches nothing that this model reads: its clean accuracy stands")
    if any("! " in _robust(cell, *column) for cell in cells for column in columns):
        console.print("! the attack takes no notice of the threat's radius")


def _by_cell(cells: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> Table:
    """A row for each cell, a column for each attack under each threat of a few."""
    table = Table("model", "training", *(["seeds"] if "seeds" in cells[0] else []))
    table.add_column("clean", justify="right")
    for attack, threat in columns:
        table.add_column(f"{attack}\n{threat}", justify="right")
    for cell in cells:
        found = [_clean(cell), *(_robust(cell, attack, threat) for attack, threat in columns)]
        table.add_row(cell["model"], cell["training"], *([str(len(cell["seeds"]))] if "seeds" in cell else []), *found)
    return table


def _by_attack(cells: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> Table:
    """The same the other way round, for a few cells and more attacks than fit beside one another."""
    table = Table("attack", "threat")
    for cell in cells:
        seeds = f"\n{len(cell['seeds'])} seeds" if "seeds" in cell else ""
        table.add_column(f"{cell['model']}\n{cell['training']}{seeds}", justify="right")
    table.add_row("clean", "", *(_clean(cell) for cell in cells))
    for attack, threat in columns:
        table.add_row(attack, threat, *(_robust(cell, attack, threat) for cell in cells))
    return table


def _clean(cell: Mapping[str, Any]) -> str:
    return "failed" if "error" in cell else _mark(cell, None, None) + _percent(cell["clean_accuracy"])


def _mark(cell: Mapping[str, Any], attack: str | None, threat: str | None) -> str:
    """What stands before a number that something speaks against; the lines below the first table say what."""
    caveats = cell.get("caveats", [])
    if attack == "worst case":  # as strong as the strongest: in doubt only if every attack is
        attacks = [name for name, threats in cell["robust_accuracy"].items() if threats.get(threat, {}).get("bounded")]
        return "? " if attacks and all(concerns(caveats, name, threat) for name in attacks) else ""
    return "? " if concerns(caveats, attack, threat) else ""


def _print_comparisons(console: Console, result: Mapping[str, Any]) -> None:
    """One table per entry of `compare`: pairs beside one another, or, if they are many, below one another."""
    entries: dict[int, list[Mapping[str, Any]]] = {}
    for item in result.get("comparisons", []):
        entries.setdefault(item["entry"], []).append(item)
    for items in entries.values():
        done = [item for item in items if "left_out" not in item]
        pairs = dict.fromkeys(_pair(item) for item in done)
        if items[0].get("question"):
            console.print(f"\n{items[0]['question']}", style="bold")
        if done:
            console.print(
                f"differences in accuracy in points, the first minus the second{_over_seeds(result)}, "
                f"{_confidence(result)}; * the interval leaves 0 out; p by Holm over this table"
            )
            doubted = _doubted(result)
            beside = len(pairs) <= MOST_COLUMNS
            console.print(_pairs_beside(done, pairs, doubted) if beside else _pairs_below(done, doubted))
        for reason in dict.fromkeys(_why_left_out(item) for item in items if "left_out" in item):
            console.print(f"not compared: {reason}")


Doubted = Callable[[Mapping[str, Any]], str]
"""From a comparison to what stands before it: a mark if something speaks against either number."""


def _doubted(result: Mapping[str, Any]) -> Doubted:
    cells: Sequence[Mapping[str, Any]] = result["cells"]

    def mark(item: Mapping[str, Any]) -> str:
        compared = [(item[side]["model"], item[side]["training"]) for side in ("first", "second")]
        attack, threat = _condition(item)
        found = [
            _mark(cell, attack if threat else None, threat or None)
            for cell in cells
            if "error" not in cell and (cell["model"], cell["training"]) in compared
        ]
        return max(found, default="")

    return mark


def _pairs_beside(items: Sequence[Mapping[str, Any]], pairs: Iterable[tuple[str, str]], doubted: Doubted) -> Table:
    """A row for each attack and threat, a column for each pair."""
    table = Table("attack", "threat")
    for pair in pairs:
        table.add_column("\n".join(pair), justify="right")
    found = {(_condition(item), _pair(item)): doubted(item) + _difference(item) for item in items}
    for condition in dict.fromkeys(condition for condition, _ in found):
        table.add_row(*condition, *(found.get((condition, pair), "-") for pair in pairs))
    return table


def _pairs_below(items: Sequence[Mapping[str, Any]], doubted: Doubted) -> Table:
    """A row for each pair, attack and threat."""
    table = Table("pair", "", "attack", "threat")
    table.add_column("difference", justify="right")
    for item in items:
        table.add_row(*_pair(item), *_condition(item), doubted(item) + _difference(item))
    return table


def _pair(item: Mapping[str, Any]) -> tuple[str, str]:
    """What is compared, and where: "concat vs sum", "standard"."""
    first, second = item["first"], item["second"]
    if first["model"] == second["model"]:
        return f"{first['training']} vs {second['training']}", first["model"]
    return f"{first['model']} vs {second['model']}", first["training"]


def _condition(item: Mapping[str, Any]) -> tuple[str, str]:
    if item["attack"] is None:
        return "clean", ""
    return "worst case" if item["attack"] == "worst_case" else item["attack"], item["threat"]


def _difference(item: Mapping[str, Any]) -> str:
    value, low, high = (100 * item["difference"][end] for end in ("value", "low", "high"))
    mark = " *" if low > 0 or high < 0 else ""
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{mark}, p {item['p_holm']:.2g}"


def _why_left_out(item: Mapping[str, Any]) -> str:
    """The reason; with the pair and the attack where it is not one cell's."""
    if "/" in item["left_out"]:
        return str(item["left_out"])
    where = " under ".join(_condition(item)) if "attack" in item else ""
    return f"{' in '.join(_pair(item))}{f', {where}' if where else ''}: {item['left_out']}"


def _print_curves(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    rows = [(cell, attack, threat, curve) for cell in cells for attack, threat, curve in _entries(cell, "curves")]
    factors = sorted({point["factor"] for *_, curve in rows for point in curve})
    if not rows:
        return
    table = Table(title="robust accuracy in % by factor of the threat's radii", title_justify="left")
    for heading in ("model", "training", "attack", "threat"):
        table.add_column(heading)
    for factor in factors:
        table.add_column(f"x {factor:g}", justify="right")
    for cell, attack, threat, curve in rows:
        mark = _mark(cell, attack, threat)
        by_factor = {point["factor"]: f"{mark}{100 * point['value']:.1f}" for point in curve}
        table.add_row(
            cell["model"], cell["training"], attack, threat, *(by_factor.get(factor, "-") for factor in factors)
        )
    console.print(table)


def _print_sizes(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (cell, attack, threat, found["median_size"])
        for cell in cells
        for attack, threat, found in _entries(cell, "smallest_perturbation")
    ]
    if not rows:
        return
    title = "median size of the smallest perturbation found, in shares of the threat's radii"
    table = Table("model", "training", "attack", "threat", title=title, title_justify="left")
    table.add_column("median", justify="right")
    for cell, attack, threat, size in rows:
        shown = _mark(cell, attack, threat) + _size(size)
        table.add_row(cell["model"], cell["training"], attack, threat, shown)
    console.print(table)


def _print_fronts(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    rows = [(cell, attack, threat, front) for cell in cells for attack, threat, front in _entries(cell, "fronts")]
    if not rows:
        return
    title = "smallest joint budgets that break half of the clips, in shares of the threat's radii"
    table = Table("model", "training", "attack", "threat", "direction", title=title, title_justify="left")
    table.add_column("budgets", justify="right")
    for cell, attack, threat, front in rows:
        for point in front:
            direction = ", ".join(f"{name} {share:.2f}" for name, share in point["direction"].items())
            budgets = ", ".join(
                f"{name} {'-' if share is None else format(share, '.3f')}" for name, share in point["budget"].items()
            )
            shown = _mark(cell, attack, threat) + budgets
            table.add_row(cell["model"], cell["training"], attack, threat, direction, shown)
    console.print(table)


def _print_metrics(console: Console, result: Mapping[str, Any]) -> None:
    """Metrics on clean clips; those under attack are in result.json, as is all else that is not here."""
    columns: dict[str, list[Mapping[tuple[str, str], Mapping[str, Any]]]] = {}
    for cell in result["cells"]:
        if "error" not in cell:
            columns.setdefault(f"{cell['model']}\n{cell['training']}", []).append(_clean_values(cell))
    rows = dict.fromkeys(key for seeds in columns.values() for values in seeds for key in values)
    if not rows:
        return
    several = bool(result.get("pooled"))
    console.print(f"metrics on clean clips{_over_seeds(result)}{', (least to greatest)' if several else ''}")
    for part in _parts(list(columns)):
        table = Table("metric", "")
        for heading in part:
            table.add_column(heading, justify="right")
        for row in rows:
            found = [[values[row] for values in columns[heading] if row in values] for heading in part]
            shown = (_spread(known) if several else _number(known[0]) if known else "-" for known in found)
            table.add_row(*row, *shown)
        console.print(table)


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    """In runs of as many as stand beside one another; one empty run of none."""
    return [items[i : i + MOST_COLUMNS] for i in range(0, max(len(items), 1), MOST_COLUMNS)]


def _spread(estimates: Sequence[Mapping[str, Any]]) -> str:
    """The mean over seeds, the least and the greatest."""
    known = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.3g} ({min(known):.3g} to {max(known):.3g})"


def _clean_values(cell: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {
        (entry["metric"], name): estimate
        for entry in cell.get("metrics", [])
        if entry["attack"] is None
        for name, estimate in entry.get("values", {}).items()
        if not name.partition("/")[0].endswith("-micro")  # the same, weighed otherwise: result.json has both
    }


def _print_correlations(console: Console, result: Mapping[str, Any]) -> None:
    """One table per level and kind of robustness: predictors by cells."""
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for entry in result.get("correlations", []):
        cell = "all models"
        if "model" in entry:
            cell = "\n".join(_named(result, entry)[name] for name in ("model", "training"))
        predictors = found.setdefault((entry["level"], entry["robustness"]), {})
        predictors.setdefault((entry["metric"] or "", entry["predictor"]), {})[cell] = entry
    for (level, robustness), predictors in found.items():
        beyond = "; beyond what the margin tells" if level == "clip" else ""
        title = f"rank correlation with robustness against {robustness}, over {_PLURALS[level]}{beyond}"
        console.print(title)  # a table's own title is broken at the table's width
        table = Table("metric", "predictor")
        cells = dict.fromkeys(cell for entries in predictors.values() for cell in entries)
        shown = list(cells) if len(cells) < MOST_COLUMNS else []  # result.json has all of them
        for heading in shown:
            table.add_column(heading, justify="right")
        if len(cells) > 1:
            table.add_column("mean of cells\n(intervals above 0, below 0, all)", justify="right")
        for (metric, predictor), entries in predictors.items():
            known = [entry for entry in entries.values() if entry["value"] is not None]
            if known:
                mean = [_over_cells(known)] if len(cells) > 1 else []
                table.add_row(metric, predictor, *(_correlation(entries.get(cell)) for cell in shown), *mean)
        console.print(table)


def _over_cells(entries: Sequence[Mapping[str, Any]]) -> str:
    """The mean of a correlation over cells, and in how many its interval leaves 0 out; beyond the margin likewise."""
    beyond = [entry["beyond_margin"] for entry in entries if entry.get("beyond_margin", {}).get("value") is not None]
    return "; ".join(
        f"{sum(entry['value'] for entry in found) / len(found):.2f} "
        f"({sum(entry['low'] > 0 for entry in found)}, {sum(entry['high'] < 0 for entry in found)}, {len(found)})"
        for found in (entries, beyond)
        if found
    )


_PLURALS = {"clip": "clips", "class": "classes", "model": "models"}


def _correlation(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    beyond = entry.get("beyond_margin")
    return _number(entry) + (f"; {_number(beyond)}" if beyond is not None else "")


def _number(estimate: Mapping[str, Any]) -> str:
    value, low, high = ("-" if estimate[key] is None else f"{estimate[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _named(result: Mapping[str, Any], cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """A cell whose regime names the seed, too, where there are several."""
    if not result.get("pooled"):
        return cell
    return {**cell, "training": f"{cell['training']}, seed {cell['seed']}"}


def _over_seeds(result: Mapping[str, Any]) -> str:
    return f", mean over {len(result['seed'])} seeds" if result.get("pooled") else ""


def _entries(cell: Mapping[str, Any], section: str) -> Iterator[tuple[str, str, Any]]:
    for attack, threats in cell.get(section, {}).items():
        for threat, entry in threats.items():
            yield attack, threat, entry


def _size(estimate: Mapping[str, Any]) -> str:
    ends = (estimate[key] for key in ("value", "low", "high"))
    value, low, high = ("beyond" if end is None else f"{end:.3f}" for end in ends)
    return f"{value} [{low}, {high}]"


def _columns(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for cell in cells:
        for attack, threats in cell.get("robust_accuracy", {}).items():
            found.update(dict.fromkeys((attack, threat) for threat in threats))
    worst = {threat for cell in cells for threat in cell.get("worst_case", {})}
    if len({attack for attack, _ in found}) > 1:
        found.update(dict.fromkeys(("worst case", threat) for _, threat in list(found) if threat in worst))
    return list(found)


def _robust(cell: Mapping[str, Any], attack: str, threat: str) -> str:
    if attack == "worst case":
        estimate = cell.get("worst_case", {}).get(threat)
    else:
        estimate = cell.get("robust_accuracy", {}).get(attack, {}).get(threat)
    if estimate is None:
        return "-"
    mark = "= " if estimate.get("attacked") == [] else "" if estimate.get("bounded", True) else "! "
    return _mark(cell, attack, threat) + mark + _percent(estimate)


def _percent(estimate: Mapping[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def _confidence(result: Mapping[str, Any]) -> str:
    return f"[{100 * result['confidence']:g} % interval over clips]"
