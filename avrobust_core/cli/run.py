"""The commands that carry out a spec, or say what there is to do: run, plan."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avrobust_core.naming import SHOWN, first_of

if TYPE_CHECKING:
    from avrobust_core.registry import Registry
    from avrobust_core.spec.loading import LoadedSpec

CONTRADICTED = 3
"""The exit status of a run whose audit contradicts a robust accuracy by more than its interval."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` and `plan`."""
    run = commands.add_parser("run", help="carry out a spec; resumes and reuses by itself")
    _add_spec_arguments(run)
    run.add_argument("--json", action="store_true", help="print one JSON object as the last line: run, cells, reused")
    run.add_argument("--quiet", action="store_true", help="show no progress")
    run.set_defaults(run=_run, resumes=True)
    plan = commands.add_parser("plan", help="show the cells, what is done, and why the rest is not")
    _add_spec_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as one JSON object")
    plan.set_defaults(run=_plan)


def _add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="the study's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the spec")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/<name>)")


def _load(options: argparse.Namespace) -> "tuple[LoadedSpec, Registry] | None":
    from avrobust_core.cli.layout import complain
    from avrobust_core.registry import Registry
    from avrobust_core.spec.loading import load_spec
    from avrobust_core.spec.problems import SpecError

    registry = Registry.discover(disabled=options.no_plugin or ())
    try:
        return load_spec(options.spec, registry, options.set), registry
    except SpecError as error:
        complain(error)
        return None


def _run(options: argparse.Namespace) -> int:
    found = _load(options)
    if found is None:
        return 2
    loaded, registry = found
    from avrobust_core.cli.layout import say
    from avrobust_core.plain_text import plain_text
    from avrobust_core.study.runner import carry_out
    from avrobust_core.study.tables import print_tables

    result = carry_out(loaded, registry, out=options.out, silent=options.quiet)
    if _is_first_process():
        print_tables(result)
        for line in _closing_lines(result):
            say(plain_text(line))
        if options.json:
            print(json.dumps(result))
    if result["failed"] or result["problems"]:
        return 1
    return CONTRADICTED if result["contradicted"] else 0


def _is_first_process() -> bool:
    import os

    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _closing_lines(result: dict[str, Any]) -> list[str]:
    total = len(result["cells"])
    lines = [f"{result['reused']} of {total} cells reused; results in {result['run']}"]
    for split, clips in result["skipped"].items():
        lines.append(f"skipped {len(clips)} unreadable clip(s) of split {split!r}: {_some_clips(clips)}")
    for split, clips in result["constant"].items():
        lines.append(f"read {len(clips)} clip(s) of split {split!r} without content: {_some_clips(clips)}")
    lines += [f"note: {note}" for note in result["notes"]]
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
    shown = first_of((f"{name} ({reason})" for name, reason in clips.items()), "; ")
    return shown + (", all named in result.json" if len(clips) > SHOWN else "")


def _plan(options: argparse.Namespace) -> int:
    found = _load(options)
    if found is None:
        return 2
    loaded, registry = found
    from avrobust_core.cli.layout import complain, say
    from avrobust_core.notes import collected
    from avrobust_core.study.building import Builder
    from avrobust_core.study.plan import plan, why_stale

    builder = Builder(loaded.spec, registry)
    root = options.out if options.out is not None else Path("runs") / loaded.spec.name
    with collected(lambda note: complain(f"note: {note}")):
        cells = plan(builder, builder.dataset(), root)
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
    if options.json:
        print(json.dumps({"run": str(root), "cells": rows}))
        return 0
    for cell, row in zip(cells, rows, strict=True):
        say(f"{row['id']}  {cell.label}: {_state(cell.fitted, cell.done, row['why'])}")
        to_do = f"; to do: {', '.join(e.label for e in cell.pending)}" if cell.pending else ""
        say(f"    {len(cell.evaluations) - len(cell.pending)} of {len(cell.evaluations)} evaluations done{to_do}")
    say(f"{sum(cell.done for cell in cells)} of {len(cells)} cells done in {root}")
    return 0


def _state(fitted: bool, done: bool, why: object) -> str:
    if done:
        return "done"
    return "fitted" if fitted else f"to fit: {why}"
