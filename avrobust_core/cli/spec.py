"""The commands that look at a spec and run nothing: validate, explain, schema."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core.cli.layout import say, table, wrapped
from avrobust_core.cli.options import add_spec_arguments, installed, loaded_spec
from avrobust_core.plain_text import shortened

if TYPE_CHECKING:
    from avrobust_core.spec.explaining import Explanation
    from avrobust_core.spec.loading import LoadedSpec

_LONGEST = 48


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `validate`, `explain` and `schema`."""
    validate = commands.add_parser("validate", help="check a spec and report every mistake")
    add_spec_arguments(validate)
    validate.set_defaults(run=_validate)
    explain = commands.add_parser("explain", help="say what a value of a spec is, where it comes from, what it may be")
    add_spec_arguments(explain)
    explain.add_argument(
        "path", metavar="PATH", nargs="?", default="", help="as in training.standard.epochs; default: the whole spec"
    )
    explain.set_defaults(run=_explain)
    schema = commands.add_parser("schema", help="write the JSON Schema of a spec for what is installed, for editors")
    schema.add_argument("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
    schema.set_defaults(run=_schema)


def _validate(options: argparse.Namespace) -> int:
    loaded, _ = loaded_spec(options)
    say(f"{options.spec}: OK, {_counts(loaded)}")
    if unused := _unused_threats(loaded):
        say(f"    no attack is run under {', '.join(unused)}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from avrobust_core.spec.explaining import explain

    loaded, registry = loaded_spec(options)
    say("\n".join(_explained(explain(loaded, options.path, registry))))
    return 0


def _schema(options: argparse.Namespace) -> int:
    from avrobust_core.files import write_text
    from avrobust_core.spec.json_schema import spec_schema

    text = json.dumps(spec_schema(installed(options)), indent=2) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_text(options.out, text)
    return 0


def _counts(loaded: "LoadedSpec") -> str:
    from avrobust_core.spec.cells import attacked_modalities, expand

    cells = expand(loaded.spec)
    runs = sum(
        attacked_modalities(loaded.spec, cell, plan.threat) is not None for cell in cells for plan in cell.attacks
    )
    return f"{_number(len(cells), 'cell')}, {_number(runs, 'attack run')}"


def _unused_threats(loaded: "LoadedSpec") -> list[str]:
    """The threats that no attack lists: nothing is wrong with them, but they may have been forgotten."""
    attacks = loaded.spec.attacks.values()
    if not attacks or any(attack.threats is None for attack in attacks):
        return []
    used = {name for attack in attacks for name in attack.threats or ()}
    return [name for name in loaded.spec.threats if name not in used]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _explained(explanation: "Explanation") -> list[str]:
    from avrobust_core.spec.explaining import as_json
    from avrobust_core.spec.nodes import dotted

    width = shutil.get_terminal_size((100, 24)).columns
    name = dotted(explanation.path) or "the spec"
    lines = [name if explanation.children else f"{name} = {as_json(explanation.value)}"]
    for label, text in explanation.facts.items():
        lines += wrapped(text, width, indent=11, first=f"  {label:<9}")
    if explanation.description:
        lines += wrapped(explanation.description, width, indent=2)
    if explanation.children:
        rows = [(f"  {key}", shortened(as_json(item), _LONGEST), where) for key, item, where in explanation.children]
        lines += ["", *table(rows)]
    return lines
