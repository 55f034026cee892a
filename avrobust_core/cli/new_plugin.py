"""The command `avrobust new-plugin`: write a complete distribution with a component that works, to be changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from avrobust_core.cli.layout import say
from avrobust_core.cli.options import UsageError, installed


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets `run`, a function from the parsed arguments to the exit status."""
    parser = commands.add_parser(
        "new-plugin",
        help="write a plugin of your own: a distribution with a component that works, to be changed",
        description=(
            "Write a complete distribution into the folder DIR/NAME: a plugin with one small component that works, "
            "typed, with the conformance checks as tests, a spec that runs in seconds, a README and CI. The component "
            "is named as NAME is, without a leading 'avrobust-'. Either all is written or nothing."
        ),
    )
    parser.add_argument("dist", metavar="NAME", help="the distribution's name, such as avrobust-loudness")
    parser.add_argument(
        "--kind",
        metavar="K",
        required=True,
        help="what the component is: dataset, encoder, fusion, attack, metric, augmentation or tracker",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path(), help="the folder above it; here by default, made if need be"
    )
    parser.set_defaults(run=run_new_plugin)


def run_new_plugin(args: argparse.Namespace) -> int:
    """Carry out `avrobust new-plugin`.

    Returns:
        0.

    Raises:
        UsageError: if there is no such kind, or the name will not do.
        FolderTaken: if the folder is there already.
    """
    from avrobust_core.config.suggest import did_you_mean
    from avrobust_core.registry.kinds import KINDS
    from avrobust_core.scaffold.names import NameRefused, Names
    from avrobust_core.scaffold.writing import rendered, spec_of, write_plugin

    if args.kind not in KINDS:
        hint = did_you_mean(args.kind, KINDS)
        raise UsageError(f"no kind of component is named {args.kind!r}{hint} (there are: {', '.join(KINDS)})")
    try:
        names = Names.of(args.dist)
        names.refuse_taken(installed(args))
    except NameRefused as error:
        raise UsageError(str(error)) from error
    files = rendered(names, args.kind)
    folder = args.out / names.distribution
    write_plugin(files, folder)
    say(f"wrote {folder}: {len(files)} files, with the {args.kind} {names.component!r}. What to change is in")
    say(f"    {folder / names.package / args.kind}.py")
    say("Next:")
    for command in (
        f"cd {folder}",
        "pip install -e '.[test]'",
        "pytest",
        f"avrobust check-plugin {names.distribution}",
        f"avrobust run {spec_of(names)}",
    ):
        say(f"    {command}")
    return 0
