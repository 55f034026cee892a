"""The command that shows a run: report."""

import argparse
from pathlib import Path

from avrobust_core.cli.layout import complain, say
from avrobust_core.plain_text import plain_text

REPORT = "report.html"
"""The file in a run's folder."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `report`."""
    report = commands.add_parser("report", help="write a run's report: one page that opens offline in a browser")
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's folder, such as runs/NAME")
    report.add_argument("--out", type=Path, metavar="FILE", help=f"where to (default: RUN/{REPORT})")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from avrobust_core.report.html.page import write_report

    out = options.folder / REPORT if options.out is None else options.out
    for sentence in write_report(options.folder, out):
        complain(plain_text(sentence))
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, opens offline")
    return 0
