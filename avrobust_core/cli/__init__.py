"""The command `avrobust`: parsing and exit statuses; each command's work is in its own module."""

import argparse
import os
import sys
from collections.abc import Sequence

from avrobust_core._version import __version__
from avrobust_core.errors import AvrobustError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 done; 1 something failed (a cell, a broken plugin that was asked for); 2 the spec or the
        command line is wrong; 3 all was done, but the audit contradicts a robust accuracy by more than its interval;
        130 interrupted.
    """
    from avrobust_core.cli import check, measure, plugins, run, spec

    parser = argparse.ArgumentParser(
        prog="avrobust", description="Measure and improve the adversarial robustness of multi-modal models."
    )
    parser.add_argument("--version", action="version", version=f"avrobust {__version__}")
    parser.add_argument(
        "--no-plugin",
        action="append",
        metavar="NAME",
        help="do not load this plugin (entry point, dist:entry-point or distribution); may be repeated",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run.add_parsers(commands)
    spec.add_parsers(commands)
    plugins.add_parsers(commands)
    check.add_parsers(commands)
    measure.add_parsers(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except AvrobustError as error:
        print(f"avrobust: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("avrobust: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `avrobust plugins | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
