"""The command `avrobust`: parsing, exit statuses, and how it ends; each command's work is in its own module."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from avrobust_core._version import __version__
from avrobust_core.blame import sentence
from avrobust_core.cli.layout import complain
from avrobust_core.cli.options import UsageError
from avrobust_core.cli.output import NAME as OUTPUT
from avrobust_core.cli.output import give_up_output, named_output
from avrobust_core.cli.stopping import Stopped, stoppable
from avrobust_core.cli.threads import settle_threads
from avrobust_core.errors import AvrobustError
from avrobust_core.ranks import ranks

PATIENCE = 10.0
"""Seconds that a process waits at most for what another has to say; a launcher ends it before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 done; 1 something failed (a cell, an attack, a metric, the system, a broken plugin that was
        asked for); 2 the spec or the command line is wrong; 3 all was done, but the audit contradicts a robust accuracy
        by more than its interval; 4 one of several processes died; 128 + n stopped by signal n: 129 SIGHUP, 130 SIGINT,
        143 SIGTERM.
    """
    if sys.stderr is None:  # closed by the caller: what print is told to write there would go to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lasts
    if sys.stdout is None:
        return _failed("standard output is closed: redirect it to a file, or to /dev/null")
    settle_threads()
    parser = command_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    try:
        if ranks().rank and not getattr(options, "several", False):
            return 0  # the first of several processes does it for all
        with named_output(json_alone=getattr(options, "json", False)), stoppable():
            status: int = options.run(options)
    except UsageError as error:
        return _misasked(f"avrobust: error: {error}")
    except AvrobustError as error:
        from avrobust_core.spec.problems import SpecError  # not for a command that succeeds

        if isinstance(error, SpecError):
            return _misasked(error)
        return _failed(str(error))
    except Stopped as stopped:
        return stopped.told(given, resumes=getattr(options, "resumes", False))
    except BrokenPipeError:  # the reader of our output went away, as `avrobust plugins | head` does
        give_up_output()
        return 1
    except OSError as error:
        if error.filename == OUTPUT:
            give_up_output()
        return _failed(sentence(error))
    except SystemExit as error:  # parsing is done: whoever calls this means to end a program that is not theirs
        return _failed(f"something called sys.exit, which would have ended the command: {sentence(error)}")
    return status


def command_parser() -> argparse.ArgumentParser:
    """The parser of the command line; what it gives holds, as `run`, the function that carries the command out."""
    from avrobust_core.cli import (
        bench,
        check,
        cite,
        compare,
        completion,
        data,
        doctor,
        export,
        measure,
        new_plugin,
        plugins,
        report,
        run,
        spec,
        transfer,
    )

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
    for module in (
        run,
        report,
        spec,
        compare,
        transfer,
        bench,
        export,
        cite,
        plugins,
        new_plugin,
        check,
        measure,
        data,
        doctor,
        completion,
    ):
        module.add_parsers(commands)
    return parser


def _misasked(what: object) -> int:
    """The status of a wrong spec or command line, which all of several processes read: the first of a machine says it.

    A launcher ends the others as soon as one has failed, so that these give it the time to.
    """
    if ranks().local == 0:
        complain(what)
    else:
        time.sleep(PATIENCE)
    return 2


def _failed(message: str) -> int:
    complain(f"avrobust: error: {message}")
    return 1
