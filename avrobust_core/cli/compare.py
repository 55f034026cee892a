"""The command `avrobust compare`: finished runs, clip by clip."""

import argparse
from pathlib import Path

from avrobust_core.cli.options import UsageError
from avrobust_core.cli.output import print_json


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare`."""
    compare = commands.add_parser(
        "compare",
        help="compare finished runs on the clips that they share",
        description="Compare finished runs, every two of them: paired differences in accuracy on the clips that both "
        "evaluated, the clips that flipped, and what differs in what the runs were asked and made with.",
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folders of two runs or more")
    compare.add_argument(
        "--pair",
        type=_pair,
        action="append",
        default=[],
        metavar="A=B",
        help="compare cell A of the earlier run with cell B of the later one, as model/training, or model for all "
        "regimes that both have; may be repeated (default: cells of the same model and training)",
    )
    compare.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    compare.set_defaults(run=_compare)


def _pair(text: str) -> tuple[str, str]:
    first, equals, second = text.partition("=")
    if not (first and equals and second):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A=B, as in concat/standard=sum/standard")
    return first, second


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        raise UsageError("compare needs two runs at least")
    from avrobust_core.report.run_comparison import print_run_comparison
    from avrobust_core.study.comparing_runs import compare_runs
    from avrobust_core.study.finished import read_run

    runs = [read_run(folder) for folder in options.runs]
    found = compare_runs(runs, options.pair)
    if options.json:
        print_json(found)
    else:
        print_run_comparison(found, {str(run.folder): run.result for run in runs})
    return 0
