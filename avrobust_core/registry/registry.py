"""The registry: the components of the installed plugins, by kind and name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import ComponentError
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry, Status, declared, normalised
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.loading import PluginFault, load

__all__ = ["PluginFault", "PluginRecord", "Registry", "RegistryEntry", "Status"]

DISABLE_VARIABLE = "AVROBUST_DISABLE_PLUGINS"
STRICT_VARIABLE = "AVROBUST_STRICT_PLUGINS"

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


class Registry:
    """The components that the installed plugins offer.

    A component's full name is `dist:name`. Its bare name will do where one distribution only offers it for that
    kind; where several do, using the bare name is an error that lists the full ones.

    Args:
        plugins: the plugins, loaded or not; see `Registry.discover`.
    """

    def __init__(self, plugins: Iterable[PluginRecord]) -> None:
        self.plugins: tuple[PluginRecord, ...] = tuple(plugins)
        """Every plugin that was found, whatever its status."""
        entries = [entry for plugin in self.plugins for entry in plugin.entries]
        order = list(KINDS).index
        self._entries = tuple(sorted(entries, key=lambda o: (order(o.kind), o.component.name, o.full_name)))

    @classmethod
    def discover(cls, *, disabled: Iterable[str] = (), strict: bool | None = None) -> Registry:
        """Find and load the installed plugins.

        A plugin that fails is recorded as broken, offers nothing, and takes no other with it.

        Args:
            disabled: plugins not to import: an entry point's name, `dist:entry-point`, or a distribution's name.
                The environment variable AVROBUST_DISABLE_PLUGINS adds more, separated by commas.
            strict: raise what the first broken plugin raised; by default as AVROBUST_STRICT_PLUGINS=1 says.

        Raises:
            ComponentError: if a disabled name matches no plugin, or AVROBUST_STRICT_PLUGINS is neither on nor off.
            Exception: in strict mode, whatever a plugin raised.
        """
        strict = _strict_from_environment() if strict is None else strict
        found = declared()
        left_out = _disabled(found, disabled)
        plugins: list[PluginRecord] = []
        for position, plugin in enumerate(found):
            loaded = plugin
            if position in left_out:
                loaded = replace(plugin, status="disabled", error=None)
            elif plugin.status == "ok":
                loaded = load(plugin, plugins, strict=strict)
            elif plugin.status == "broken" and strict:
                raise PluginFault(f"plugin {plugin.full_name}: {plugin.error}")
            plugins.append(loaded)
        return cls(plugins)

    def entries(self, kind: str | None = None) -> tuple[RegistryEntry, ...]:
        """The components of one kind or of all, in the order of the kinds and then of the names.

        Raises:
            ComponentError: if there is no such kind.
        """
        if kind is None:
            return self._entries
        if kind not in KINDS:
            raise ComponentError(
                f"no kind of component is named {kind!r}{did_you_mean(kind, KINDS)} (there are: {', '.join(KINDS)})"
            )
        return tuple(entry for entry in self._entries if entry.kind == kind)

    def find(self, name: str, kind: str | None = None) -> tuple[RegistryEntry, ...]:
        """Every component that a bare or full name fits, of one kind or of all.

        Raises:
            ComponentError: if there is none; the message says what may have been meant, and which plugins are out.
        """
        entries = tuple(entry for entry in self.entries(kind) if entry.is_named(name))
        if not entries:
            raise ComponentError(self._not_found(name, kind))
        return entries

    def resolve(self, kind: str, name: str) -> RegistryEntry:
        """The one component of this kind with this name, bare or full.

        Raises:
            ComponentError: if there is none, or if the bare name is offered by several distributions.
        """
        entries = self.find(name, kind)
        if len(entries) > 1:
            choices = " or ".join(repr(entry.full_name) for entry in entries)
            raise ComponentError(f"{kind} {name!r} is offered by {len(entries)} distributions: write {choices}")
        return entries[0]

    def short_name(self, entry: RegistryEntry) -> str:
        """The shortest name by which a spec can ask for a component: bare if that is unambiguous."""
        name = entry.component.name
        return name if len(self.find(name, entry.kind)) == 1 else entry.full_name

    def _not_found(self, name: str, kind: str | None) -> str:
        """The reason why a name fits nothing: a slip, another kind, or a plugin that was not loaded."""
        distribution, _, bare = name.rpartition(":")
        what = kind or "component"
        candidates = self.entries(kind)
        known = {entry.component.name for entry in candidates}
        if distribution:
            of_it = [entry for entry in candidates if normalised(entry.distribution) == normalised(distribution)]
            known = {entry.full_name for entry in of_it or candidates}
        text = f"no {what} is named {name!r}"
        if distribution and not any(plugin.is_of(distribution) for plugin in self.plugins):
            dists = {normalised(plugin.distribution) for plugin in self.plugins}
            text += f": no distribution {distribution!r} has plugins"
            text += did_you_mean(distribution, dists) or did_you_mean(name, known)
        else:
            there_are = f"; there are: {', '.join(sorted(known))}" if known and kind is not None else ""
            text += did_you_mean(name, known) or there_are
        elsewhere = [entry for entry in self._entries if entry.kind != kind and entry.is_named(name)]
        sentences = [text, *(f"{entry.full_name} is of another kind: {entry.kind}" for entry in elsewhere)]
        sentences += self._left_out(distribution, bare)
        return " ".join(f"{sentence}{'' if sentence.endswith('?') else '.'}" for sentence in sentences).rstrip(".")

    def _left_out(self, distribution: str, bare: str) -> list[str]:
        """Plugins that were not loaded and may have offered a name: those it points to, or the broken ones."""
        out = [plugin for plugin in self.plugins if plugin.status != "ok"]
        meant = [plugin for plugin in out if (plugin.is_of(distribution) if distribution else plugin.is_named(bare))]
        if meant:
            disabled = f"disabled (by --no-plugin or {DISABLE_VARIABLE})"
            why = {"disabled": disabled, "other-api": "", "broken": "broken: "}
            return [f"Plugin {plugin.full_name} is {why[plugin.status]}{plugin.error or ''}" for plugin in meant]
        broken = [plugin.full_name for plugin in out if plugin.status == "broken"]
        if broken and not distribution:
            plural = "plugin is" if len(broken) == 1 else "plugins are"
            return [f"{len(broken)} {plural} broken: {', '.join(broken)} (see avrobust plugins --broken)"]
        return []


def _strict_from_environment() -> bool:
    value = os.environ.get(STRICT_VARIABLE, "").strip().lower()
    if value not in _ON | _OFF:
        raise ComponentError(f"{STRICT_VARIABLE}={value!r} is neither on nor off: set it to 1 or 0")
    return value in _ON


def _disabled(plugins: list[PluginRecord], names: Iterable[str]) -> set[int]:
    """The positions of the plugins that are disabled by name, by argument or environment."""
    variable = os.environ.get(DISABLE_VARIABLE, "").split(",")
    wanted = [(name, "disabled (--no-plugin)") for name in names] + [(name, DISABLE_VARIABLE) for name in variable]
    positions: set[int] = set()
    for given, source in wanted:
        name = given.strip()
        if not name:
            continue
        matching = {position for position, plugin in enumerate(plugins) if plugin.is_named(name)}
        if not matching:
            known = {known for p in plugins for known in (p.name, p.full_name, normalised(p.distribution))}
            hint = did_you_mean(name, known) or f"; there are: {', '.join(p.full_name for p in plugins) or 'none'}"
            raise ComponentError(f"{source}: no plugin is named {name!r}{hint}")
        positions |= matching
    return positions
