"""What a run shows a person: progress on stderr, the table of results on stdout."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 160


class Monitor:
    """Progress of a run on stderr: a bar in a terminal, one line per finished step elsewhere, nothing when silent."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(stderr=True, quiet=silent, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def task(self, label: str) -> Iterator[None]:
        """Show a step while it lasts; `update` moves its bar."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task(label, total=None)
            try:
                yield
            finally:
                self._progress = self._task = None

    def update(self, done: int, total: int) -> None:
        """Set the bar of the step that is shown."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, soft_wrap=True)


def print_tables(result: Mapping[str, Any]) -> None:
    """Print a run's results: accuracies, and where there are any, curves, smallest perturbations and fronts."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    _print_accuracies(console, result)
    cells = [cell for cell in result["cells"] if "error" not in cell]
    _print_curves(console, cells)
    _print_sizes(console, cells)
    _print_fronts(console, cells)
    _print_metrics(console, cells)
    _print_correlations(console, result)


def _print_accuracies(console: Console, result: Mapping[str, Any]) -> None:
    cells: Sequence[Mapping[str, Any]] = result["cells"]
    columns = _columns(cells)
    table = Table(title=f"{result['name']}: accuracy in %, {_confidence(result)}", title_justify="left")
    table.add_column("model")
    table.add_column("training")
    table.add_column("clean", justify="right")
    for attack, threat in columns:
        table.add_column(f"{attack}\n{threat}", justify="right")
    for cell in cells:
        if "error" in cell:
            table.add_row(cell["model"], cell["training"], f"failed: {cell['error']['message']}", style="red")
            continue
        accuracies = [_robust(cell, attack, threat) for attack, threat in columns]
        table.add_row(cell["model"], cell["training"], _percent(cell["clean_accuracy"]), *accuracies)
    console.print(table)
    if any(_robust(cell, *column).startswith("=") for cell in cells for column in columns):
        console.print("= the threat touches nothing that this model reads: its clean accuracy stands")
    if any(_robust(cell, *column).startswith("!") for cell in cells for column in columns):
        console.print("! the attack takes no notice of the threat's radius")


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
        by_factor = {point["factor"]: f"{100 * point['value']:.1f}" for point in curve}
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
        table.add_row(cell["model"], cell["training"], attack, threat, _size(size))
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
            table.add_row(cell["model"], cell["training"], attack, threat, direction, budgets)
    console.print(table)


def _print_metrics(console: Console, cells: Sequence[Mapping[str, Any]]) -> None:
    """Metrics on clean clips; those under attack are in result.json."""
    columns = {f"{cell['model']}\n{cell['training']}": _clean_values(cell) for cell in cells}
    rows = dict.fromkeys(key for values in columns.values() for key in values)
    if not rows:
        return
    table = Table("metric", "", title="metrics on clean clips", title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="right")
    for metric, name in rows:
        found = [values.get((metric, name)) for values in columns.values()]
        table.add_row(metric, name, *("-" if estimate is None else _number(estimate) for estimate in found))
    console.print(table)


def _clean_values(cell: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {
        (entry["metric"], name): estimate
        for entry in cell.get("metrics", [])
        if entry["attack"] is None
        for name, estimate in entry.get("values", {}).items()
    }


def _print_correlations(console: Console, result: Mapping[str, Any]) -> None:
    """One table per level and kind of robustness: predictors by cells."""
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for entry in result.get("correlations", []):
        cell = f"{entry['model']}\n{entry['training']}" if "model" in entry else "all models"
        predictors = found.setdefault((entry["level"], entry["robustness"]), {})
        predictors.setdefault((entry["metric"] or "", entry["predictor"]), {})[cell] = entry
    for (level, robustness), predictors in found.items():
        beyond = "; beyond what the margin tells" if level == "clip" else ""
        title = f"rank correlation with robustness against {robustness}, over {_PLURALS[level]}{beyond}"
        console.print(title)  # a table's own title is broken at the table's width
        table = Table("metric", "predictor")
        cells = dict.fromkeys(cell for entries in predictors.values() for cell in entries)
        for heading in cells:
            table.add_column(heading, justify="right")
        for (metric, predictor), entries in predictors.items():
            table.add_row(metric, predictor, *(_correlation(entries.get(cell)) for cell in cells))
        console.print(table)


_PLURALS = {"clip": "clips", "class": "classes", "model": "models"}


def _correlation(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    beyond = entry.get("beyond_margin")
    return _number(entry) + (f"; {_number(beyond)}" if beyond is not None else "")


def _number(estimate: Mapping[str, Any]) -> str:
    value, low, high = ("-" if estimate[key] is None else f"{estimate[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


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
    return mark + _percent(estimate)


def _percent(estimate: Mapping[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def _confidence(result: Mapping[str, Any]) -> str:
    return f"[{100 * result['confidence']:g} % interval over clips]"
