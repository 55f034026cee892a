"""The first section: what was studied, the headline numbers, and what speaks against them."""

from collections.abc import Iterator, Mapping
from typing import Any

from avrobust_core.audit.saying import verdict_lines
from avrobust_core.evaluation.wording import interval, of_method, over_seeds
from avrobust_core.naming import first_of
from avrobust_core.report.conditions import WORST, cell_label, conditions_of
from avrobust_core.report.html.charts import rows_charts
from avrobust_core.report.html.numbers import accuracy, condition_name, estimate_of, fits_of, headline_conditions, point
from avrobust_core.report.html.questions import answers
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Charts, Column, Facts, Items, Part, Section, Table, Text, Value

MOST_ROWS = 12
"""The most rows of the first chart."""


def summary(run: Run) -> Section:
    """What was studied, what came out, and what speaks against it."""
    parts: list[Part] = [Text(_lead(run))]
    warnings = list(_warnings(run))
    if warnings:
        parts.append(Items(warnings, "doubt"))
    found = answers(run)
    if found:
        parts.append(Items(found))
    if run.together:
        parts += [_headline(run), _chart(run)]
    parts.append(Facts(_studied(run)))
    return Section("summary", "Summary", parts)


def _lead(run: Run) -> str:
    """How much was studied, in a sentence."""
    cells = run.result["cells"]
    if not run.cells:
        return "No cell has a result yet."
    counts = [len({cell[name] for cell in cells}) for name in ("model", "training", "seed")]
    parts = [f"{counts[0]} model{'s' * (counts[0] > 1)}", f"{counts[1]} training regime{'s' * (counts[1] > 1)}"]
    if counts[2] > 1:
        parts.append(f"{counts[2]} seeds")
    attacked = sorted({cell["clips"] for cell in run.cells})
    attacks = len({condition for cell in run.cells for condition in conditions_of([cell]) if condition[0] != WORST})
    clips = " or ".join(map(str, attacked))
    return f"{', '.join(parts)}: {len(cells)} cells, each measured on {clips} clips, clean and under {attacks} attacks."


def _headline(run: Run) -> Table:
    cells, result = run.together, run.result
    columns = headline_conditions(cells)
    estimates = [cell["clean_accuracy"] for cell in cells]
    brackets = interval(result, estimates, methods=False)
    note = f"Accuracy in %{over_seeds(result)}, {brackets}."
    if any(map(of_method, estimates)):
        note += " Below it the interval over fits: what the method would do, trained anew."
    rows = [
        [
            Value(cell["model"]),
            Value(cell["training"]),
            *(accuracy(run, cell, condition) for condition in columns),
            _verdict(run, cell),
        ]
        for cell in cells
    ]
    numbers = [Column(condition_name(condition), number=True) for condition in columns]
    headings = [Column("model"), Column("training"), *numbers, Column("audit")]
    return Table("Accuracy, clean and under attack", headings, rows, note)


def _verdict(run: Run, cell: Mapping[str, Any]) -> Value:
    """The audit's verdict over all seeds, the worst first; its lines beside it where it did not pass."""
    audits = [fit["audit"] for fit in fits_of(run, cell) if "audit" in fit]
    if not audits:
        return Value("-")
    verdicts = [audit["verdict"] for audit in audits]
    worst = next((name for name in ("failed", "not done", "off") if name in verdicts), "passed")
    if worst == "passed":
        return Value("passed", tone="good")
    lines = [line for audit in audits if audit["verdict"] == worst for line in verdict_lines(audit)]
    count = f" ({verdicts.count(worst)} of {len(verdicts)} seeds)" if len(verdicts) > 1 else ""
    return Value(
        f"{worst}{count}",
        notes=tuple(f"why: {line}" for line in dict.fromkeys(lines)),
        tone="bad" if worst == "failed" else "doubt",
    )


def _chart(run: Run) -> Charts:
    cells = run.together[:MOST_ROWS]
    columns = headline_conditions(run.together)[:8]
    rows = []
    for cell in cells:
        found = [point(estimate_of(cell, column), _label(run, cell, column)) for column in columns]
        rows.append((cell_label(cell), found))
    about = (
        "Accuracy of each model and training, clean and under attack, with intervals; the table above has the numbers."
    )
    left = len(run.together) - len(cells)
    note = f"The first {len(cells)}; the table has the other {left}, too." if left > 0 else ""
    return Charts(
        rows_charts("Accuracy", about, rows, "accuracy in %", (0, 100)),
        [condition_name(column) for column in columns],
        note,
    )


def _label(run: Run, cell: Mapping[str, Any], column: tuple[str, str]) -> str:
    return f"{cell_label(cell)}, {condition_name(column)}: {accuracy(run, cell, column).text} %"


def _warnings(run: Run) -> Iterator[str]:
    """What a reader must know before any number, the gravest first."""
    result = run.result
    yield from run.missing
    total = len(result["cells"])
    against = [cell_label(cell) for cell in run.cells if cell.get("audit", {}).get("contradictions")]
    if against:
        yield (
            f"{len(against)} of {total} cells have a robust accuracy that the audit contradicts: "
            f"{first_of(dict.fromkeys(against))}."
        )
    for cell in result["cells"]:
        if "error" in cell:
            yield f"{cell_label(cell)}, seed {cell['seed']}, failed: {cell['error']['message']}"
    partly = [cell_label(cell) for cell in run.cells if cell.get("failures")]
    if partly:
        yield f"{len(partly)} of {total} cells failed in part: {first_of(dict.fromkeys(partly))}; see Failures."
    for problem in result.get("problems", []):
        yield f"{problem['step']} failed: {problem['message']}"
    otherwise = sum(bool(cell.get("made_otherwise")) for cell in run.cells)
    if otherwise:
        yield f"{otherwise} of {total} cells rest on what was made with other versions; see Provenance."
    for kind, words in _CLIPS.items():
        for split, clips in result.get(kind, {}).items():
            yield f"{len(clips)} clips of the split {split} {words}: {first_of(clips)}."
    yield from result.get("notes", [])


_CLIPS = {
    "skipped": "could not be read",
    "constant": "are without content",
    "padded": "are shorter than what was asked for, and padded",
}
"""What result.json names clips for, and its words."""


def _studied(run: Run) -> dict[str, str]:
    """What was studied, from the resolved spec; what the cells tell without it."""
    settings, cells = run.settings, run.result["cells"]
    facts: dict[str, str] = {}
    data = settings.get("data")
    if isinstance(data, dict):
        facts["Data"] = _bare(_use(data))
    said = run.result.get("data", {}).get("summary")
    if said is not None:
        facts["Data"] = f"{facts.get('Data', '')}: {said}".removeprefix(": ")
    clips = sorted({cell["clips"] for cell in run.cells if "clips" in cell})
    if clips:
        split = _map(settings, "evaluation").get("split", "")
        facts["Clips attacked"] = f"{' or '.join(map(str, clips))}{f' of the split {split}' if split else ''}"
    models, regimes = _map(settings, "models"), _map(settings, "training")
    used = [list(dict.fromkeys(cell[name] for cell in cells)) for name in ("model", "training")]
    facts["Models"] = "; ".join(_model(name, models.get(name)) for name in used[0])
    facts["Training"] = "; ".join(_regime(name, regimes.get(name)) for name in used[1])
    facts["Seeds"] = ", ".join(map(str, dict.fromkeys(cell["seed"] for cell in cells)))
    threats, attacks = _map(settings, "threats"), _map(settings, "attacks")
    facts["Threats"] = "; ".join(_threat(name, entry) for name, entry in threats.items())
    facts["Attacks"] = "; ".join(_attack(name, entry) for name, entry in attacks.items())
    metrics = settings.get("metrics")
    if isinstance(metrics, list):
        facts["Metrics"] = ", ".join(_bare(_use(entry)) for entry in metrics)
    return {name: text for name, text in facts.items() if text}


def _map(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _use(entry: Any) -> str:
    return str(entry.get("use", "?")) if isinstance(entry, dict) else str(entry)


def _bare(component: str) -> str:
    """A component's name without that of its distribution, if that is ours."""
    return component.removeprefix("avrobust:")


def _model(name: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        return name
    parts = [" + ".join(map(str, entry.get("encoders") or []))]
    if entry.get("fusion") is not None:
        parts.append(f"fusion {_bare(_use(entry['fusion']))}")
    return f"{name} ({', '.join(filter(None, parts))})"


def _regime(name: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        return name
    parts = [f"{entry.get('epochs', '?')} epochs"]
    parts += [_bare(_use(augment)) for augment in entry.get("augment") or []]
    return f"{name} ({', '.join(parts)})"


def _threat(name: str, entry: Any) -> str:
    budgets = []
    for modality, budget in entry.items() if isinstance(entry, dict) else ():
        if isinstance(budget, dict):
            budgets.append(f"{modality} {budget.get('norm', '')} {_radius(budget.get('eps'))}".strip())
    return f"{name} ({', '.join(budgets)})" if budgets else name


def _radius(eps: Any) -> str:
    if isinstance(eps, float):
        as_levels = eps * 255
        whole = abs(as_levels - round(as_levels)) < 1e-9 and round(as_levels) >= 1
        return f"{round(as_levels)}/255" if whole else f"{eps:g}"
    return ", ".join(f"{name} {value}" for name, value in eps.items()) if isinstance(eps, dict) else str(eps)


def _attack(name: str, entry: Any) -> str:
    use = _bare(_use(entry))
    given = entry.get("with") if isinstance(entry, dict) else None
    steps = f", {given['steps']} steps" if isinstance(given, dict) and isinstance(given.get("steps"), int) else ""
    return f"{name} ({use}{steps})" if use != name or steps else name
