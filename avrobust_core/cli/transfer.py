"""The command `avrobust transfer`: clips attacked on one network of a run, tried on the others."""

import argparse
from pathlib import Path

from avrobust_core.cli.layout import complain
from avrobust_core.cli.options import loaded_run
from avrobust_core.cli.output import print_json


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `transfer`."""
    transfer = commands.add_parser(
        "transfer",
        help="try clips that were attacked on one network of a run on the others",
        description="Attack clips on each network of a finished run, and on the mean of all others' logits, and try "
        "them on all of its networks: what a source breaks of each target. What is found is kept in a folder of its "
        "own, from which a call that was stopped goes on.",
    )
    transfer.add_argument("folder", type=Path, metavar="RUN", help="the folder of a finished run")
    transfer.add_argument("--attack", metavar="NAME", help="an attack of the run's spec (default: the first)")
    transfer.add_argument(
        "--threat", metavar="NAME", help="a threat of the spec (default: the attack's first of most modalities)"
    )
    transfer.add_argument("--clips", type=int, metavar="N", help="attack so many clips (default: those of the run)")
    transfer.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder to keep what is found in (default: RUN/transfers)"
    )
    transfer.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the spec"
    )
    transfer.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    transfer.add_argument("--quiet", action="store_true", help="show no progress")
    transfer.set_defaults(run=_transfer, resumes=True)


def _transfer(options: argparse.Namespace) -> int:
    from avrobust_core.notes import collected

    clips = [] if options.clips is None else [f"evaluation.clips={options.clips}"]
    loaded, registry = loaded_run(options, *clips)
    from avrobust_core.report.transfer_tables import print_transfer
    from avrobust_core.study.transferring import transfer

    with collected(lambda note: complain(f"note: {note}")):
        found = transfer(
            loaded,
            registry,
            options.folder,
            out=options.out,
            attack=options.attack,
            threat=options.threat,
            silent=options.quiet,
        )
    if options.json:
        print_json(found)
    else:
        print_transfer(found)
    return 1 if found["failures"] else 0
