"""The commands that carry out a spec, or list the work that is left: run, plan."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avrobust_core.cli import cost
from avrobust_core.cli.layout import complain, say
from avrobust_core.cli.options import add_spec_arguments, loaded_spec
from avrobust_core.cli.output import is_first_process, print_json
from avrobust_core.cli.report import REPORT, report_of_ended
from avrobust_core.plain_text import plain_text

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Registry
    from avrobust_core.spec.loading import LoadedSpec

CONTRADICTED = 3
"""The exit status of a run whose audit contradicts a robust accuracy by more than its interval."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` and `plan`."""
    run = commands.add_parser("run", help="carry out a spec; resumes and reuses by itself")
    _add_study_arguments(run)
    run.add_argument("--json", action="store_true", help="print one JSON object, and the tables to standard error")
    run.add_argument("--no-report", action="store_true", help=f"do not write {REPORT} into the run's folder")
    run.add_argument(
        "--cell",
        metavar="ID",
        help="carry out this cell alone, beside others that do so: for jobs that you send yourself",
    )
    run.add_argument("--quiet", action="store_true", help="show no progress; with --json, no tables")
    run.set_defaults(run=_run, resumes=True, several=True)
    plan = commands.add_parser("plan", help="show the cells, what is done, and why the rest is not")
    _add_study_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as one JSON object")
    cost.add_arguments(plan)
    plan.set_defaults(run=_plan)


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    add_spec_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/<name>)")


def _run(options: argparse.Namespace) -> int:
    loaded, registry = loaded_spec(options)
    if options.cell is not None:
        return _run_cell(options, loaded, registry)
    from avrobust_core.report.tables import print_tables
    from avrobust_core.study.runner import carry_out

    result = carry_out(loaded, registry, out=options.out, silent=options.quiet)
    unreported = False
    if is_first_process():
        silent = options.json and options.quiet
        if not silent:
            print_tables(result)
            for line in _closing_lines(result):
                say(plain_text(line))
        report = None if options.no_report else report_of_ended(Path(result["run"]), registry, silent=silent)
        unreported = report is None and not options.no_report
        if options.json:
            print_json(result | {"report": None if report is None else str(report)})
    return _status(result, failed=unreported)


def _status(result: Mapping[str, Any], *, failed: bool = False) -> int:
    if result["failed"] or result["problems"] or failed:
        return 1
    return CONTRADICTED if result["contradicted"] else 0


def _run_cell(options: argparse.Namespace, loaded: "LoadedSpec", registry: "Registry") -> int:
    from avrobust_core.study.runner import carry_out_cell

    result = carry_out_cell(loaded, registry, options.cell, out=options.out, silent=options.quiet)
    if is_first_process():
        if not (options.json and options.quiet):
            how = "failed" if result["failed"] else "was there already" if result["reused"] else "is done"
            say(
                plain_text(
                    f"cell {options.cell} {how} in {result['run']}; without --cell the command puts all together"
                )
            )
        if options.json:
            print_json(result)
    return _status(result)


def _as_published(cell: dict[str, Any]) -> str | None:
    """The clean value of a published network that was not trained further, beside the published one."""
    published = cell.get("fit", {}).get("published")
    if published is None:
        return None
    name = published["metric"]
    if name == "accuracy":
        found = cell["clean_accuracy"]
    else:
        clean = [entry["values"] for entry in cell["metrics"] if entry["attack"] is None]
        found = next((values[name] for values in clean if name in values), None)
    here = f"not measured: ask for `metrics: [{name}]`" if found is None else f"{100 * found['value']:.1f} %"
    return (
        f"{cell['model']}/{cell['training']} as published: clean {name} here {here}; published "
        f"{100 * published['value']:.1f} % on {published['on']}"
    )


def _closing_lines(result: dict[str, Any]) -> list[str]:
    from avrobust_core.naming import first_of

    total = len(result["cells"])
    lines = [f"{result['reused']} of {total} cells reused; results in {result['run']}"]
    if "summary" in result["data"]:
        lines.append(f"data: {result['data']['summary']}")
    for split, clips in result["skipped"].items():
        lines.append(f"skipped {len(clips)} unreadable clip(s) of split {split!r}: {_some_clips(clips)}")
    for split, clips in result["constant"].items():
        lines.append(f"read {len(clips)} clip(s) of split {split!r} without content: {_some_clips(clips)}")
    for split, clips in result["padded"].items():
        lines.append(f"read {len(clips)} clip(s) of split {split!r} that are shorter, and padded: {_some_clips(clips)}")
    lines += [f"note: {note}" for note in result["notes"]]
    lines += filter(None, map(_as_published, result["cells"]))
    otherwise = [cell for cell in result["cells"] if cell.get("made_otherwise")]
    if otherwise:
        entries = [entry for cell in otherwise for entry in cell["made_otherwise"]]
        differences = list(dict.fromkeys(difference for entry in entries for difference in entry["differences"]))
        lines.append(
            f"{len(otherwise)} of {total} cells rest on what was made with other versions: "
            f"{first_of(differences, '; ')}; lock.json says which"
        )
    if result["contradicted"]:
        lines.append(
            f"{result['contradicted']} of {total} cells have a robust accuracy that the audit contradicts: see above, "
            "and docs/audit.md"
        )
    whole = sum("error" in cell for cell in result["cells"])
    if whole:
        lines.append(f"{whole} of {total} cells failed; each cell's error.json has the traceback")
    if result["failed"] > whole:
        lines.append(
            f"{result['failed'] - whole} of {total} cells failed in part: what failed is named above; the "
            "`failures` in result.json have the tracebacks"
        )
    lines += [f"failed: {problem['step']}: {problem['message']}" for problem in result["problems"]]
    return lines


def _some_clips(clips: Mapping[str, str]) -> str:
    from avrobust_core.naming import SHOWN, first_of

    shown = first_of((f"{name} ({reason})" for name, reason in clips.items()), "; ")
    return shown + (", all named in result.json" if len(clips) > SHOWN else "")


def _plan(options: argparse.Namespace) -> int:
    cost.refuse_numbers(options)
    loaded, registry = loaded_spec(options)
    from avrobust_core.notes import collected
    from avrobust_core.study.building import Builder
    from avrobust_core.study.plan import plan, why_stale

    builder = Builder(loaded.spec, registry)
    root = options.out if options.out is not None else Path("runs") / loaded.spec.name
    with collected(lambda note: complain(f"note: {note}")):
        dataset = builder.dataset()
        cells = plan(builder, dataset, root)
        costs = {"cost": cost.foretold(options, builder, dataset, cells)} if options.cost else {}
    rows = [
        {
            "id": cell.id,
            "model": cell.model,
            "training": cell.training,
            "seed": cell.seed,
            "state": "done" if cell.done else "fitted" if cell.fitted else "to fit",
            "why": None if cell.fitted else why_stale(cell, root),
            "evaluations": {evaluation.label: evaluation.done for evaluation in cell.evaluations},
        }
        for cell in cells
    ]
    jobs = loaded.spec.engine.cells
    if options.json:
        where = None if jobs is None else jobs.where
        print_json({"run": str(root), "where": where, "cells": rows} | costs)
        return 0
    if options.cost:
        return 0
    for cell, row in zip(cells, rows, strict=True):
        why = "" if row["why"] is None else f": {row['why']}"
        say(f"{row['id']}  {cell.label}: {row['state']}{why}")
        to_do = f"; to do: {', '.join(e.label for e in cell.pending)}" if cell.pending else ""
        say(f"    {len(cell.evaluations) - len(cell.pending)} of {len(cell.evaluations)} evaluations done{to_do}")
    say(f"{sum(cell.done for cell in cells)} of {len(cells)} cells done in {root}")
    if jobs is not None:
        at_once = "" if jobs.at_once is None else f", at most {jobs.at_once} at one time"
        say(f"cells of which something is to do go to jobs ({jobs.where}), one each{at_once}")
    return 0
