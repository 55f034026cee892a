"""The command `avrobust check-plugin`: check that the components of a plugin keep to their contracts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from avrobust_core.cli.layout import say, terminal_width, wrapped
from avrobust_core.cli.options import UsageError, installed
from avrobust_core.cli.output import print_json

if TYPE_CHECKING:
    from avrobust_core.registry.registry import PluginRecord, Registry, RegistryEntry
    from avrobust_core.testing.running import CheckOutcome

_WIDTH = len("not applicable")

_STATUSES = ("passed", "failed", "not applicable", "not checked")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets `run`, a function from the parsed arguments to the exit status."""
    parser = commands.add_parser(
        "check-plugin",
        help="check that a component, a plugin or a distribution keeps to the contracts",
        description=(
            "Run the conformance kit on a component, or on everything that a plugin or a distribution offers, each "
            "configured by its own example. The exit status is 1 if any check failed, or if anything could not be "
            "checked."
        ),
    )
    parser.add_argument(
        "name", metavar="NAME", help="a component (pgd, avrobust:pgd), a plugin (attacks) or a distribution (avrobust)"
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="settings",
        metavar="FIELD=VALUE",
        help="configure the one component: a value, as in a spec, over its example's; can be repeated",
    )
    parser.add_argument("--kind", metavar="K", help="only components of this kind: dataset, encoder, fusion, ...")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line per check")
    parser.set_defaults(run=run_check_plugin)


def run_check_plugin(args: argparse.Namespace) -> int:
    """Carry out `avrobust check-plugin`.

    Returns:
        0 if everything was checked and no check failed, else 1.

    Raises:
        ComponentError: if nothing has this name, or the configuration is not valid.
        UsageError: if a configuration is given for several components, or is not of the form field=value.
    """
    registry = installed(args)
    plugins, entries = _meant(registry, args.name, args.kind)
    given = _configuration(args, registry, plugins, entries)
    reports: list[dict[str, Any]] = []
    counts = dict.fromkeys(_STATUSES, 0)
    tell = _keep_quiet if args.json else say
    unchecked: list[str] = []
    for kind, name, whose, outcomes in _checked(registry, plugins, entries, given):
        tell(f"{kind} {name} ({whose.pop('described')})")
        found = []
        for outcome in outcomes:
            found.append(asdict(outcome))
            counts[outcome.status] += 1
            if outcome.status == "not checked":
                unchecked.append(f"{kind} {name}: {outcome.reason}")
            tell("\n".join(_lines(outcome)))
            sys.stdout.flush()
        reports.append({"kind": kind, "name": name, **whose, "checks": found})
        tell()
    if not entries and not counts["failed"]:
        unchecked.append(f"{args.name}: it offers no component{f' of kind {args.kind!r}' if args.kind else ''}")
    if args.json:
        print_json({"subjects": reports, "counts": counts, "not checked": unchecked}, indent=2)
    else:
        for why in unchecked:
            say("\n".join(wrapped(why, terminal_width(), indent=4, first="Not checked: ")))
        say(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] or unchecked else 0


def _keep_quiet(text: object = "") -> None:
    """Say nothing, where only the JSON at the end is wanted."""


def _meant(registry: Registry, name: str, of_kind: str | None) -> tuple[list[PluginRecord], list[RegistryEntry]]:
    """The plugins and components that a name means: a component's name first, then a plugin's or a distribution's."""
    from avrobust_core.errors import ComponentError

    try:
        return [], list(registry.find(name, of_kind))
    except ComponentError as error:
        plugins = [plugin for plugin in registry.plugins if plugin.is_named(name)]
        if not plugins:
            known = ", ".join(sorted({p.full_name for p in registry.plugins})) or "none"
            raise ComponentError(
                f"{error}. No plugin or distribution has this name either; there are: {known}"
            ) from error
        return plugins, [e for plugin in plugins for e in plugin.entries if of_kind in (None, e.kind)]


def _configuration(
    args: argparse.Namespace, registry: Registry, plugins: list[PluginRecord], entries: list[RegistryEntry]
) -> dict[str, object] | None:
    """The configuration of the one component that is meant: its example with what `--with` says; None without it."""
    from avrobust_core.registry.choices import configure
    from avrobust_core.spec.nodes import MapNode, Place, plain
    from avrobust_core.spec.tree import apply_override

    if not args.settings:
        return None
    if plugins or len(entries) != 1:
        meant = ", ".join(f"{entry.kind} {entry.full_name}" for entry in entries) or "none"
        raise UsageError(
            f"--with configures one component, and {args.name!r} means {len(entries)}: {meant}. Give the full name of "
            "one, and its --kind if it is offered as several"
        )
    root = MapNode({}, {}, Place("--with", 1, 1, ""))
    for argument in args.settings:
        root, problems = apply_override(root, argument)
        if problems:
            said = "; ".join(problem.message for problem in problems).replace("path=value", "field=value")
            raise UsageError(f"--with {argument}: {said}")
    (entry,) = entries
    given: dict[str, object] = {**entry.component.example, **plain(root)}
    configure(registry, entry.kind, entry.full_name, given)
    return given


def _checked(
    registry: Registry,
    plugins: list[PluginRecord],
    entries: list[RegistryEntry],
    given: dict[str, object] | None,
) -> Iterator[tuple[str, str, dict[str, Any], Iterator[CheckOutcome]]]:
    """Yield (kind, name, whose it is, outcomes): of each plugin, then of each component."""
    from avrobust_core.testing.component_checks import PLUGIN_CHECKS, check_component, media_of
    from avrobust_core.testing.running import CheckOutcome, run_check

    for plugin in plugins:
        if plugin.status != "ok":
            why = plugin.error or f"the plugin is {plugin.status}"
            loads = CheckOutcome("loads", "The plugin is found, imported, and offers components.", (), "failed", why)
            yield "plugin", plugin.full_name, _whose(plugin), iter([loads])
        else:
            yield "plugin", plugin.full_name, _whose(plugin), (run_check(plugin, check) for check in PLUGIN_CHECKS)
    for entry in entries:
        datasets = registry.entries("dataset") if entry.kind in ("encoder", "fusion") else ()
        media = media_of(tuple(data for data in datasets if data.distribution == entry.distribution))
        yield entry.kind, entry.full_name, _whose(entry), check_component(entry, media, given)


def _whose(found: PluginRecord | RegistryEntry) -> dict[str, Any]:
    """What a name resolved to: distribution, plugin, versions; and all of it `described`, for people."""
    from avrobust_core.registry.registry import RegistryEntry

    distribution = f"{found.distribution} {found.distribution_version}"
    whose: dict[str, Any] = {"distribution": found.distribution, "distribution_version": found.distribution_version}
    if isinstance(found, RegistryEntry):
        version = found.component.version
        described = f"version {version}, plugin {found.plugin} of {distribution}"
        return {**whose, "plugin": found.plugin, "version": version, "described": described}
    return {**whose, "module": found.module, "described": f"{found.module} of {distribution}"}


def _lines(outcome: CheckOutcome) -> list[str]:
    head = f"  {outcome.status.ljust(_WIDTH)}  {outcome.check}"
    if not outcome.reason:
        return [head]
    return wrapped(outcome.reason, terminal_width(), indent=_WIDTH + 4, first=f"{head}: ")
