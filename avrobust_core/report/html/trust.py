"""Why the numbers can be trusted or not: the audit, failures, provenance, and the command that makes the run again."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from avrobust_core.audit.saying import verdict_lines
from avrobust_core.caveats import describe
from avrobust_core.evaluation.failures import failure_label
from avrobust_core.report.conditions import cell_label
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Code, Facts, Fold, Items, Part, Section, Value, table

_TONES = {"passed": "good", "failed": "bad", "not done": "doubt", "off": "doubt"}
STATUSES = ("passed", "failed", "not applicable")


def audit(run: Run) -> Section:
    """Each cell's verdict, its checks, and all that speaks against its numbers."""
    cells = [run.named(cell) for cell in run.cells if "audit" in cell]
    if not cells:
        return Section("audit", "")
    caveats = [f"{cell_label(cell)}: {describe(each)}" for cell in cells for each in cell.get("caveats", [])]
    parts: list[Part] = []
    if caveats:
        parts.append(Items(caveats, "doubt"))
    counts, failed = [], []
    for cell in cells:
        by_check: dict[str, Counter[str]] = {}
        for check in cell["audit"].get("checks", []):
            by_check.setdefault(check["check"], Counter())[check["status"]] += 1
            if check["status"] == "failed":
                where = (check["attack"] or "-", check["threat"] or "-", check["modality"] or "-")
                failed.append([*map(Value, (cell_label(cell), check["check"], *where, check["message"]))])
        for name, found in by_check.items():
            tone = "bad" if found["failed"] else ""
            values = [
                Value(str(found[status]), found[status], tone=tone if status == "failed" else "") for status in STATUSES
            ]
            counts.append([Value(cell_label(cell)), Value(name), *values])
    if failed:
        left = ("cell", "check", "attack", "threat", "modality", "what was found")
        parts.append(table("Checks that failed", left, (), failed))
    rows = [
        [
            Value(cell_label(cell)),
            Value(cell["audit"]["verdict"], tone=_TONES.get(cell["audit"]["verdict"], "")),
            Value(" ".join(verdict_lines(cell["audit"]))),
        ]
        for cell in cells
    ]
    parts.append(table("Verdicts", ("cell", "verdict", "in a line"), (), rows))
    if counts:
        parts.append(Fold("Check by check", [table("Checks of the audit", ("cell", "check"), STATUSES, counts)]))
    return Section("audit", "Can the numbers be believed?", parts)


def failures(run: Run) -> Section:
    """What failed, with tracebacks."""
    parts: list[Part] = []
    told = [("", problem["step"], problem) for problem in run.result.get("problems", [])]
    for cell in run.result["cells"]:
        label = f"{cell_label(cell)}, seed {cell['seed']}"
        if "error" in cell:
            told.append((label, "the whole cell", cell["error"]))
        told += [(label, failure_label(failure), failure) for failure in cell.get("failures", [])]
    for label, step, failure in told:
        title = f"{label}{': ' if label else ''}{step}: {failure['message']}"
        parts.append(Fold(title, [Code(str(failure.get("traceback", "")), f"Traceback of {step}")]))
    return Section("failures", "Failures", parts)


def provenance(run: Run) -> Section:
    """Versions, plugins, data; and what was made with others."""
    lock = run.lock
    git = lock.get("git")
    facts = {name: str(lock[key]) for name, key in _LOCKED.items() if key in lock}
    if isinstance(git, dict):
        facts["Git commit"] = f"{git.get('commit')}{' with changes' if git.get('changed') else ''}"
    libraries = _map(lock, "libraries")
    if libraries:
        facts["Libraries"] = ", ".join(f"{name} {version}" for name, version in libraries.items())
    plugins = _map(lock, "plugins")
    if plugins:
        facts["Plugins"] = ", ".join(f"{name} {each['version']} ({each['status']})" for name, each in plugins.items())
    parts: list[Part] = [Facts(facts)] if facts else []
    rows = [
        [
            Value(str(cell.get("id", "-"))),
            *map(Value, (cell["model"], cell["training"])),
            Value(str(cell["seed"])),
            Value("failed" if "error" in cell else "done"),
            Value("; ".join(_differences(cell)) or "-"),
        ]
        for cell in run.result["cells"]
    ]
    if rows:
        parts.append(table("Cells", ("id", "model", "training", "seed", "state", "made with other versions"), (), rows))
    data = run.result.get("data") or {}
    if data:
        parts.append(Fold("The clips: what the data set says of itself, and hashes of the ids", [Facts(_flat(data))]))
    return Section("provenance", "Provenance", parts)


def again(run: Run) -> Section:
    """The command, and the specs."""
    parts: list[Part] = []
    if run.resolved:
        name = shlex.quote(str(run.result["name"]))
        command = f"avrobust run resolved.yaml --out runs/{name}"
        parts.append(Code(command, "The command that makes this run again, from the resolved spec below"))
    if run.spec:
        parts.append(Fold("spec.yaml: what was asked", [Code(run.spec, "spec.yaml")]))
    if run.resolved:
        parts.append(
            Fold("resolved.yaml: what it meant, every default spelled out", [Code(run.resolved, "resolved.yaml")])
        )
    return Section("again", "Make it again", parts)


_LOCKED = {
    "avrobust": "avrobust",
    "Python": "python",
    "Platform": "platform",
    "Device": "device",
    "Processes": "processes",
    "Fingerprint of the data": "data",
}


def _map(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _differences(cell: Mapping[str, Any]) -> Iterator[str]:
    for entry in cell.get("made_otherwise", []):
        yield from entry["differences"]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested names with dots."""
    found: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found
