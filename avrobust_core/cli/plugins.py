"""The commands `avrobust plugins` and `avrobust show`: the installed plugins, and the use of each component.

What imports pydantic or pluggy is imported inside the commands, so that parsing the command line costs nothing.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from avrobust_core.cli.layout import GAP, say, table, terminal_width, wrapped
from avrobust_core.cli.options import installed
from avrobust_core.cli.output import print_json

if TYPE_CHECKING:
    from avrobust_core.registry.registry import PluginRecord, Registry, RegistryEntry


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands; each sets `run`, a function from the parsed arguments to the exit status."""
    plugins = commands.add_parser(
        "plugins",
        help="list the installed plugins and what they offer",
        description="List the installed plugins, broken ones with the reason, and the components that they offer.",
    )
    plugins.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    plugins.add_argument(
        "--kind", metavar="K", help="only components of this kind: dataset, encoder, fusion, attack, metric, ..."
    )
    plugins.add_argument(
        "--broken", action="store_true", help="list only the broken plugins; the exit status is 1 if there are any"
    )
    plugins.set_defaults(run=run_plugins)

    show = commands.add_parser(
        "show",
        help="describe a component: its configuration, sources and an example",
        description="Describe every component of this name: its configuration, its sources, and an example for a spec.",
    )
    show.add_argument("name", metavar="NAME", help="a component's name, bare (pgd) or full (avrobust:pgd)")
    show.add_argument(
        "--json", action="store_true", help="print one JSON object, with each configuration's JSON Schema"
    )
    show.set_defaults(run=run_show)


def run_plugins(args: argparse.Namespace) -> int:
    """Carry out `avrobust plugins`.

    Returns:
        0, also where plugins are broken: listing them worked. With `--broken`, 1 if there are any.

    Raises:
        ComponentError: if `--kind` or `--no-plugin` names what there is not.
    """
    registry = _discover(args)
    entries = registry.entries(args.kind)
    plugins = registry.plugins
    if args.broken:
        plugins, entries = tuple(plugin for plugin in plugins if plugin.status == "broken"), ()
    elif args.kind is not None:
        plugins = tuple(
            plugin for plugin in plugins if plugin.status != "ok" or {args.kind} & {o.kind for o in plugin.entries}
        )
    if args.json:
        print_json(_plugins_object(plugins, entries), indent=2)
    else:
        say("\n".join(_plugins_text(registry, plugins, entries, broken_only=args.broken)))
    return 1 if args.broken and plugins else 0


def run_show(args: argparse.Namespace) -> int:
    """Carry out `avrobust show`.

    Returns:
        0.

    Raises:
        ComponentError: if nothing has this name.
    """
    from avrobust_core.cli import component_text

    registry = _discover(args)
    entries = registry.find(args.name)
    if args.json:
        print_json({"components": [component_text.as_object(entry) for entry in entries]}, indent=2, default=str)
    else:
        blocks = [component_text.described(entry, registry.short_name(entry), terminal_width()) for entry in entries]
        said = [wrapped(sentence, terminal_width(), indent=0) for sentence in registry.rivalries(args.name)]
        say("\n\n\n".join("\n".join(block) for block in (*said, *blocks)))
    return 0


def _discover(args: argparse.Namespace) -> Registry:
    with _no_collection():
        return installed(args)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector off what is imported: it lives until the process ends, and looking at it costs 20 ms.

    Half of that is spent in the collection at exit, which passes over what is frozen.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


_TOLD = ("name", "full_name", "distribution", "distribution_version", "module", "group", "status", "error")


def _plugins_object(plugins: Sequence[PluginRecord], entries: Sequence[RegistryEntry]) -> dict[str, Any]:
    return {
        "plugins": [
            {
                **{name: getattr(plugin, name) for name in _TOLD},
                "milliseconds": round(plugin.milliseconds, 3),
                "components": [{"kind": entry.kind, "name": entry.full_name} for entry in plugin.entries],
            }
            for plugin in plugins
        ],
        "components": [entry.to_json() for entry in entries],
    }


def _plugins_text(
    registry: Registry, plugins: Sequence[PluginRecord], entries: Sequence[RegistryEntry], *, broken_only: bool
) -> Iterator[str]:
    if not plugins:
        yield "No plugin is broken." if broken_only else "No plugins are installed."
        return
    width = terminal_width()
    head = ("plugin", "version", "status", "ms", "offers")
    rows = [
        (
            plugin.full_name,
            plugin.distribution_version,
            plugin.status,
            f"{plugin.milliseconds:.1f}" if plugin.status in {"ok", "broken"} else "-",
            str(len(plugin.entries)),
        )
        for plugin in plugins
    ]
    head_line, *lines = table([head, *rows], right={3, 4})
    yield head_line
    for plugin, line in zip(plugins, lines, strict=True):
        yield line
        if plugin.error is not None:
            yield from wrapped(plugin.error, width, indent=4)
        if plugin.slowness is not None:
            yield from wrapped(plugin.slowness, width, indent=4)
    for name in sorted({entry.component.name for entry in entries}):
        for sentence in registry.rivalries(name):
            yield from ("", *wrapped(sentence, width, indent=0))
    several = len({plugin.distribution for plugin in plugins}) > 1
    for kind, of_kind in groupby(entries, key=lambda entry: entry.kind):
        yield from ("", kind)
        yield from _components_text(registry, list(of_kind), width, several=several)


def _components_text(
    registry: Registry, entries: Sequence[RegistryEntry], width: int, *, several: bool
) -> Iterator[str]:
    """Yield a line or more per component: the name that a spec may use, the distribution if it matters, the summary."""
    columns = [(GAP + registry.short_name(entry), *((entry.distribution,) if several else ())) for entry in entries]
    for line, entry in zip(table(columns, pad_last=True), entries, strict=True):
        yield from wrapped(entry.component.summary, width, indent=len(line) + len(GAP), first=line + GAP)
