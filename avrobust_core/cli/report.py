"""The command that shows a run: report; and the report at the end of one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core.blame import sentence
from avrobust_core.cli.layout import complain, say
from avrobust_core.cli.options import installed
from avrobust_core.plain_text import plain_text

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Registry

REPORT = "report.html"
"""The file in a run's folder."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `report`."""
    report = commands.add_parser("report", help="write a run's report: one page that opens offline in a browser")
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's folder, such as runs/NAME")
    report.add_argument("--out", type=Path, metavar="FILE", help=f"where to (default: RUN/{REPORT})")
    report.set_defaults(run=_report)


def report_of_ended(root: Path, registry: "Registry", *, silent: bool) -> Path | None:
    """Write the report of a run that has just ended, into its folder.

    Args:
        root: the run's folder.
        registry: of the components that are installed.
        silent: do not say where it is.

    Returns:
        The file; None if it could not be written, which is told and loses nothing of the run.
    """
    out = root / REPORT
    try:
        _write(root, out, registry)
    except Exception as error:  # noqa: BLE001  whatever it is: the run is done, and its results must not be lost with it
        complain(
            f"the report was not written: {sentence(error)}; the results are whole, and `avrobust report {root}` tries "
            "it again"
        )
        return None
    if not silent:
        _tell(out)
    return out


def _report(options: argparse.Namespace) -> int:
    out = options.folder / REPORT if options.out is None else options.out
    _write(options.folder, out, installed(options))
    _tell(out)
    return 0


def _write(root: Path, out: Path, registry: "Registry") -> None:
    from avrobust_core.report.html.page import write_report

    for missing in write_report(root, out, registry):
        complain(plain_text(missing))


def _tell(out: Path) -> None:
    say(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, opens offline")
