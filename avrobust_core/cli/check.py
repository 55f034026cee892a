"""The command `avrobust check-plugin`: check that the components of a plugin keep to their contracts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from avrobust_core.cli.layout import say, terminal_width, wrapped
from avrobust_core.cli.options import installed
from avrobust_core.cli.output import print_json

if TYPE_CHECKING:
    from avrobust_core.registry.registry import PluginRecord, Registry, RegistryEntry
    from avrobust_core.testing.running import CheckOutcome

_WIDTH = len("not applicable")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets `run`, a function from the parsed arguments to the exit status."""
    parser = commands.add_parser(
        "check-plugin",
        help="check that a component, a plugin or a distribution keeps to the contracts",
        description=(
            "Run the conformance kit on a component, or on everything that a plugin or a distribution offers, each "
            "configured by its own example. The exit status is 1 if any check failed."
        ),
    )
    parser.add_argument(
        "name", metavar="NAME", help="a component (pgd, avrobust:pgd), a plugin (attacks) or a distribution (avrobust)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line per check")
    parser.set_defaults(run=run_check_plugin)


def run_check_plugin(args: argparse.Namespace) -> int:
    """Carry out `avrobust check-plugin`.

    Returns:
        0 if no check failed, else 1.

    Raises:
        ComponentError: if nothing has this name.
    """
    registry = installed(args)
    plugins, entries = _meant(registry, args.name)
    reports: list[dict[str, Any]] = []
    counts = dict.fromkeys(("passed", "failed", "not applicable"), 0)
    tell = _keep_quiet if args.json else say
    for kind, name, outcomes in _checked(registry, plugins, entries):
        tell(f"{kind} {name}")
        found = []
        for outcome in outcomes:
            found.append(asdict(outcome))
            counts[outcome.status] += 1
            tell("\n".join(_lines(outcome)))
            sys.stdout.flush()
        reports.append({"kind": kind, "name": name, "checks": found})
        tell()
    if args.json:
        print_json({"subjects": reports, "counts": counts}, indent=2)
    else:
        say(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


def _keep_quiet(text: object = "") -> None:
    """Say nothing, where only the JSON at the end is wanted."""


def _meant(registry: Registry, name: str) -> tuple[list[PluginRecord], list[RegistryEntry]]:
    """The plugins and components that a name means: a component's name first, then a plugin's or a distribution's."""
    from avrobust_core.errors import ComponentError

    try:
        return [], list(registry.find(name))
    except ComponentError as error:
        plugins = [plugin for plugin in registry.plugins if plugin.is_named(name)]
        if not plugins:
            known = ", ".join(sorted({p.full_name for p in registry.plugins})) or "none"
            raise ComponentError(
                f"{error}. No plugin or distribution has this name either; there are: {known}"
            ) from error
        return plugins, [entry for plugin in plugins for entry in plugin.entries]


def _checked(
    registry: Registry, plugins: list[PluginRecord], entries: list[RegistryEntry]
) -> Iterator[tuple[str, str, Iterator[CheckOutcome]]]:
    """Yield (kind, name, outcomes): of each plugin, then of each component."""
    from avrobust_core.testing.component_checks import PLUGIN_CHECKS, check_component, media_of
    from avrobust_core.testing.running import CheckOutcome, run_check

    for plugin in plugins:
        if plugin.status != "ok":
            why = plugin.error or f"the plugin is {plugin.status}"
            loads = CheckOutcome("loads", "The plugin is found, imported, and offers components.", (), "failed", why)
            yield "plugin", plugin.full_name, iter([loads])
        else:
            yield "plugin", plugin.full_name, (run_check(plugin, check) for check in PLUGIN_CHECKS)
    for entry in entries:
        datasets = registry.entries("dataset") if entry.kind in ("encoder", "fusion") else ()
        media = media_of(tuple(data for data in datasets if data.distribution == entry.distribution))
        yield entry.kind, entry.full_name, check_component(entry, media)


def _lines(outcome: CheckOutcome) -> list[str]:
    head = f"  {outcome.status.ljust(_WIDTH)}  {outcome.check}"
    if not outcome.reason:
        return [head]
    return wrapped(outcome.reason, terminal_width(), indent=_WIDTH + 4, first=f"{head}: ")
