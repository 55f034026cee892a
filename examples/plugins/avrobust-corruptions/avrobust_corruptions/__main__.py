"""`python -m avrobust_corruptions RUN`: the robustness indices of a finished run."""

import argparse
import json
import sys
from pathlib import Path

from avrobust_core import AvrobustError
from avrobust_corruptions.runs import read_run, summary


def main(arguments: list[str] | None = None) -> int:
    """Print the indices of each cell of a run; returns the exit status, 2 if there is nothing to print."""
    parser = argparse.ArgumentParser(prog="python -m avrobust_corruptions", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run with attacks `corruption`")
    parser.add_argument("--threat", help="under which threat; needed where there are several")
    parser.add_argument(
        "--reference", metavar="CELL", help="the cell by whose errors mCE and relative mCE are measured"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        found = summary(read_run(given.run, given.threat), given.reference)
    except AvrobustError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if given.json:
        sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
        return 0
    for entry in found:
        line = f"{entry['cell']}: clean accuracy {entry['clean_accuracy']:.3f}"
        for name in ("absolute", "relative"):
            line += f", {name} robustness " + "{value:.3f} [{low:.3f}, {high:.3f}]".format(**entry[name])
        if "mce" in entry:
            line += f", mCE {entry['mce']:.3f}, relative mCE {entry['relative_mce']:.3f}"
        sys.stdout.write(f"{line} (kinds: {entry['kinds']})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
